# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way to a host over SSH: one login that all programs which are started through it share."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .host_programs import end, pipe, start
from .targets import RsyncTarget

#: ssh ends with it when the connection is what failed (ssh(1), "EXIT STATUS").
FAILED = 255
_LOGIN_S = 60


def _computes_aes() -> bool:
    """Whether the processor has instructions for AES, which then takes a fraction of the time that ChaCha20 takes, which
    ssh prefers. A Raspberry Pi 4 has none."""
    words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    return "aes" in words


class Ssh:
    """It logs in when it is first needed, and again when the connection was lost; close() is for its end.

    To log in costs a small host a good part of a second each time, and a copy asks its far end five times.

    :param directory: a private directory with a short path: that of a socket has 107 bytes at the most (unix(7)).
    """

    def __init__(self, target: RsyncTarget, directory: Path) -> None:
        self._socket = directory / "ssh"
        self._to = f"{target.user}@{target.host}"
        words = ["ssh", "-F", "/dev/null", "-p", str(target.port), "-i", str(target.identity_file)]
        for option in (
            *("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"),
            *(f'UserKnownHostsFile="{target.known_hosts_file}"', "GlobalKnownHostsFile=/dev/null"),
            *("ConnectTimeout=20", "ServerAliveInterval=15", "ServerAliveCountMax=4"),
            *("ForwardAgent=no", "UpdateHostKeys=no", f'ControlPath="{self._socket}"'),
            *(["Ciphers=^aes128-gcm@openssh.com"] if _computes_aes() else []),
        ):
            words += ["-o", option]
        self._words: Sequence[str] = words
        self._process: subprocess.Popen[bytes] | None = None
        self._is_shared = False

    @property
    def shell(self) -> str:
        """The command that other programs take for `ssh`, in the quoting of a shell."""
        # Were the program killed that started it, it would wait for a far end that does not answer.
        return shlex.join(["setpriv", "--pdeathsig", "KILL", *self._words])

    def begin(self) -> None:
        """Starts to log in, unless that is done or under way, and does not wait for it.

        :raises HostError: ssh is not installed.
        """
        if self._process and not (self._is_shared and self._process.poll() is not None):
            return
        self.close()
        # The command is run once others can share the connection, and its output tells us so.
        sharing = ["-M", "-N", "-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo"]
        self._process = start(
            [*self._words, *sharing, self._to],
            environment={**os.environ, "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh"},
        )

    def open(self) -> str:
        """Logs in, unless that is done. Returns why it failed, "" when it did not.

        :raises HostError: ssh is not installed.
        """
        self.begin()
        if self._is_shared or not self._process:
            return ""
        output = pipe(self._process.stdout)
        ready, unused_writable, unused_broken = select.select([output], [], [], _LOGIN_S)
        if ready and output.read(1):
            self._is_shared = True
            return ""
        if not ready:
            self.close()
            return f"no login within {_LOGIN_S} s"
        messages = pipe(self._process.stderr).read().decode(errors="replace")
        self.close()
        return messages.strip() or "ssh ended before it had logged in"

    def close(self) -> None:
        """Logs out; the next that needs the connection makes another one."""
        if self._process:
            end(self._process)
            self._process = None
        self._is_shared = False
        self._socket.unlink(missing_ok=True)
