# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which recovery sets may go: dates in, verdicts out. Touches no file and asks no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from math import ceil

from . import kinds
from .manifest import Manifest
from .model import human_seconds, iso

#: A board without a battery starts its clock in 1970 until the network sets it.
_CLOCK_WAS_SET = datetime(2000, 1, 1, tzinfo=timezone.utc)
_DAY_S = 86400.0
#: Nights are missed now and then.
_SHORTEST_PAUSE_S = 2 * _DAY_S
#: Where nothing tells how often backups are made: somebody may make one a month.
_PAUSE_S = 60 * _DAY_S


@dataclass(frozen=True)
class Policy:
    """What to keep of one database; a rule only ever adds reasons to keep.

    `days`: every set that is at most so old. The others: the newest set of each of so many days, ISO weeks, months
    and years (UTC) that have any.
    """

    days: float = 7
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0

    @property
    def doubt(self) -> str:
        """Why no set can be judged by it; else ""."""
        if not self.days >= 0:
            return f"{self.days} is no number of days"
        if min(self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly) < 0:
            return "A number of sets to keep is below 0"
        return ""

    def __str__(self) -> str:
        counts = (f"{count} {name}" for name, count, unused_key in _periods(self) if count)
        return ", ".join([f"{self.days:g} days", *counts])


#: A policy as the settings have it.
SETTINGS = kinds.fields(
    {
        "days": kinds.number(0),
        "keep_daily": kinds.number(0, whole=True),
        "keep_weekly": kinds.number(0, whole=True),
        "keep_monthly": kinds.number(0, whole=True),
        "keep_yearly": kinds.number(0, whole=True),
    }
)


@dataclass(frozen=True)
class Candidate:
    """A complete set: its name, when its snapshot was taken, its rows, and what drills said of it.

    `partly`: it passed a drill, or all was good that one could test. `rows` is None when it has some and nobody counted
    them. `safety`: a restore made it, so it may hold the very accident that the restore was to undo. `unconfirmed`: the
    targets that are to hold a copy and are not known to.
    """

    name: str
    created: datetime
    passed: bool = False
    partly: bool = False
    damaged: bool = False
    safety: bool = False
    rows: int | None = None
    unconfirmed: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> Candidate:
        """What the manifest alone says of a set."""
        return cls(
            manifest.name,
            manifest.created,
            safety=manifest.purpose == "safety",
            rows=manifest.rows,
        )

    @property
    def promising(self) -> bool:
        """Whether one would restore it, unless told otherwise."""
        return not (self.damaged or self.safety)


@dataclass(frozen=True)
class Decision:
    """Whether a set stays, and why, in words."""

    name: str
    keep: bool
    reason: str


@dataclass(frozen=True)
class Loss:
    """Two backups that followed each other, of which the later has less than half the rows, or none any more."""

    before: Candidate
    after: Candidate

    def __str__(self) -> str:
        had = "some" if self.before.rows is None else self.before.rows
        return (
            f"{self.after.name} has {self.after.rows} rows, {self.before.name} before it had {had}"
        )


