# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What there is to know about one database from its directory alone: its sets, its drills, the schedule's last tries."""

from __future__ import annotations

import contextlib
import math
import platform
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from .attempts import Attempt, Attempts
from .clock import is_ahead, uptime_s
from .filenames import stamp_of
from .listing import Listed, is_there, list_sets
from .model import iso, parse_time
from .recovery_set import RecoverySet
from .report import LOG_NAME, read_log
from .schedule import Schedule
from .vault import Vault

#: A drill with one of these has shown something about the backup; the others are to be repeated.
_HELD = ("pass", "partial")
#: Letters of what a drill found; the record has all of it.
_LONGEST = 400
#: A host that still makes backups has made one by then.
_ALIVE = timedelta(days=2)
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Drill:
    """The last drill in a throwaway server of the newest set that was drilled: one of an older set, by hand, says nothing of
    what the newer one was found to be. `broken` says which of its promises were not kept, or what ended it before they could be
    looked at; `culprits` only names the checks."""

    verdict: str
    at: datetime
    set_name: str
    broken: str = ""
    culprits: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """One database at a moment. `newest` is the newest complete set of its schedule or of a person, if any is dated
    up to now; `doubtful` names sets with a later date, `incomplete` newer ones that are not complete. `own_at` is when
    this host made its newest one, `beside` the other host that puts its sets between those; `up_s` are the seconds since
    this host was started."""

    newest: Listed | None = None
    own_at: datetime | None = None
    beside: str = ""
    up_s: float = math.inf
    sets: tuple[Listed, ...] = ()
    doubtful: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    last_drill: Drill | None = None
    last_pass_at: datetime | None = None
    rto_s: float = 0.0
    tries: dict[str, Attempt] = field(default_factory=dict)

    @property
    def newest_at(self) -> datetime | None:
        return self.newest.recovery_set.created if self.newest else None

    def backup_due(self, schedule: Schedule, now: datetime) -> datetime | None:
        """The moment of the schedule whose backup is missing and may be made now."""
        slot = schedule.last_backup(now)
        if self.own_at and self.own_at >= slot:
            return None
        return None if self._rests("backup", slot, now) else slot

    def drill_due(self, schedule: Schedule, now: datetime, *, has_key: bool) -> datetime | None:
        """The same of a drill; without a set there is nothing to drill.

        :param has_key: whether this host has a private key for sets that are encrypted.
        """
        slot, newest = schedule.last_drill(now), self.newest
        if slot is None or newest is None or self._rests("drill", slot, now):
            return None
        return None if self._drilled_since(slot, newest.recovery_set, has_key) else slot

    def _drilled_since(self, slot: datetime, newest: RecoverySet, has_key: bool) -> bool:
        last = self.last_drill
        if last is None or last.at < slot:
            return False
        if last.verdict == "not_tested" and newest.locked and not has_key:
            # A second look would show no more.
            return True
        # A set that was found bad does not answer for the next one.
        return last.verdict in _HELD or (
            last.verdict == "backup_bad" and last.set_name == newest.name
        )

    def _rests(self, job: str, slot: datetime, now: datetime) -> bool:
        attempt = self.tries.get(job)
        return bool(attempt and attempt.rests(slot, now, self.up_s))


