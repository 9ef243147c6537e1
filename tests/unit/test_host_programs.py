# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program or a file that is not there is named, with what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.cipher import start
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import _secret
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import HostError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.host_programs import (
    run_program,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.keyring import identity_of
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recipients import (
    recipients_of_file,
)


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
        (lambda path: identity_of("", path), "The private key"),
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
