# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How protected this host is now: one row a database, with everything that somebody has to look after."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from . import clock
from .alarms import Told
from .attempts import Attempts
from .config import Section
from .containers import Containers
from .errors import FiredrillError
from .holds import candidates, waiting_loss
from .keyproofs import key_problems, last_proof
from .ledger import target_problems, target_rows
from .model import Problem, human_bytes, human_seconds, iso
from .neighbours import encrypted_before
from .run import is_at_it
from .schedule import Schedule
from .settling import interrupted
from .state import State, look
from .vault import Vault
from .version import VERSION

#: A run that begins at the time of the schedule may take so long before its set counts as missing.
_GRACE_S = 2 * 3600.0
_DRILL_GRACE_S = 86400.0
#: Without a schedule of the host's own: the runbook's 24 hours, and time for the dump.
_OLDEST_S = 26 * 3600.0
#: The next dump, and one more while the oldest is not yet pruned.
_SETS_OF_ROOM = 2
#: The key of the problem that a message to people could not be delivered.
UNDELIVERED = "undelivered"
#: That of a clock that is not set.
CLOCK = "clock"


def status_rows(
    sections: Iterable[Section], schedule: Schedule | None, now: datetime
) -> list[dict[str, Any]]:
    """Each database as plain values for JSON, those with problems first. Nothing is changed, no server is asked."""
    return as_rows(standings(sections, schedule, now))


@dataclass(frozen=True)
class Standing:
    """How one database stands: what is known of it, as plain values for JSON, and what is wrong."""

    name: str
    known: dict[str, Any]
    problems: tuple[Problem, ...]


def as_rows(found: Iterable[Standing]) -> list[dict[str, Any]]:
    """As status_rows()."""
    rows = [{**one.known, "problems": [each.words for each in one.problems]} for one in found]
    return sorted(rows, key=lambda row: (not row["problems"], row["name"]))


def standings(
    sections: Iterable[Section], schedule: Schedule | None, now: datetime
) -> list[Standing]:
    """How each database stands. Nothing is changed, no server is asked."""
    listed = list(sections)
    making = schedule is not None and any(_is_making(one, schedule, now) for one in listed)
    return [_standing(section, schedule, now, making=making) for section in listed]


def _is_making(section: Section, schedule: Schedule, now: datetime) -> bool:
    """Whether the backup that would be missing by now is being made."""
    attempt = Attempts(section.directory, section.database).latest("backup")
    return bool(attempt and attempt.is_under_way(_wanted(schedule, now), now))


def _wanted(schedule: Schedule, now: datetime) -> datetime:
    """The moment of the schedule whose backup is to be there by now."""
    return schedule.last_backup(now - timedelta(seconds=_GRACE_S))


def _standing(
    section: Section, schedule: Schedule | None, now: datetime, *, making: bool
) -> Standing:
    """:param making: whether the backup of one of the databases is being made; the others have their turn after it."""
    problems: list[Problem] = []
    state, free = State(), None
    try:
        state = look(section.directory, section.database, now)
        # While the disk is away it would be that of the card below.
        free = Vault(section.directory).free_bytes()
    except FiredrillError as error:
        problems.append(Problem("directory", error.what))
    newest, drill = state.newest, state.last_drill
    doubt = clock.doubt(now, None)
    problems += [Problem(CLOCK, doubt)] if doubt else []
    problems += _of_sets(state, schedule, now, making=making) if not problems else []
    problems += _of_rows(section, state, now)
    problems += _of_drills(state, schedule, now)
    problems += key_problems(section.directory, section.database, newest, now)
    problems += _of_encryption(state)
    problems += _of_room(state, free)
    whole = {one.recovery_set.name: one.recovery_set.created for one in state.sets if one.complete}
    offsite = target_rows(section.directory, section.database, section.offsite.names, whole)
    problems += target_problems(offsite, whole, now)
    problems += _of_prunes(state, offsite)
    problems += _of_the_application(section, now)
    proof = last_proof(section.directory, section.database)
    lost = Told.read(section.directory, section.database).lost
    if lost:
        problems.append(Problem(UNDELIVERED, f"a message could not be delivered {lost}"))
    next_drill = schedule.next_drill(now) if schedule else None
    known = {
        "host": platform.node(),
        "name": section.name,
        "database": section.database,
        "checked_at": iso(now),
        "version": VERSION,
        "backup_dir": str(section.directory),
        "newest_set": {
            "name": newest.recovery_set.name,
            "created_at": iso(newest.recovery_set.created),
            "age_s": round((now - newest.recovery_set.created).total_seconds()),
            "bytes": newest.bytes,
            "took_s": round(sum(newest.recovery_set.require_manifest().durations_s.values()), 1)
            or None,
        }
        if newest
        else None,
        "sets": len(state.sets),
        "sets_bytes": sum(one.bytes for one in state.sets),
        "last_drill": {
            "verdict": drill.verdict,
            "at": iso(drill.at),
            "age_s": round((now - drill.at).total_seconds()),
            "set": drill.set_name,
        }
        if drill
        else None,
        "last_pass_at": iso(state.last_pass_at) if state.last_pass_at else None,
        "rto_s": state.rto_s or None,
        "offsite": offsite,
        "key_proved_at": proof.at if proof else None,
        "next_backup": iso(schedule.next_backup(now)) if schedule else None,
        "next_drill": iso(next_drill) if next_drill else None,
        "free_bytes": free,
    }
    return Standing(section.name, known, tuple(problems))


