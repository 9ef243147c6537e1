# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A remote of rclone as a store: S3 and its kin, SFTP, WebDAV and whatever else rclone knows."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from .errors import OffsiteError
from .host_programs import Ended, run_program
from .manifest import FileEntry
from .stores import Store, names_of
from .targets import RcloneTarget

#: The exit statuses of rclone (rclone.org/docs, "Exit code") for a directory and a file that are not there.
_NOT_THERE = (3, 4)
#: What far ends compute and Python knows, the better one first.
_HASHES = ("sha256", "sha1", "md5")
#: Larger files go up in pieces in most object stores, and the hash of the whole is then only what the sender said,
#: unless the far end reads the file when it is asked.
_WHOLE_BYTES = 200_000_000
#: One file after the other, with little memory: the host may have no more than a few hundred megabytes.
_OPTIONS = (
    *("--ask-password=false", "--log-level=ERROR", "--contimeout=20s", "--timeout=60s"),
    *("--retries=2", "--low-level-retries=3", "--transfers=1", "--checkers=1"),
    *("--buffer-size=0", "--use-mmap", "--s3-upload-concurrency=1", "--s3-no-check-bucket"),
)
#: AWS_CA_BUNDLE ends rclone before it has asked anything; its own option `ca_cert` is for that.
_ENVIRONMENT = {"GOGC": "30", "GOMEMLIMIT": "48MiB", "AWS_CA_BUNDLE": None}


@dataclass(frozen=True)
class _Shown:
    """What the far end tells of a file."""

    bytes: int = -1
    digest: str = ""


