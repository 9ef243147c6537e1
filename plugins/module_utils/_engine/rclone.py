# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A remote of rclone as a store: S3 and its kin, SFTP, WebDAV and whatever else rclone knows."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable

from .background import Background
from .errors import OffsiteError
from .host_programs import run_program
from .manifest import FileEntry
from .rclone_server import ENVIRONMENT, NotThereError, RcloneServer, options_of, telling
from .stores import Store
from .targets import RcloneTarget

#: The exit statuses of rclone (rclone.org/docs, "Exit code") for a directory and a file that are not there.
_NOT_THERE = (3, 4)
#: What far ends compute and Python knows, the better one first.
_HASHES = ("sha256", "sha1", "md5")
#: The same, the quicker one first, for a far end that reads the file to answer: without instructions for it, or where
#: its programs do not use them, SHA-256 takes four times as long as MD5. This is about accidents on the way; whatever
#: comes back is held against the SHA-256 in the manifest.
_QUICK_HASHES = tuple(reversed(_HASHES))
#: Larger files go up in pieces in most object stores, and the hash of the whole is then only what the sender said,
#: unless the far end reads the file when it is asked.
_WHOLE_BYTES = 200_000_000
#: Nothing is asked for that would be one more question to the far end. Without `filesOnly` a file at which the far end fails
#: is looked for in a listing, and taken for one that is not there.
_PLAIN = {"noModTime": True, "noMimeType": True, "filesOnly": True}
#: An upload replaces what is there, whatever it is, and proofs() compares the hashes.
_ANYWAY = {"IgnoreTimes": True, "IgnoreChecksum": True}


@dataclass(frozen=True)
class _Shown:
    """What the far end tells of a file."""

    bytes: int = -1
    digest: str = ""