class History:
    """When the backups of one database were made that are known, and the long times without any: the pauses.

    Where the clock is ahead all sets but the new ones seem old, and where the host was off for longer than sets are kept,
    all of them are. So a set from before a pause stays until that is over for `days`, or there are newer backups of one
    day (UTC) more than that: what goes then would have gone in any case. The second is for a host that is on now and then,
    and always has a pause behind it.

    A pause is longer than `days`, than two days, and than twice the time between the two backups before it, for somebody
    may make one a week; or, where there is but one before it, than 60 days. Pruning leaves such times too, but they are
    over for about `days` and soon for longer.
    """

    def __init__(self, sets: Iterable[Candidate], policy: Policy, now: datetime) -> None:
        self._backups = [one.created for one in _backups(sets, now)]
        self._policy = policy
        self._days_wanted = ceil(policy.days) + 1
        shortest_s = max(policy.days * _DAY_S, _SHORTEST_PAUSE_S)
        self._pauses: list[tuple[datetime, datetime]] = []
        for ended, began, before in zip(
            [now, *self._backups], self._backups, [*self._backups[1:], None]
        ):
            if _seconds(now, ended) > policy.days * _DAY_S:
                break
            longest_s = max(shortest_s, 2 * _seconds(began, before)) if before else _PAUSE_S
            if _seconds(ended, began) > longest_s:
                self._pauses.append((began, ended))

    def why_spared(self, candidate: Candidate) -> str:
        """Why a set is not to go though it seems old, in words; else ""."""
        pause = next((one for one in self._pauses if candidate.created <= one[0]), None)
        newer = {
            at.astimezone(timezone.utc).date() for at in self._backups if at > candidate.created
        }
        if pause is None or len(newer) >= self._days_wanted:
            return ""
        return (
            f"there was no backup {_between(*pause)}, and there are newer ones of {len(newer)} days, "
            f"not yet of {self._days_wanted}"
        )

    def fresh_pause(self) -> str:
        """A pause that nobody was told of yet, in words: it lasts, or ended with the newest backup; else ""."""
        if not self._pauses or self._pauses[0][1] < self._backups[0]:
            return ""
        return (
            f"there was no backup {_between(*self._pauses[0])}: is the clock right? Sets from before it stay until it "
            f"is over for {self._policy.days:g} days, or there are newer ones of {self._days_wanted} days"
        )


#: Whatever the age, the newest set of each kind stays.
_NEWEST_OF = (
    ("it is the newest complete set", lambda candidate: True),
    ("it is the newest backup that no drill found damaged", lambda candidate: candidate.promising),
    ("it is the newest set that passed a drill", lambda candidate: candidate.passed),
    (
        "it is the newest set of which a drill found good what it tested",
        lambda candidate: candidate.partly,
    ),
)


def decide(
    sets: Iterable[Candidate],
    policy: Policy,
    now: datetime,
    *,
    hold: str = "",
    history: History | None = None,
) -> list[Decision]:
    """What to do with the complete sets of one database; their names are distinct.

    A set whose date cannot be right says nothing about its age, so it is kept, and it never takes the
    place of the newest.

    :param hold: why nothing may go now, in words.
    :param history: when backups were made, so that a long time without any does not cost those from before it.
    :returns: one decision for each set, newest first.
    :raises ValueError: the policy makes no sense.
    """
    if policy.doubt:
        raise ValueError(policy.doubt)
    ordered = _newest_first(sets)
    reasons = {candidate.name: _doubt(candidate, now) for candidate in ordered}
    dated = [candidate for candidate in ordered if not reasons[candidate.name]]
    for reason, belongs in _NEWEST_OF:
        newest = next((candidate for candidate in dated if belongs(candidate)), None)
        if newest and not reasons[newest.name]:
            reasons[newest.name] = reason
    kept_for = _representatives(dated, policy)
    decisions = []
    for candidate in ordered:
        age_s = _seconds(now, candidate.created)
        old = f"it is {human_seconds(age_s)} old"
        reason = reasons[candidate.name]
        if not reason and age_s <= policy.days * _DAY_S:
            reason = f"{old}, sets are kept for {policy.days:g} days"
        if not reason and candidate.name in kept_for:
            reason = kept_for[candidate.name]
        if not reason and candidate.unconfirmed:
            reason = f"{old}, but it is not confirmed at {', '.join(candidate.unconfirmed)}"
        if not reason and hold:
            reason = f"{old}, but {hold}"
        if not reason and history and (spared := history.why_spared(candidate)):
            reason = f"{old}, but {spared}"
        if reason:
            decisions.append(Decision(candidate.name, True, reason))
        else:
            words = f"{old}, older than {policy.days:g} days"
            decisions.append(Decision(candidate.name, False, words))
    return decisions


