# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory that rsync reaches over SSH, as a store. Only rsync is asked of the far end, no shell."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

from .errors import OffsiteError
from .host_programs import Ended, run_program
from .manifest import FileEntry
from .stores import Store
from .targets import RsyncTarget

_LINE = re.compile(r"-\S+\s+(?P<size>[\d,.]+)\s+[\d/]+ [\d:]+ (?P<name>.+)")
#: "Partial transfer due to error", with which rsync(1) also says that something is not there.
_PARTIAL = 23
_IDLE_S = 60
#: What an interrupted upload leaves is kept there, so that the next one goes on with it.
_PARTS = ".firedrill-partial"


class RsyncStore(Store):
    """The directory `folder` in the path of a target, which has to be there: it may be where a disk is mounted."""

    def __init__(self, target: RsyncTarget, folder: str) -> None:
        super().__init__(target.name, f"{target.place}/{folder}")
        self._base = f"{target.user}@{target.host}:{target.path}"
        # Were rsync killed, its ssh would wait for a far end that does not answer.
        ssh = ["setpriv", "--pdeathsig", "KILL", "ssh", "-F", "/dev/null", "-p", str(target.port)]
        ssh += ["-i", str(target.identity_file)]
        for option in (
            *("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"),
            *(f'UserKnownHostsFile="{target.known_hosts_file}"', "GlobalKnownHostsFile=/dev/null"),
            *("ConnectTimeout=20", "ServerAliveInterval=15", "ServerAliveCountMax=4"),
            *("ForwardAgent=no", "UpdateHostKeys=no"),
        ):
            ssh += ["-o", option]
        self._shell = shlex.join(ssh)
        self._limit = (
            [f"--bwlimit={max(1, target.max_bytes_per_s // 1024)}"]
            if target.max_bytes_per_s
            else []
        )

    def listing(self) -> dict[str, int]:
        ended = self._run("--list-only", f"{self.place}/")
        if _is_missing(ended):
            self._check(
                self._run("--list-only", f"{self._base}/"), "its directory cannot be listed"
            )
            return {}
        self._check(ended, "it could not be listed")
        return _sizes(ended)

    def size(self, name: str) -> int | None:
        ended = self._run("--list-only", self._path(name))
        if _is_missing(ended):
            return None
        self._check(ended, f"{name} could not be looked up")
        return _sizes(ended).get(name)

    def put(self, path: Path, name: str) -> None:
        if path.name != name:
            raise OffsiteError(f"{path} is called {name} in its manifest: it was renamed")
        options = [
            "--ignore-times",
            "--perms",
            "--chmod=F600",
            f"--partial-dir={_PARTS}",
            *self._limit,
        ]
        self._check(
            self._run(*options, str(path), f"{self.place}/"), f"{name} could not be uploaded"
        )

    def proof(self, path: Path, entry: FileEntry) -> str:
        options = ["--dry-run", "--checksum", "--checksum-choice=md5", "--itemize-changes"]
        ended = self._run(*options, str(path), f"{self.place}/")
        self._check(ended, f"{entry.name} could not be compared")
        # A line for each file that it would send.
        return "" if ended.stdout.strip() else "md5"

    def get(self, name: str, path: Path) -> None:
        ended = self._run("--chmod=F600", "--perms", *self._limit, self._path(name), str(path))
        self._check(ended, f"{name} could not be downloaded")

    def delete(self, name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="firedrill-") as empty:
            # What is excluded is protected; what is included and missing here goes there.
            rules = ["--recursive", "--delete", f"--include=/{name}", "--exclude=*"]
            self._check(
                self._run(*rules, f"{empty}/", f"{self.place}/"), f"{name} could not be removed"
            )

    # -- how it is asked -----------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _run(self, *arguments: str) -> Ended:
        return run_program(
            [
                "rsync",
                "--no-human-readable",
                f"--timeout={_IDLE_S}",
                f"--rsh={self._shell}",
                *arguments,
            ]
        )

    def _check(self, ended: Ended, what: str) -> None:
        if ended.status:
            why = _told(ended) or f"rsync ended with status {ended.status}"
            raise OffsiteError(f"{self.place}: {what}: {why}")


def _is_missing(ended: Ended) -> bool:
    return ended.status == _PARTIAL and "No such file or directory (2)" in ended.stderr


def _sizes(ended: Ended) -> dict[str, int]:
    found = {}
    for line in ended.stdout.decode(errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found[match["name"]] = int(re.sub(r"\D", "", match["size"]))
    return found


def _told(ended: Ended) -> str:
    """The first message: what went wrong; those after it say that therefore the rest did."""
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    return lines[0][:400] if lines else ""
