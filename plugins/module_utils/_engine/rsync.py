# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory that rsync reaches over SSH, as a store. Only rsync is asked of the far end, no shell."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .errors import OffsiteError
from .host_programs import Ended, run_program
from .manifest import FileEntry
from .ssh import FAILED, Ssh
from .stores import Store, names_of
from .targets import RsyncTarget

_LINE = re.compile(r"(?P<kind>[-d])\S+\s+(?P<size>[\d,.]+)\s+[\d/]+ [\d:]+ (?P<name>.+)")
#: "Partial transfer due to error" (rsync(1), EXIT VALUES); the connection is good then.
_PARTIAL = 23
#: "Timeout in data send/receive".
_TIMEOUT = 30
_IDLE_S = 60
#: No disk is slower. What both ends have is read by both, and meanwhile hardly a byte passes.
_READ_BYTES_PER_S = 1_000_000
#: What an interrupted upload leaves is kept there, so that the next one goes on with it.
_PARTS = ".firedrill-partial"


class RsyncStore(Store):
    """The directory `folder` in the path of a target, which has to be there: it may be where a disk is mounted."""

    def __init__(self, target: RsyncTarget, folder: str, scratch: Path, ssh: Ssh) -> None:
        super().__init__(target.name, f"{target.place}/{folder}", scratch)
        self._base = f"{target.user}@{target.host}:{target.path}"
        self._folder = folder
        self._ssh = ssh
        self._limit = (
            [f"--bwlimit={max(1, target.max_bytes_per_s // 1024)}"]
            if target.max_bytes_per_s
            else []
        )

    def connect(self) -> None:
        self._ssh.begin()

    def listing(self) -> dict[str, int]:
        ended = self._run("--list-only", f"{self.place}/")
        # That it is not there is said in one way by rsync, in another by rrsync, which restricts an account.
        if ended.status and ended.status not in (FAILED, _TIMEOUT):
            above = self._run("--list-only", f"{self._base}/")
            self._check(above, "its directory cannot be listed")
            if self._folder not in _sizes(above, "d"):
                return {}
        self._check(ended, "it could not be listed")
        return _sizes(ended, "-")

    def size(self, name: str) -> int | None:
        # A directory does not lag behind.
        return self.listing().get(name)

    def put(self, *paths: Path) -> None:
        options = [
            "--ignore-times",
            "--perms",
            "--chmod=F600",
            f"--partial-dir={_PARTS}",
            *self._limit,
        ]
        # Where it goes on with half a file, each block that is there already takes four bytes, which it sends many at once:
        # it may read gigabytes without a word.
        size = sum(path.stat().st_size for path in paths)
        self._check(
            self._run(*options, *map(str, paths), f"{self.place}/", read_bytes=size),
            f"{names_of(paths)} could not be uploaded",
        )

    def proofs(self, files: Mapping[Path, FileEntry]) -> dict[str, str]:
        options = ["--dry-run", "--checksum", "--out-format=%n"]
        size = sum(entry.bytes for entry in files.values())
        ended = self._run(*options, *map(str, files), f"{self.place}/", read_bytes=size)
        self._check(ended, f"{names_of(files)} could not be compared")
        # A line for each file that it would send.
        differing = set(ended.stdout.decode(errors="replace").splitlines())
        names = {path.name for path in files}
        # A line that names none of them may mean any of them.
        return {name: "checksum" if differing <= names - {name} else "" for name in names}

    def get(self, name: str, path: Path) -> None:
        # A limit that leaves others their bandwidth is none for a recovery.
        ended = self._run("--chmod=F600", "--perms", self._path(name), str(path))
        self._check(ended, f"{name} could not be downloaded")

    def delete(self, name: str) -> None:
        with tempfile.TemporaryDirectory(dir=self._scratch) as empty:
            # What is excluded is protected; what is included and missing here goes there.
            rules = ["--recursive", "--delete", f"--include=/{name}", "--exclude=*"]
            self._check(
                self._run(*rules, f"{empty}/", f"{self.place}/"), f"{name} could not be removed"
            )

    def close(self) -> None:
        self._ssh.close()

    # -- how it is asked -----------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _run(self, *arguments: str, read_bytes: int = 0) -> Ended:
        """:param read_bytes: what each end may have to read before it has anything to say."""
        # There always is a limit: a far end whose disk hangs still answers ssh, and the schedule would wait for ever.
        idle_s = _IDLE_S + read_bytes // _READ_BYTES_PER_S
        refusal = self._ssh.open()
        if refusal:
            return Ended(FAILED, b"", refusal)
        ended = run_program(
            [
                "rsync",
                "--no-human-readable",
                f"--timeout={idle_s}",
                f"--rsh={self._ssh.shell}",
                *arguments,
            ]
        )
        if ended.status not in (0, _PARTIAL):
            # The connection may be what failed.
            self._ssh.close()
        return ended

    def _check(self, ended: Ended, what: str) -> None:
        if ended.status:
            why = _told(ended) or f"rsync ended with status {ended.status}"
            raise OffsiteError(f"{self.place}: {what}: {why}")


def _sizes(ended: Ended, kind: str) -> dict[str, int]:
    """The entries of a listing that are files (`-`) or directories (`d`)."""
    found = {}
    for line in ended.stdout.decode(errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if match and match["kind"] == kind:
            found[match["name"]] = int(re.sub(r"\D", "", match["size"]))
    return found


def _told(ended: Ended) -> str:
    """The first message: what went wrong; those after it say that therefore the rest did."""
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    return lines[0][:400] if lines else ""