def _of_sets(
    state: State, schedule: Schedule | None, now: datetime, *, making: bool
) -> list[Problem]:
    found = []
    # Those of a host that this one replaces count until it has its own.
    at = state.own_at or state.newest_at
    attempt = state.tries.get("backup")
    failed = bool(
        attempt and attempt.failed and (state.own_at is None or iso(state.own_at) < attempt.at)
    )
    if attempt and failed:
        found.append(Problem("backup-failed", f"the backup {attempt.words}"))
    if at is None:
        found.append(Problem("no-set", "there is no complete set"))
    elif schedule:
        slot = _wanted(schedule, now)
        # A large one takes longer than that; one that is tried again is missing until it is there.
        if at < slot and not (making and not failed):
            words = f"no backup since {iso(at)}: that of {iso(slot)} is missing"
            found.append(Problem("backup-missing", words))
    elif (now - at).total_seconds() > _OLDEST_S:
        words = f"no backup for {human_seconds((now - at).total_seconds())}"
        found.append(Problem("backup-missing", words))
    if state.beside:
        words = f"sets of host {state.beside} lie in the same directory: give each host a `backup_dir` of its own"
        found.append(Problem("shared-directory", words))
    found += [
        Problem("incomplete-set", f"a newer set is not complete: {words}")
        for words in state.incomplete
    ]
    found += [
        Problem("future-set", f"{name} is dated in the future: was a clock wrong?")
        for name in state.doubtful
    ]
    return found


def _of_drills(state: State, schedule: Schedule | None, now: datetime) -> list[Problem]:
    drill, attempt = state.last_drill, state.tries.get("drill")
    if drill and drill.verdict not in ("pass", "partial"):
        said_of = {"backup_bad": "found the backup bad", "environment": "could not be held here"}
        said = said_of.get(drill.verdict, f"ended as {drill.verdict}")
        broken = f": {drill.broken}" if drill.broken else ""
        return [
            Problem(
                " ".join([f"drill-{drill.verdict}", *drill.culprits]),
                f"the drill of {iso(drill.at)} {said} (set {drill.set_name or 'unknown'}){broken}",
            )
        ]
    if attempt and attempt.failed and (drill is None or iso(drill.at) < attempt.at):
        return [Problem("drill-failed", f"the drill {attempt.words}")]
    if drill is None:
        wanted = schedule is None or schedule.drill_day > 0
        missing = state.newest and wanted
        return [Problem("no-drill", "no drill has been held")] if missing else []
    slot = schedule.last_drill(now - timedelta(seconds=_DRILL_GRACE_S)) if schedule else None
    if slot and drill.at < slot:
        words = f"no drill since {iso(drill.at)}: that of {iso(slot)} is missing"
        return [Problem("drill-missing", words)]
    return []


def _of_encryption(state: State) -> list[Problem]:
    """That the newest set is not encrypted, and the backup before it was."""
    newest = state.newest.recovery_set if state.newest else None
    if newest is None or newest.require_manifest().encryption:
        return []
    sets = [one.recovery_set for one in state.sets]
    if before := encrypted_before(sets[sets.index(newest) + 1 :]):
        words = f"the newest set, {newest.name}, is NOT encrypted, and {before} before it is"
        return [Problem("plain-set", words)]
    return []


def _of_rows(section: Section, state: State, now: datetime) -> list[Problem]:
    known = candidates(state.sets, section.database)
    loss = waiting_loss(section.directory, section.database, known, now)
    if loss:
        words = f"{loss}: was data lost? Nothing is pruned until `firedrill acknowledge`"
        return [Problem("rows-lost", words)]
    return []


def _of_room(state: State, free: int | None) -> list[Problem]:
    if state.newest and free is not None and free < _SETS_OF_ROOM * state.newest.bytes:
        size = human_bytes(state.newest.bytes)
        words = f"little room: {human_bytes(free)} free, the newest set has {size}"
        return [Problem("little-room", words)]
    return []


def _of_prunes(state: State, offsite: Sequence[dict[str, Any]]) -> list[Problem]:
    """That what is too old could not be removed."""
    here, far = state.tries.get("prune"), state.tries.get("prune-far")
    found = []
    if here and here.failed:
        found.append(Problem("prune-failed", f"the prune {here.words}"))
    if far and far.failed and offsite:
        found.append(Problem("prune-far-failed", f"the prune of copies {far.words}"))
    return found


def _of_the_application(section: Section, now: datetime) -> list[Problem]:
    """The container, and restores that were killed and not settled."""
    found = []
    try:
        for entry in interrupted(section.directory, section.database):
            if not is_at_it(entry.owner, entry.at, now):
                words = f"the {entry.action} of {entry.at} has not ended (`firedrill settle` ends one that was killed)"
                found.append(Problem(f"{entry.action}-interrupted", words))
        target = section.target(password=False)
        Containers().find(name=target.container, project=target.project, service=target.service)
    except FiredrillError as error:
        found.append(Problem(f"application {type(error).__name__}", error.what))
    return found
