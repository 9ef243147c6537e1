# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The journal of restores: what was about to happen, on the disk before it happened."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from .durable import reserve, sync_directory
from .errors import HostError
from .filenames import file_base
from .model import iso, utc_now
from .run import owner_mark

#: The steps that end a run. Before them a swap takes begun, created, stopping, swapping, swapped, and a replace begun,
#: stopping, replacing, swapping, swapped.
_ENDED = ("done", "failed")
#: Room for all steps of a run: a disk that fills up meanwhile must not end one that has dropped the live database.
_STEPS_BYTES = 32_768


@dataclass(frozen=True)
class Entry:
    """The state of one restore or rollback after its latest step."""

    run: str
    action: str
    method: str
    container: str
    database: str
    step: str = "begun"
    at: str = ""
    set_name: str = ""
    sha256: str = ""
    live_oid: int = 0
    new_oid: int = 0
    new_name: str = ""
    previous_name: str = ""
    safety_set: str = ""
    stopped: tuple[str, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    #: In which cluster the OIDs mean something; "" where nobody knows.
    cluster: str = ""
    #: Whose run it is: hosts may share a directory, and not know it.
    host: str = ""
    #: The mark of the process that took the step.
    owner: str = ""

    @property
    def ended(self) -> bool:
        return self.step in _ENDED

    @property
    def ours(self) -> bool:
        """Whether it is a run of this host; one that names none is taken for one."""
        return self.host in ("", platform.node())


class Journal:
    """The journal of one database, beside its recovery sets; without a container's name, of all it was in."""

    def __init__(self, directory: Path, container: str, database: str) -> None:
        self.path = directory / f"{file_base(database)}.journal"
        self._container = container
        self._database = database

    def entries(self) -> list[Entry]:
        """The latest state of every run, oldest first. A torn line never was a step.

        :raises HostError: the journal cannot be read.
        """
        try:
            # Only the newline that write() puts there ends a line: names may hold others, like U+2028.
            lines = self.path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HostError(f"The journal {self.path} cannot be read: {error.strerror}") from error
        runs: dict[str, Entry] = {}
        for line in lines:
            entry = _entry_of(line)
            if (
                entry
                and self._container in ("", entry.container)
                and entry.database == self._database
            ):
                runs[entry.run] = entry
        return list(runs.values())

    def last(self) -> Entry | None:
        """The latest run that did not fail; None when there was none."""
        good = [entry for entry in self.entries() if entry.step != "failed"]
        return good[-1] if good else None

    def unfinished(self) -> Entry | None:
        """A run of this host that was killed before it could end."""
        entries = [entry for entry in self.entries() if entry.ours]
        return entries[-1] if entries and not entries[-1].ended else None

    def write(self, entry: Entry, **changes: object) -> Entry:
        """Appends the next step; it is on the disk when this returns. With the first one of a run there is room for the others.

        :raises HostError: it cannot be written, so the step must not be taken.
        """
        is_first = not entry.at
        made = {"at": iso(utc_now()), "host": platform.node(), "owner": owner_mark()}
        entry = replace(entry, **made, **changes)  # type: ignore[arg-type]
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        new = not self.path.exists()
        try:
            descriptor = os.open(
                self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                _append(descriptor, line.encode("utf-8", "surrogateescape"))
                if is_first:
                    reserve(descriptor, _STEPS_BYTES)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                sync_directory(self.path.parent)
        except OSError as error:
            raise HostError(
                f"The journal {self.path} cannot be written: {error.strerror}",
                todo="Is its disk full, or mounted read-only?",
            ) from error
        return entry


def _entry_of(line: str) -> Entry | None:
    """What a line of the journal says; None when it is not whole."""
    known = {entry.name for entry in fields(Entry)}
    try:
        content = json.loads(line)
        values = {key: value for key, value in content.items() if key in known}
        return Entry(**{**values, "stopped": tuple(values.get("stopped", ()))})
    except (ValueError, TypeError, AttributeError):
        return None


def _append(descriptor: int, line: bytes) -> None:
    """Appends a line of its own, even after one that a power cut tore, whole or with an error."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    # A disk that fills up takes a part of it and says so only to the next call.
    while line:
        line = line[os.write(descriptor, line) :]