def find_loss(
    sets: Iterable[Candidate], now: datetime, seen_until: datetime | None = None
) -> Loss | None:
    """The latest loss of rows that nobody has looked at and that lasts: the newest backup has not got them back.

    It lasts beyond the next backup: that one is as small, and says nothing of why. Dates that cannot be right are
    passed over, and so are backups without counted rows; but that there is none, is known without counting.

    :param seen_until: backups up to this moment were judged already; one in the future says nothing.
    """
    backups = _backups(sets, now)
    for position, after in enumerate(backups):
        if seen_until and after.created <= seen_until <= now:
            break
        before = _comparable(backups[position + 1 :], after)
        if before and _halved(before, after) and _lasts(before, backups):
            return Loss(before, after)
    return None


def backup_before(sets: Iterable[Candidate], after: Candidate) -> Candidate | None:
    """The newest backup from before one set that it can be compared with, and whose date can be right."""
    earlier = (
        one
        for one in _backups(sets, after.created)
        if (one.created, one.name) < (after.created, after.name)
    )
    return _comparable(earlier, after)


def loss_before(sets: Iterable[Candidate], after: Candidate) -> Loss | None:
    """The loss of rows between one set, of whatever purpose, and the backup before it."""
    before = backup_before(sets, after)
    return Loss(before, after) if before and _halved(before, after) else None


def newest_dated(sets: Iterable[Candidate], now: datetime) -> Candidate | None:
    """The newest set whose date can be right."""
    return next((one for one in _newest_first(sets) if not _doubt(one, now)), None)


def _seconds(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds()


def _between(began: datetime, ended: datetime) -> str:
    length = human_seconds(_seconds(ended, began))
    return f"between {iso(began)} and {iso(ended)} ({length})"


def _backups(sets: Iterable[Candidate], now: datetime) -> list[Candidate]:
    """The backups whose date can be right, newest first."""
    return [one for one in _newest_first(sets) if not one.safety and not _doubt(one, now)]


def _comparable(earlier: Iterable[Candidate], after: Candidate) -> Candidate | None:
    """The first of the backups before one that tells whether rows were lost: an empty one has fewer than any that is
    not, whether its rows were counted or not."""
    return next((one for one in earlier if one.rows is not None or after.rows == 0), None)


def _lasts(before: Candidate, backups: Iterable[Candidate]) -> bool:
    """Whether the newest backup that can be compared has not got the rows back."""
    newest = next(one for one in backups if one.rows is not None or before.rows is None)
    return _halved(before, newest)


def _halved(before: Candidate, after: Candidate) -> bool:
    if after.rows is None:
        return False
    return after.rows == 0 if before.rows is None else after.rows * 2 < before.rows


def _newest_first(sets: Iterable[Candidate]) -> list[Candidate]:
    return sorted(sets, key=lambda candidate: (candidate.created, candidate.name), reverse=True)


def _periods(policy: Policy) -> tuple[tuple[str, int, str], ...]:
    """The counting rules: their name, how many, and how a moment's period is written."""
    return (
        ("daily", policy.keep_daily, "%Y-%m-%d"),
        ("weekly", policy.keep_weekly, "%G-W%V"),
        ("monthly", policy.keep_monthly, "%Y-%m"),
        ("yearly", policy.keep_yearly, "%Y"),
    )


def _representatives(dated: Sequence[Candidate], policy: Policy) -> dict[str, str]:
    """The sets that stand for a period, with the reason. What nobody would restore stands for none."""
    found: dict[str, str] = {}
    for name, count, key in _periods(policy):
        newest_of: dict[str, Candidate] = {}
        for candidate in dated:
            if candidate.promising:
                period = candidate.created.astimezone(timezone.utc).strftime(key)
                newest_of.setdefault(period, candidate)
        for period, candidate in list(newest_of.items())[:count]:
            reason = f"it is the newest of {period}, {count} {name} sets are kept"
            found.setdefault(candidate.name, reason)
    return found


def _doubt(candidate: Candidate, now: datetime) -> str:
    if candidate.created > now:
        return f"its date {iso(candidate.created)} is in the future: was a clock wrong?"
    if candidate.created < _CLOCK_WAS_SET:
        return f"its date {iso(candidate.created)} cannot be right: the clock was not set"
    return ""
