# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rclone that a run keeps: nobody else can ask it, it comes back when it died, and it does not outlive the run."""

from __future__ import annotations

import http.client
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from far_ends import LOCAL, free_port, rclone_config, running

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    HostError,
    OffsiteError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.rclone_server import (
    NotThereError,
    RcloneServer,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import RcloneTarget

pytestmark = pytest.mark.integration

_ENGINE_PARENT = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"


@pytest.fixture
def target(tmp_path: Path) -> RcloneTarget:
    return RcloneTarget(
        "disk", f"far:{tmp_path}", rclone_config(tmp_path / "far.conf", {"type": "local"})
    )


@pytest.fixture
def server(target: RcloneTarget) -> Iterator[RcloneServer]:
    found = RcloneServer(target)
    yield found
    found.close()


def listed(server: RcloneServer, path: Path) -> list[str]:
    return [
        one["Name"] for one in server.ask("operations/list", fs=f"far:{path}", remote="")["list"]
    ]


def copied(server: RcloneServer, room: Path) -> None:
    server.ask(
        "operations/copyfile",
        srcFs=str(room),
        srcRemote="noise",
        dstFs=f"far:{room / 'there'}",
        dstRemote="noise",
    )


def servers(config: Path) -> list[int]:
    """The remote controls that run with this configuration."""
    found = subprocess.run(
        ["pgrep", "--full", f"rclone rcd .*{config}"], check=False, capture_output=True, text=True
    )
    return [int(line) for line in found.stdout.split()]


def test_it_is_started_once_and_ends_with_the_run(
    server: RcloneServer, target: RcloneTarget, tmp_path: Path
) -> None:
    assert listed(server, tmp_path) == ["far.conf"]
    running = servers(target.config_file)
    assert len(running) == 1
    assert listed(server, tmp_path) == ["far.conf"]
    assert servers(target.config_file) == running
    server.close()
    assert servers(target.config_file) == []


def test_nobody_without_its_password_can_ask_it_and_no_argument_tells_it(
    server: RcloneServer, target: RcloneTarget, tmp_path: Path
) -> None:
    listed(server, tmp_path)
    (running,) = servers(target.config_file)
    environment = Path(f"/proc/{running}/environ").read_text(encoding="utf-8").split("\0")
    (secret,) = [
        line.partition("=")[2] for line in environment if line.startswith("RCLONE_RC_PASS=")
    ]
    assert len(secret) > 30
    assert secret not in Path(f"/proc/{running}/cmdline").read_text(encoding="utf-8")
    sockets = subprocess.run(
        ["ss", "--listening", "--tcp", "--numeric", "--processes"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (address,) = re.findall(rf"(\S+:\d+) .*pid={running},", sockets)
    connection = http.client.HTTPConnection(address)
    connection.request("POST", "/operations/list", "{}", {"Content-Type": "application/json"})
    assert connection.getresponse().status == http.HTTPStatus.UNAUTHORIZED
    connection.close()
    assert address.startswith("127.0.0.1:")


def test_what_the_user_set_for_programs_of_his_own_does_not_disturb_it(
    target: RcloneTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "RCLONE_RC_ADDR": "127.0.0.1:1",
        "RCLONE_RC_BASEURL": "/elsewhere",
        "RCLONE_RC_CERT": str(tmp_path / "none"),
        "RCLONE_LOG_LEVEL": "ERROR",
        "RCLONE_VERBOSE": "1",
        "RCLONE_RC_SERVER_WRITE_TIMEOUT": "1s",
        "RCLONE_LOG_FILE": str(tmp_path / "log"),
        "http_proxy": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    server = RcloneServer(target)
    try:
        assert listed(server, tmp_path) == ["far.conf"]
    finally:
        server.close()


def test_a_file_that_is_not_there_is_told_from_a_command_that_it_does_not_know(
    server: RcloneServer, tmp_path: Path
) -> None:
    with pytest.raises(NotThereError, match="directory not found"):
        listed(server, tmp_path / "none")
    with pytest.raises(OffsiteError, match="couldn't find method") as caught:
        server.ask("operations/unheard-of")
    assert not isinstance(caught.value, NotThereError)


def test_one_that_died_is_told_and_started_again(
    server: RcloneServer, target: RcloneTarget, tmp_path: Path
) -> None:
    listed(server, tmp_path)
    (running,) = servers(target.config_file)
    os.kill(running, signal.SIGKILL)
    os.waitid(os.P_PID, running, os.WEXITED | os.WNOWAIT)
    assert listed(server, tmp_path) == ["far.conf"]
    (other,) = servers(target.config_file)
    assert other != running


def test_one_that_ends_over_a_question_is_told_in_its_own_words(tmp_path: Path) -> None:
    config = tmp_path / "far.conf"
    config.write_text("# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\n" + "A" * 100)
    server = RcloneServer(RcloneTarget("disk", "far:x", config))
    with pytest.raises(
        OffsiteError, match=r"^Failed to load config file .*: unable to decrypt configuration"
    ):
        server.ask("operations/list", fs="far:x", remote="")
    assert servers(config) == []


def test_one_that_is_killed_over_a_question_does_not_repeat_an_older_answer(
    target: RcloneTarget, tmp_path: Path
) -> None:
    server = RcloneServer(replace(target, max_bytes_per_s=1000))
    with pytest.raises(NotThereError):
        listed(server, tmp_path / "none")
    (tmp_path / "noise").write_bytes(os.urandom(1_000_000))
    (running,) = servers(target.config_file)
    killer = threading.Timer(1, os.kill, (running, signal.SIGKILL))
    killer.start()
    with pytest.raises(OffsiteError, match=r"^rclone was ended by SIGKILL: is there too little"):
        copied(server, tmp_path)
    killer.join()


def test_an_answer_may_take_as_long_as_it_takes(
    target: RcloneTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By itself it gives up after an hour. Of two values it takes the last.
    program = tmp_path / "programs" / "rclone"
    program.parent.mkdir()
    short = "--rc-server-read-timeout=1s --rc-server-write-timeout=1s"
    program.write_text(f'#!/bin/sh\nshift\nexec {shutil.which("rclone")} rcd {short} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "noise").write_bytes(os.urandom(1_000_000))
    server = RcloneServer(replace(target, max_bytes_per_s=200_000))
    begun = time.monotonic()
    try:
        copied(server, tmp_path)
    finally:
        server.close()
    assert time.monotonic() - begun > 2


def test_a_remote_that_wants_to_ask_somebody_fails(tmp_path: Path) -> None:
    port = free_port()
    settings = {"type": "sftp", "host": LOCAL, "port": str(port), "user": "shop"}
    config = rclone_config(tmp_path / "far.conf", {**settings, "ask_password": "true"})
    command = ["rclone", "serve", "sftp", str(tmp_path), "--addr", f"{LOCAL}:{port}"]
    login = {"RCLONE_USER": "shop", "RCLONE_PASS": "not-a-secret"}
    server = RcloneServer(RcloneTarget("nas", "far:x", config))
    with running(command, port, tmp_path / "log", login):
        try:
            with pytest.raises(OffsiteError, match="EOF"):
                server.ask("operations/list", fs="far:x", remote="")
        finally:
            server.close()


def test_without_rclone_the_package_is_named(
    target: RcloneTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="Install the package rclone"):
        RcloneServer(target).begin()


def test_it_does_not_outlive_a_process_that_is_killed(target: RcloneTarget, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from _engine.rclone_server import RcloneServer;"
        "from _engine.targets import RcloneTarget;"
        "server = RcloneServer(RcloneTarget('disk', 'far:x', Path(sys.argv[1])));"
        "server.ask('operations/fsinfo', fs='far:x'); print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(target.config_file)],
        env={**os.environ, "PYTHONPATH": str(_ENGINE_PARENT)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        (running,) = servers(target.config_file)
        ended = os.pidfd_open(running)
        process.kill()
        try:
            assert select.select([ended], [], [], 30)[0]
        finally:
            os.close(ended)
