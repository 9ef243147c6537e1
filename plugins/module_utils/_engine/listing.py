# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What lies in a backup directory: every set with its age, size, evidence, last drill and shortcomings."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from .durable import is_present
from .filenames import MANIFEST, dump_names, set_of_part
from .manifest import Manifest
from .model import iso
from .mounts import unreadable
from .recovery_set import RecoverySet, load_set
from .report import LOG_NAME, damaged_sets, last_drills, passed_sets
from .vault import Vault


@dataclass(frozen=True)
class Listed:
    """One set as it is listed. `bytes` counts all its files; `verdict` and `drilled_at` are of its last drill, "" without one.

    `passed`, `partly` (that, or what could be tested was good) and `damaged` are what drills found of its data.
    """

    recovery_set: RecoverySet
    bytes: int
    shortcomings: tuple[str, ...]
    verdict: str = ""
    drilled_at: str = ""
    passed: bool = False
    partly: bool = False
    damaged: bool = False

    @property
    def database(self) -> str:
        """Whose it is; empty when no manifest says it."""
        return self.recovery_set.manifest.database if self.recovery_set.manifest else ""

    @property
    def complete(self) -> bool:
        """Whether all files are there, with the sizes of the manifest."""
        return not self.shortcomings

    def as_dict(self, now: datetime) -> dict[str, Any]:
        """For JSON; ages in seconds at `now`. Without a manifest `evidence` is None."""
        manifest = self.recovery_set.manifest
        created = self.recovery_set.created
        return {
            "name": self.recovery_set.name,
            "path": str(self.recovery_set.path),
            "database": self.database,
            "purpose": manifest.purpose if manifest else "",
            "created_at": iso(created),
            "age_s": round((now - created).total_seconds()),
            "bytes": self.bytes,
            "encryption": manifest.encryption.method if manifest and manifest.encryption else "",
            "evidence": _evidence(manifest) if manifest else None,
            "last_drill": {"verdict": self.verdict, "at": self.drilled_at}
            if self.verdict
            else None,
            "problems": list(self.shortcomings),
        }


def list_sets(directory: Path, database: str = "") -> list[Listed]:
    """Every set of a directory, newest first; with `database` only its own, and those that nobody can tell.

    :raises HostError: as require_directory().
    """
    require_directory(directory)
    try:
        return _list_sets(directory, database)
    except OSError as error:
        raise unreadable(directory, error) from error


def _list_sets(directory: Path, database: str) -> list[Listed]:
    vault = Vault(directory)
    drills = last_drills(directory / LOG_NAME)
    passed = passed_sets(directory / LOG_NAME)
    partly = passed_sets(directory / LOG_NAME, partly=True)
    damaged = damaged_sets(directory / LOG_NAME)
    found = []
    for recovery_set in [*vault.everything(), *_without_dump(directory)]:
        drill = drills.get(recovery_set.name, {})
        verdict = str(drill.get("verdict", ""))
        listed = Listed(
            recovery_set=recovery_set,
            bytes=_size(recovery_set),
            shortcomings=shortcomings(recovery_set),
            verdict=verdict,
            drilled_at=str(drill.get("at", "")),
            passed=recovery_set.name in passed,
            partly=recovery_set.name in partly,
            damaged=recovery_set.name in damaged,
        )
        if not database or listed.database in ("", database):
            found.append(listed)
    return sorted(
        found, key=lambda one: (one.recovery_set.created, one.recovery_set.name), reverse=True
    )


def shortcomings(recovery_set: RecoverySet) -> tuple[str, ...]:
    """What can be seen to be wrong with a set without reading its files; no SHA-256 is computed."""
    manifest = recovery_set.manifest
    if manifest is None:
        return (recovery_set.problem,)
    found = []
    for entry in manifest.entries:
        path = recovery_set.file_of(entry)
        try:
            size = path.stat().st_size
        except OSError as error:
            found.append(f"{path.name} cannot be read: {error.strerror}")
            continue
        if size != entry.bytes:
            found.append(f"{path.name} has {size} bytes, its manifest says {entry.bytes}")
    return tuple(found)


def require_directory(directory: Path) -> None:
    """:raises HostError: it is not there, its disk is not mounted, or it may not be read: an empty list would be a lie."""
    vault = Vault(directory)
    vault.require_disk()
    os.close(vault.open())


def is_there(directory: Path) -> bool:
    """Whether there is such a directory, or anything else of that name.

    :raises HostError: nobody can tell, as of a disk that fails.
    """
    try:
        return is_present(directory)
    except OSError as error:
        raise unreadable(directory, error) from error


def _without_dump(directory: Path) -> list[RecoverySet]:
    """Manifests whose dump file is gone."""
    files = set(Vault(directory).names())
    names = (set_of_part(file) for file in files if file.endswith(MANIFEST))
    lost = (directory / dumps[0] for dumps in map(dump_names, names) if files.isdisjoint(dumps))
    orphans = (load_set(dump) for dump in lost)
    return [
        replace(orphan, path=directory / orphan.manifest.dump.name)
        for orphan in orphans
        if orphan.manifest
    ]


def _evidence(manifest: Manifest) -> dict[str, Any]:
    """Of an encrypted set no more than the number of rows is known."""
    tables = None if manifest.locked else len(manifest.evidence.tables)
    return {"level": manifest.evidence.level, "tables": tables, "rows": manifest.rows or 0}


def _size(recovery_set: RecoverySet) -> int:
    total = 0
    for path in recovery_set.files():
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total
