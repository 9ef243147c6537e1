# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program or a file that is not there is named, with what to do about it; a program does not outlive us."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.cipher import start
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import _secret
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    ConfigError,
    HostError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.host_programs import (
    end,
    run_program,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.keyring import identity_of
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recipients import (
    recipients_of_file,
)

_ENGINE_PARENT = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"


@pytest.mark.parametrize("begin", [start, run_program])
@pytest.mark.parametrize(
    ("program", "package"),
    [("rclone", "rclone"), ("age-keygen", "age"), ("gpg-connect-agent", "gnupg")],
)
def test_the_package_of_a_program_that_is_missing_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[list[str]], object],
    program: str,
    package: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=f"{program} is missing .*Install the package {package}\\."):
        begin([program])


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (_secret, "The secret"),
        (recipients_of_file, "The public keys"),
    ],
)
def test_a_file_of_a_key_or_a_secret_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, read: Callable[[Path], object], what: str
) -> None:
    with pytest.raises(HostError, match=f"{what} in .*absent cannot be read: No such file"):
        read(tmp_path / "absent")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(HostError, match=f"{what} in .*binary cannot be read: it is no text"):
        read(binary)


def test_a_private_key_that_cannot_be_read_is_none_and_the_reason_is_kept(tmp_path: Path) -> None:
    absent = identity_of("", tmp_path / "absent")
    assert absent.text == ""
    assert absent.lacking.endswith("absent cannot be read: No such file or directory")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert "it is no text" in identity_of("", binary).lacking


def test_the_mark_that_editors_of_windows_put_in_front_is_no_part_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("\ufeffage1ours\r\n", encoding="utf-8")
    assert recipients_of_file(path) == ("age1ours",)
    assert identity_of("", path).text.startswith("age1ours")
    assert identity_of("\ufeffage1ours", None).text == "age1ours"


_ARMORED = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQGN\n-----END PGP PUBLIC KEY BLOCK-----\n"


@pytest.mark.parametrize(
    "beside",
    [
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQGN\n",
        "age1ours",
        "  ssh-ed25519 AAAA who@where",
        "3FF99552158097C8279BBB1CAB2575E693E29A4D",
        "3FF9 9552 1580 97C8 279B  BB1C AB25 75E6 93E2 9A4D",
    ],
)
def test_no_key_beside_armored_ones_disappears_without_a_word(tmp_path: Path, beside: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# age1 of old\n{_ARMORED}ours\n{_ARMORED}")
    assert len(recipients_of_file(path)) == 2
    for text in (f"{_ARMORED}{beside}\n", f"{beside}\n{_ARMORED}"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="beside them a key"):
            recipients_of_file(path)


@pytest.mark.parametrize("begin", ["cipher.start", "cipher.call", "host_programs.run_program"])
def test_a_program_goes_with_the_process_that_started_it(begin: str) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(_ENGINE_PARENT)!r})
from _engine import cipher, host_programs
kept = {begin}(["sh", "-c", "echo $$ >FD; exec sleep 1000"])
time.sleep(1000)
"""
    reader, writer = os.pipe()
    # The shell tells its process id through our end of a pipe.
    told = code.replace(">FD", f">/proc/{os.getpid()}/fd/{writer}")
    parent = subprocess.Popen([sys.executable, "-c", told])
    try:
        child = int(os.read(reader, 20))
        ended = os.pidfd_open(child)
        parent.kill()
        parent.wait()
        is_over = select.select([ended], [], [], 60)[0]
        os.close(ended)
        assert is_over, "the program lives on"
    finally:
        parent.kill()
        parent.wait()
        with contextlib.suppress(NameError, ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        for descriptor in (reader, writer):
            os.close(descriptor)


def test_the_number_of_a_program_that_has_ended_is_not_believed_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, unused_signal: asked.append(group))
    process = start(("true",))
    process.wait()
    end(process)
    assert asked == []
