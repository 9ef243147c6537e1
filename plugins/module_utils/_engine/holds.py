# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why no set may go now: the newest backup failed, or rows were lost and nobody has said that this was meant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from .attempts import Attempt, Attempts
from .clock import is_ahead
from .containers import Containers
from .durable import read_object, replace_file
from .errors import AbsentError, FiredrillError, HostError
from .filenames import file_base
from .journal import Entry, Journal
from .ledger import Ledger
from .listing import Listed, list_sets
from .model import Report, iso, parse_time, utc_now
from .retention import Candidate, Loss, find_loss, newest_dated
from .settling import interrupted

#: Tries of the schedule, and failures of whoever else asked for a backup.
_JOBS = ("backup", "dump")


class Acknowledgement:
    """Up to which moment the losses of rows of one database were judged; a small file beside its sets."""

    def __init__(self, directory: Path, database: str) -> None:
        self.path = directory / f"{file_base(database)}.acknowledged"

    def until(self) -> datetime | None:
        """None when nothing was; a file that cannot be read says nothing, so that more is kept."""
        with suppress(ValueError):
            return parse_time(str(read_object(self.path).get("until", "")))
        return None

    def record(self, newest: Candidate) -> None:
        """Backups up to this one were judged.

        :raises HostError: it cannot be written.
        """
        content = {"until": iso(newest.created), "set_name": newest.name, "rows": newest.rows}
        try:
            replace_file(self.path, json.dumps(content, indent=1))
        except OSError as error:
            raise HostError(
                f"{self.path} cannot be written: {error.strerror}",
                state="No set was removed",
                todo="Is the file system writable?",
            ) from error


@dataclass(frozen=True)
class AcknowledgeRequest:
    """Of which database it was meant that there are far fewer rows, or that copies of its sets or a container are gone;
    with `check` only says what waits for it."""

    directory: Path
    database: str
    check: bool = False


def acknowledge(request: AcknowledgeRequest) -> Report:
    """Notes that the last loss of rows was meant, so that sets from before it may go when they are old enough; forgets
    the copies that are gone at the offsite targets and here, which are a problem until then; and ends killed restores whose
    container is gone, for which nobody else can.

    :raises HostError: the directory cannot be read or written.
    """
    now, directory, database = utc_now(), request.directory, request.database
    known = candidates(list_sets(directory, database), database)
    loss = waiting_loss(directory, database, known, now)
    newest = newest_dated(known, now)
    done = "would be" if request.check else "is"
    said = []
    if loss and newest:
        said.append(
            f"{loss}: this {done} acknowledged as meant, sets from before it may go when they are old enough"
        )
        if not request.check:
            Acknowledgement(directory, database).record(newest)
    ledger = Ledger(directory, database)
    for target, names in ledger.lost(one.name for one in known).items():
        said.append(
            f"offsite target {target} has lost {', '.join(names)}: this {done} acknowledged as meant, and forgotten"
        )
        if not request.check:
            ledger.forget(target, names)
    for entry in interrupted(directory, database):
        if not _container_is_gone(entry):
            continue
        said.append(
            f"container {entry.container} is gone: its {entry.action} of {entry.at}, which was killed, {done} ended"
        )
        if entry.safety_set:
            said.append(f"what was there before it is in the set {entry.safety_set}")
        if entry.stopped:
            idents = " ".join(ident[:12] for ident in entry.stopped)
            said.append(f"what it had stopped is not started: `docker start {idents}`")
        if not request.check:
            reason = "acknowledged: its container is gone"
            Journal(directory, entry.container, database).write(entry, step="failed", reason=reason)
    return Report(
        action="acknowledge",
        changed=bool(said),
        msg="; ".join(said)
        or "No loss of rows, no lost copy and no restore in a container that is gone waits to be acknowledged",
        database=database,
    )


def _container_is_gone(entry: Entry) -> bool:
    """Whether this host is known to have no such container: what runs in one that it has may be under way."""
    try:
        Containers().find(name=entry.container)
    except AbsentError:
        return True
    except FiredrillError:
        return False
    return False


def candidates(
    listed: Iterable[Listed], database: str, unconfirmed: dict[str, tuple[str, ...]] | None = None
) -> list[Candidate]:
    """The complete sets of one database as retention judges them.

    :param unconfirmed: by a set's name, the targets that are to have it and are not known to.
    """
    found = []
    for one in listed:
        manifest = one.recovery_set.manifest
        if one.complete and manifest and manifest.database == database:
            found.append(
                replace(
                    Candidate.of(manifest),
                    name=one.recovery_set.name,
                    passed=one.passed,
                    partly=one.partly,
                    damaged=one.damaged,
                    unconfirmed=(unconfirmed or {}).get(one.recovery_set.name, ()),
                )
            )
    return found


def waiting_loss(
    directory: Path, database: str, known: Sequence[Candidate], now: datetime
) -> Loss | None:
    """The loss of rows that waits for somebody to say that it was meant."""
    return find_loss(known, now, Acknowledgement(directory, database).until())


def reason_to_hold(
    directory: Path, database: str, known: Sequence[Candidate], now: datetime
) -> str:
    """Why nothing of a database may go now, in words; "" when nothing speaks against it.

    :param known: its complete sets in the directory.
    :raises HostError: the journal of its restores cannot be read.
    """
    for entry in interrupted(directory, database):
        # The set that it reads, and the one that it would return to, may be old.
        return f"the {entry.action} of {entry.at} has not ended"
    newest = newest_dated([one for one in known if not one.safety], now)
    attempts = Attempts(directory, database)
    for attempt in filter(None, map(attempts.latest, _JOBS)):
        if _is_ahead(attempt, now):
            continue
        if attempt.failures and (newest is None or attempt.at > iso(newest.created)):
            ended = "failed" if attempt.ended else "has not ended"
            return f"the newest backup, of {attempt.at}, {ended}"
    return reason_of_loss(known, now, Acknowledgement(directory, database).until())


def _is_ahead(attempt: Attempt, now: datetime) -> bool:
    """Whether a clock was ahead at that try: it would be newer than every set for years."""
    with suppress(ValueError):
        return is_ahead(parse_time(attempt.at), now)
    return False


def reason_of_loss(known: Sequence[Candidate], now: datetime, seen_until: datetime | None) -> str:
    """A loss of rows that was not judged yet, in words; else ""."""
    loss = find_loss(known, now, seen_until)
    return f"{loss}: was data lost? (`firedrill acknowledge` if it was meant)" if loss else ""
