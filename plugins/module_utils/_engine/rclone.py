# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A remote of rclone as a store: S3 and its kin, SFTP, WebDAV and whatever else rclone knows."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Callable

from .errors import OffsiteError
from .host_programs import Ended, run_program
from .manifest import FileEntry
from .stores import Store
from .targets import RcloneTarget

#: The exit statuses of rclone (rclone.org/docs, "Exit code") for a directory and a file that are not there.
_NOT_THERE = (3, 4)
#: What far ends compute and Python knows, the better one first.
_HASHES = ("sha256", "sha1", "md5")
#: Larger files go up in pieces in most object stores, and the hash of the whole is then only what the sender said.
_WHOLE_BYTES = 200_000_000
#: One file after the other, with little memory: the host may have no more than a few hundred megabytes.
_OPTIONS = (
    *("--ask-password=false", "--log-level=ERROR", "--contimeout=20s", "--timeout=60s"),
    *("--retries=2", "--low-level-retries=3", "--transfers=1", "--checkers=1"),
    *("--buffer-size=0", "--use-mmap", "--s3-upload-concurrency=1", "--s3-no-check-bucket"),
)
#: AWS_CA_BUNDLE ends rclone before it has asked anything; its own option `ca_cert` is for that.
_ENVIRONMENT = {"GOGC": "30", "GOMEMLIMIT": "48MiB", "AWS_CA_BUNDLE": None}


class RcloneStore(Store):
    """The directory `folder` of a remote."""

    def __init__(self, target: RcloneTarget, folder: str) -> None:
        between = "" if target.remote.endswith(":") else "/"
        super().__init__(target.name, f"{target.remote}{between}{folder}")
        self._options = [f"--config={target.config_file}", *_OPTIONS]
        if target.max_bytes_per_s:
            self._options.append(f"--bwlimit={target.max_bytes_per_s}B")
        self._hash: str | None = None

    def listing(self) -> dict[str, int]:
        ended = self._run("lsjson", "--files-only", "--no-modtime", "--no-mimetype", self.place)
        if ended.status in _NOT_THERE:
            return {}
        found = self._json(ended, "it could not be listed")
        return {str(one["Name"]): int(one["Size"]) for one in found}

    def size(self, name: str) -> int | None:
        found = self._stat(name, "--no-modtime", "--no-mimetype")
        return int(found["Size"]) if found else None

    def put(self, path: Path, name: str) -> None:
        self._check(
            self._run("copyto", "--no-check-dest", str(path), self._path(name)),
            f"{name} could not be uploaded",
        )

    def proof(self, path: Path, entry: FileEntry) -> str:
        kind = self._far_hash() if entry.bytes <= _WHOLE_BYTES else ""
        found = self._stat(entry.name, *([f"--hash-type={kind}"] if kind else []))
        if not found or int(found["Size"]) != entry.bytes:
            return ""
        shown = (found.get("Hashes") or {}).get(kind, "")
        if shown:
            own = entry.sha256 if kind == "sha256" else _digest_of(path, kind)
            return kind if shown == own else ""
        return "read back" if self._read_back(entry) else ""

    def get(self, name: str, path: Path) -> None:
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
        self, command: str, *arguments: str, consume: Callable[[bytes], object] | None = None
    ) -> Ended:
        return run_program(
            ["rclone", command, *self._options, *arguments],
            environment=_ENVIRONMENT,
            consume=consume,
        )

    def _stat(self, name: str, *options: str) -> dict[str, Any]:
        """What is known of one file; nothing when it is not there. Object stores have a directory of any name."""
        ended = self._run("lsjson", "--stat", *options, self._path(name))
        if ended.status in _NOT_THERE:
            return {}
        found: dict[str, Any] = self._json(ended, f"{name} could not be looked up")
        return {} if found.get("IsDir") else found

    def _far_hash(self) -> str:
        """The hash that the far end computes itself; "" for none."""
        if self._hash is None:
            ended = self._run("backend", "features", self.place)
            known = self._json(ended, "it could not be asked what it can do").get("Hashes") or ()
            self._hash = next((kind for kind in _HASHES if kind in known), "")
        return self._hash

    def _read_back(self, entry: FileEntry) -> bool:
        digest, count = hashlib.sha256(), 0

        def take(chunk: bytes) -> None:
            nonlocal count
            digest.update(chunk)
            count += len(chunk)

        ended = self._run("cat", self._path(entry.name), consume=take)
        self._check(ended, f"{entry.name} could not be read back")
        return count == entry.bytes and digest.hexdigest() == entry.sha256

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


def _digest_of(path: Path, kind: str) -> str:
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
