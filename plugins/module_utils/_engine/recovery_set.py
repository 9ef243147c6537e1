# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One recovery set: its files with their manifest; and which of several sets is meant."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from .clock import is_ahead
from .errors import ConfigError, HostError, SetError
from .filenames import (
    MANIFEST,
    every_name,
    is_dump,
    set_name,
    stamp_of,
)
from .hashing import digest_of
from .keyring import Key
from .manifest import FileEntry, Manifest
from .model import Target, iso, parse_time, utc_now


@dataclass(frozen=True)
class RecoverySet:
    """A dump file with its manifest; `problem` says why it has none that can be believed.

    `key` opens the dump of an encrypted set that was unsealed; it is None for all others.
    """

    path: Path
    manifest: Manifest | None
    problem: str = ""
    key: Key | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return set_name(self.path.name)

    @property
    def locked(self) -> bool:
        """Whether it is encrypted and was not opened with a key: of its content nothing is known but the rows."""
        return bool(self.manifest and self.manifest.locked)

    @property
    def created(self) -> datetime:
        """When the dump's snapshot was taken; without a manifest by the file's name, else its time."""
        if self.manifest:
            return self.manifest.created
        if made := stamp_of(self.name):
            return made
        try:
            return datetime.fromtimestamp(self.path.stat().st_mtime, timezone.utc)
        except OSError:
            # Removed since it was listed.
            return datetime.fromtimestamp(0, timezone.utc)

    @property
    def opened_by(self) -> tuple[str, ...]:
        """The public keys of the private one that opened it, as far as they can be told; those of its recipients, if any."""
        if self.key is None or self.manifest is None or self.manifest.encryption is None:
            return ()
        recipients = self.manifest.encryption.recipients
        return tuple(name for name in self.key.public if name in recipients) or self.key.public

    def files(self) -> list[Path]:
        """The files of the set that are there, the manifest first."""
        paths = dict.fromkeys([*map(self.path.with_name, every_name(self.name)), self.path])
        return [path for path in paths if path.exists()]

    def file_of(self, entry: FileEntry) -> Path:
        """Where a file of the manifest is: the dump where it was found, the others beside it."""
        return self.path if is_dump(entry.name) else self.path.with_name(entry.name)

    def require_manifest(self) -> Manifest:
        """:raises SetError: there is none that can be believed."""
        if self.manifest is None:
            raise SetError(
                f"{self.path} cannot be verified: {self.problem}",
                todo="Bring its manifest (.json) back; `verify: false` restores the dump without it",
            )
        return self.manifest

    def check_files(self) -> None:
        """Sizes and SHA-256 of every file of the manifest.

        :raises SetError: one is missing or not what was written.
        :raises HostError: one may not be read.
        """
        manifest = self.require_manifest()
        for entry in manifest.entries:
            path = self.file_of(entry)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise SetError(
                    f"{path} of set {manifest.name} cannot be read: {error.strerror}",
                    todo="Bring the file back, or use another set",
                ) from error
            if size != entry.bytes:
                raise SetError(
                    f"{path} has {size} bytes, its manifest says {entry.bytes}: it was truncated or replaced",
                    todo="Use another set, or another copy of this one",
                )
            if self._digest(path) != entry.sha256:
                raise SetError(
                    f"{path} is damaged: its SHA-256 is not the one of its manifest",
                    todo="Use another set, or another copy of this one",
                )

    @staticmethod
    def _digest(path: Path) -> str:
        try:
            return digest_of(path)
        except OSError as error:
            # A card or disk that cannot give the bytes back has lost them; a missing right has not.
            if error.errno == errno.EIO:
                raise SetError(
                    f"{path} cannot be read back from its disk: {error.strerror}",
                    todo="Use another set, or another copy of this one. Is the disk failing? See `dmesg`",
                ) from error
            raise HostError(f"{path} cannot be read: {error.strerror}") from error


def limit_of(source: str) -> datetime | None:
    """The moment of `before:<time>`; None for `latest`.

    :raises ConfigError: the time cannot be read.
    """
    if source == "latest":
        return None
    text = source[len("before:") :]
    try:
        return parse_time(text)
    except ValueError as error:
        raise ConfigError(
            f'"{text}" is no time',
            state="Nothing was changed",
            todo="Write it as 2026-02-19T02:00:00Z, or as 20260219_020000; without a zone it is UTC",
        ) from error


def newest_backup(sets: Iterable[RecoverySet], before: datetime | None) -> RecoverySet | None:
    """The newest set that a restore would take by itself: of a backup, not what a restore dumped for safety.

    Without `before` one of the future is the last choice: else a single boot with a wrong clock would hide every later
    set.
    """
    found = [
        one
        for one in sets
        if one.manifest
        and one.manifest.purpose == "backup"
        and (before is None or one.created < before)
    ]
    if before is None:
        now = utc_now()
        found = [one for one in found if not is_ahead(one.created, now)] or found
    return max(found, key=lambda one: (one.created, one.name), default=None)


def is_of(recovery_set: RecoverySet, target: Target) -> bool:
    """Whether a set was dumped from the target's container, or service: other containers may have a database of that name.
    Where nothing names a container, it is."""
    if recovery_set.manifest is None:
        return False
    source = recovery_set.manifest.source
    if target.container:
        return source.container == target.container
    named = (target.project, target.service)
    return named == ("", "") or (source.project, source.service) == named


def origins(sets: Iterable[RecoverySet]) -> list[str]:
    """The containers that sets were dumped from; one that Compose has made anew under another name is the same."""
    sources = [one.require_manifest().source for one in sets]
    return sorted({source.origin: source.container for source in reversed(sources)}.values())


def set_of_future(name: str, created: datetime) -> str:
    """In words: why `latest` does not mean that set."""
    return f"{name} was passed over: its date {iso(created)} is in the future, was a clock wrong?"


def load_set(path: Path) -> RecoverySet:
    """A dump file with whatever manifest lies beside it."""
    beside = path.with_name(set_name(path.name) + MANIFEST)
    try:
        text = beside.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return RecoverySet(path, None, "it has no manifest beside it")
    except OSError as error:
        return RecoverySet(path, None, f"its manifest cannot be read: {error.strerror}")
    try:
        return RecoverySet(path, Manifest.from_json(text, str(beside)))
    except SetError as error:
        return RecoverySet(path, None, error.what)