def look(directory: Path, database: str, now: datetime) -> State:
    """Reads what is there.

    :raises HostError: the directory cannot be read, or its disk is not mounted; one that is not there holds nothing.
    """
    Vault(directory).require_disk()
    tries = Attempts(directory, database)
    latest = {job: tries.latest(job) for job in ("backup", "copy", "drill", "prune", "prune-far")}
    known = {job: attempt for job, attempt in latest.items() if attempt}
    if not is_there(directory):
        return State(tries=known, up_s=uptime_s())
    listed = [one for one in list_sets(directory, database) if one.database == database]
    backups = [one for one in listed if _purpose(one) == "backup"]
    dated = [one for one in backups if not is_ahead(one.recovery_set.created, now)]
    whole = [one for one in dated if one.complete]
    newest = next(iter(whole), None)
    own = [one.recovery_set.created for one in whole if _host(one) == platform.node()]
    newer = dated[: dated.index(newest)] if newest else dated
    log = read_log(directory / LOG_NAME)
    entries = [entry for entry in log if _is_drill(entry, database) and not _is_ahead(entry, now)]
    return State(
        newest=newest,
        own_at=max(own, default=None),
        beside=_beside(whole, own, known.get("backup"), now),
        up_s=uptime_s(),
        sets=tuple(listed),
        doubtful=tuple(one.recovery_set.name for one in backups if one not in dated),
        incomplete=tuple("; ".join(one.shortcomings) for one in newer),
        last_drill=_last_drill(entries, now),
        last_pass_at=_last_pass_at(entries),
        rto_s=next((float(e["rto_s"]) for e in reversed(entries) if _number(e.get("rto_s"))), 0.0),
        tries=known,
    )


def _purpose(listed: Listed) -> str:
    manifest = listed.recovery_set.manifest
    return manifest.purpose if manifest else ""


def _host(listed: Listed) -> str:
    return listed.recovery_set.require_manifest().source.host


def _beside(whole: list[Listed], own: list[datetime], tried: Attempt | None, now: datetime) -> str:
    """The other host that makes sets where this one makes or tries to make its own; "" for none. Where this host replaces
    another or got a new name, the sets of the other name are all older; one that only drills tries none."""
    other = next((one for one in whole if _host(one) != platform.node()), None)
    since = iso(min(own)) if own else tried.at if tried else ""
    if other is None or not since:
        return ""
    made = other.recovery_set.created
    return _host(other) if iso(made) > since and now - made < _ALIVE else ""


def _is_drill(entry: dict[str, Any], database: str) -> bool:
    return entry.get("action") == "drill" and entry.get("database") == database


def _is_ahead(entry: dict[str, Any], now: datetime) -> bool:
    """Whether a clock was ahead when it was held."""
    with contextlib.suppress(ValueError):
        return is_ahead(parse_time(str(entry.get("at", ""))), now)
    return False


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _last_drill(entries: list[dict[str, Any]], now: datetime) -> Drill | None:
    drills = [entry for entry in entries if entry.get("target") != "live"]
    # Of those of one set the last one counts.
    drills.sort(key=lambda entry: _made_at(entry, now))
    for entry in reversed(drills):
        with contextlib.suppress(ValueError):
            at = parse_time(str(entry.get("at", "")))
            name, verdict = str(entry.get("set_name", "")), str(entry.get("verdict", ""))
            broken = _broken(entry)
            # What ended it early is told by no check.
            words = str(entry.get("reason") or "")
            words = words or "; ".join(f"{label}: {reason}" for label, reason in broken)
            culprits = tuple(label for label, unused_reason in broken)
            return Drill(verdict, at, name, words[:_LONGEST], culprits)
    return None


def _made_at(entry: dict[str, Any], now: datetime) -> datetime:
    """When the set of a drill was made, by its name; one whose name does not tell, or a wrong time, is older than any."""
    made = stamp_of(str(entry.get("set_name", "")))
    return _LONG_AGO if made is None or is_ahead(made, now) else made


def _last_pass_at(entries: list[dict[str, Any]]) -> datetime | None:
    """When a set last passed, whichever it was."""
    for entry in reversed(entries):
        if entry.get("verdict") == "pass" and entry.get("target") != "live":
            with contextlib.suppress(ValueError):
                return parse_time(str(entry.get("at", "")))
    return None


def _broken(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """The checks that did not hold, each with its reason."""
    checks = entry.get("checks")
    return [
        (f"{check.get('kind')} {check.get('name')}", str(check.get("reason")))
        for check in (checks if isinstance(checks, list) else [])
        if isinstance(check, dict) and check.get("status") in ("failed", "error")
    ]