class RcloneStore(Store):
    """The directory `folder` of a remote."""

    def __init__(self, target: RcloneTarget, folder: str, scratch: Path) -> None:
        between = "" if target.remote.endswith(":") else "/"
        super().__init__(target.name, f"{target.remote}{between}{folder}", scratch)
        self._options = [f"--config={target.config_file}", *_OPTIONS]
        self._limit = [f"--bwlimit={target.max_bytes_per_s}B"] if target.max_bytes_per_s else []
        self._hash: str | None = None
        self._reads = False

    def connect(self) -> None:
        """Each start of rclone connects by itself."""

    def listing(self) -> dict[str, int]:
        ended = self._run("lsjson", "--files-only", "--no-modtime", "--no-mimetype", self.place)
        if ended.status in _NOT_THERE:
            return {}
        found = self._json(ended, "it could not be listed")
        return {str(one["Name"]): int(one["Size"]) for one in found}

    def size(self, name: str) -> int | None:
        ended = self._run("lsjson", "--stat", "--no-modtime", "--no-mimetype", self._path(name))
        if ended.status in _NOT_THERE:
            return None
        found = self._json(ended, f"{name} could not be looked up")
        # Object stores have a directory of any name.
        return None if found.get("IsDir") else int(found["Size"])

    def put(self, *paths: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self._scratch) as staged:
            # It copies a directory whole, and theirs hold more.
            for path in paths:
                Path(staged, path.name).symlink_to(path.absolute())
            # A second try sends all of them again: the largest comes last.
            options = ["--copy-links", "--no-check-dest", "--check-first", "--order-by=size"]
            # proofs() compares the hashes, and needs them of every file.
            options.append("--ignore-checksum")
            self._check(
                self._run("copy", *self._limit, *options, staged, self.place),
                f"{names_of(paths)} could not be uploaded",
            )

    def proofs(self, files: Mapping[Path, FileEntry]) -> dict[str, str]:
        kind = self._far_hash()
        asked = [
            entry
            for entry in files.values()
            if kind and (self._reads or entry.bytes <= _WHOLE_BYTES)
        ]
        # Both ends read the files at the same time.
        with ThreadPoolExecutor(1) as pool:
            own = {
                entry.name: pool.submit(_digest_of, path, entry, kind)
                for path, entry in files.items()
                if entry in asked
            }
            found = self._hashes(asked, kind) if asked else {}
        return {
            entry.name: self._proof(entry, kind, own[entry.name], found.get(entry.name, _Shown()))
            if entry in asked
            else self._read_back(entry)
            for entry in files.values()
        }

    def _proof(self, entry: FileEntry, kind: str, own: Future[str], shown: _Shown) -> str:
        if shown.bytes != entry.bytes:
            return ""
        if not shown.digest:
            return self._read_back(entry)
        return kind if shown.digest == own.result() else ""

    def get(self, name: str, path: Path) -> None:
        # A limit that leaves others their bandwidth is none for a recovery.
        self._check(
            self._run("copyto", self._path(name), str(path)), f"{name} could not be downloaded"
        )
        path.chmod(0o600)

    def delete(self, name: str) -> None:
        ended = self._run("deletefile", self._path(name))
        if ended.status and self.size(name) is not None:
            self._check(ended, f"{name} could not be removed")

    # -- how it is asked -----------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _run(
        self,
        command: str,
        *arguments: str,
        feed: bytes = b"",
        consume: Callable[[bytes], object] | None = None,
    ) -> Ended:
        return run_program(
            ["rclone", command, *self._options, *arguments],
            environment=_ENVIRONMENT,
            feed=feed,
            consume=consume,
        )

    def _far_hash(self) -> str:
        """The hash that the far end computes itself; "" for none."""
        if self._hash is None:
            ended = self._run("backend", "features", self.place)
            told = self._json(ended, "it could not be asked what it can do")
            can = told.get("Features") or {}
            # Only what reads the file is slow: over SFTP, say. A remote upon another one may have remembered it.
            self._reads = bool(can.get("SlowHash")) and not can.get("UnWrap")
            self._hash = next((kind for kind in _HASHES if kind in (told.get("Hashes") or ())), "")
        return self._hash

    def _hashes(self, entries: list[FileEntry], kind: str) -> dict[str, _Shown]:
        """Each of these files that is there, asked for by itself: a listing may lag behind."""
        options = ["--files-only", "--no-traverse", "--no-modtime", "--no-mimetype"]
        ended = self._run(
            *("lsjson", *options, f"--hash-type={kind}", "--files-from-raw=-", self.place),
            feed="".join(f"{entry.name}\n" for entry in entries).encode("utf-8", "surrogateescape"),
        )
        if ended.status in _NOT_THERE:
            return {}
        found = self._json(ended, f"{names_of(entries)} could not be looked up")
        return {
            str(one["Name"]): _Shown(int(one["Size"]), (one.get("Hashes") or {}).get(kind, ""))
            for one in found
        }

    def _read_back(self, entry: FileEntry) -> str:
        digest, count = hashlib.sha256(), 0

        def take(chunk: bytes) -> None:
            nonlocal count
            digest.update(chunk)
            count += len(chunk)

        ended = self._run("cat", *self._limit, self._path(entry.name), consume=take)
        if ended.status in _NOT_THERE:
            return ""
        self._check(ended, f"{entry.name} could not be read back")
        same = count == entry.bytes and digest.hexdigest() == entry.sha256
        return "read back" if same else ""

    def _json(self, ended: Ended, what: str) -> Any:
        self._check(ended, what)
        try:
            return json.loads(ended.stdout)
        except ValueError as error:
            raise OffsiteError(f"{self.place}: {what}: rclone printed no JSON") from error

    def _check(self, ended: Ended, what: str) -> None:
        if ended.status:
            raise OffsiteError(
                f"{self.place}: {what}: {_told(ended) or f'rclone ended with status {ended.status}'}"
            )


def _told(ended: Ended) -> str:
    """The message of rclone that says most, without its time."""
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\b(ERROR|CRITICAL|Failed)\b", line)] or lines
    return (
        re.sub(r"^[\d/]+ [\d:]+ ((ERROR|CRITICAL) : (: )?)?", "", telling[-1])[:400]
        if telling
        else ""
    )


def _digest_of(path: Path, entry: FileEntry, kind: str) -> str:
    if kind == "sha256":
        return entry.sha256
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