class RcloneStore(Store):
    """The directory `folder` of a remote.

    :param server: the rclone that is asked.
    """

    def __init__(
        self, target: RcloneTarget, folder: str, scratch: Path, server: RcloneServer
    ) -> None:
        between = "" if target.remote.endswith(":") else "/"
        super().__init__(target.name, f"{target.remote}{between}{folder}", scratch)
        self._server = server
        self._options = options_of(target)
        self._limit = f"{target.max_bytes_per_s}B" if target.max_bytes_per_s else "off"
        self._hash: str | None = None
        self._reads = False

    def connect(self) -> None:
        self._server.begin()

    def listing(self) -> dict[str, int]:
        what = "it could not be listed"
        try:
            told = self._ask(what, "operations/list", fs=self.place, remote="", opt=_PLAIN)
        except NotThereError:
            return {}
        return {str(one["Name"]): int(one["Size"]) for one in told["list"]}

    def size(self, name: str) -> int | None:
        found = self._look_up(name)
        return int(found["Size"]) if found else None

    def put(self, *paths: Path) -> None:
        # What fails early has cost little: the largest comes last.
        for path in sorted(paths, key=lambda path: path.stat().st_size):
            what = f"{path.name} could not be uploaded"
            with self._named(path.parent) as here:
                self._copy(what, (here, path.name), (self.place, path.name), self._limit, _ANYWAY)

    def proofs(self, files: Mapping[Path, FileEntry]) -> dict[str, str]:
        kind = self._far_hash()
        asked = [
            entry
            for entry in files.values()
            if kind and (self._reads or entry.bytes <= _WHOLE_BYTES)
        ]
        # Both ends read the files at the same time.
        own = {
            entry.name: Background(partial(_digest_of, path, entry, kind))
            for path, entry in files.items()
            if entry in asked
        }
        shown = {entry.name: self._hash_of(entry.name, kind) for entry in asked}
        return {
            entry.name: self._proof(entry, kind, own[entry.name], shown[entry.name])
            if entry in asked
            else self._read_back(entry)
            for entry in files.values()
        }

    def _proof(self, entry: FileEntry, kind: str, own: Background[str], shown: _Shown) -> str:
        if shown.bytes != entry.bytes:
            return ""
        if not shown.digest:
            return self._read_back(entry)
        return kind if shown.digest == own.result() else ""

    def get(self, name: str, path: Path) -> None:
        what = f"{name} could not be downloaded"
        with self._named(path.parent) as here:
            # A limit that leaves others their bandwidth is none for a recovery.
            self._copy(what, (self.place, name), (here, path.name), "off", {})
        path.chmod(0o600)

    def delete(self, name: str) -> None:
        what = f"{name} could not be removed"
        try:
            _twice(lambda: self._ask(what, "operations/deletefile", fs=self.place, remote=name))
        except OffsiteError:
            if self.size(name) is not None:
                raise

    def close(self) -> None:
        self._server.close()

    # -- how it is asked -----------------------------------------------------------------------------

    def _ask(self, what: str, command: str, **parameters: object) -> Any:
        try:
            return self._server.ask(command, **parameters)
        except OffsiteError as error:
            raise type(error)(f"{self.place}: {what}: {error}") from error

    def _copy(
        self,
        what: str,
        source: tuple[str, str],
        destination: tuple[str, str],
        limit: str,
        settings: Mapping[str, object],
    ) -> None:
        """Copies a file.

        :param source: a directory, and a name in it; so is `destination`.
        :param limit: of the bandwidth, as rclone writes it.
        """

        def copy() -> None:
            if self._limit != "off":
                self._ask("its bandwidth could not be limited", "core/bwlimit", rate=limit)
            self._ask(
                *(what, "operations/copyfile"),
                srcFs=source[0],
                srcRemote=source[1],
                dstFs=destination[0],
                dstRemote=destination[1],
                _config=settings,
            )

        _twice(copy)

    @contextlib.contextmanager
    def _named(self, directory: Path) -> Iterator[str]:
        """Another name of a directory here: what is asked is JSON, which cannot say each name that a directory may have."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as place:
            link = Path(place, "here")
            link.symlink_to(directory.absolute())
            yield str(link)

    def _look_up(self, name: str, **more: object) -> dict[str, Any] | None:
        """What the far end tells of a file, asked for by itself: a listing may lag behind."""
        what, options = f"{name} could not be looked up", {**_PLAIN, **more}
        try:
            told = self._ask(what, "operations/stat", fs=self.place, remote=name, opt=options)
        except NotThereError:
            return None
        found: dict[str, Any] | None = told["item"]
        return found

    def _far_hash(self) -> str:
        """The hash that the far end computes itself; "" for none."""
        if self._hash is None:
            what = "it could not be asked what it can do"
            told = self._ask(what, "operations/fsinfo", fs=self.place)
            can = told.get("Features") or {}
            # Only what reads the file is slow: over SFTP, say. A remote upon another one may have remembered it.
            self._reads = bool(can.get("SlowHash")) and not can.get("UnWrap")
            kinds = _QUICK_HASHES if self._reads else _HASHES
            self._hash = next((kind for kind in kinds if kind in (told.get("Hashes") or ())), "")
        return self._hash

    def _hash_of(self, name: str, kind: str) -> _Shown:
        found = self._look_up(name, showHash=True, hashTypes=[kind])
        if not found:
            return _Shown()
        return _Shown(int(found["Size"]), (found.get("Hashes") or {}).get(kind, ""))

    def _read_back(self, entry: FileEntry) -> str:
        digest, count = hashlib.sha256(), 0

        def take(chunk: bytes) -> None:
            nonlocal count
            digest.update(chunk)
            count += len(chunk)

        ended = run_program(
            ["rclone", "cat", *self._options, f"{self.place}/{entry.name}"],
            environment=ENVIRONMENT,
            consume=take,
        )
        if ended.status in _NOT_THERE:
            return ""
        if ended.status:
            why = telling(ended.stderr) or f"rclone ended with status {ended.status}"
            raise OffsiteError(f"{self.place}: {entry.name} could not be read back: {why}")
        same = count == entry.bytes and digest.hexdigest() == entry.sha256
        return "read back" if same else ""


def _twice(action: Callable[[], object]) -> None:
    """Tries once more after a failure, as the commands of rclone do by themselves."""
    try:
        action()
    except NotThereError:
        raise
    except OffsiteError:
        action()


def _digest_of(path: Path, entry: FileEntry, kind: str) -> str:
    if kind == "sha256":
        return entry.sha256
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
