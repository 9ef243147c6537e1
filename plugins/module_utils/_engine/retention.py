# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which recovery sets may go: dates in, verdicts out. Touches no file and asks no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

from .model import human_seconds, iso

#: A board without a battery starts its clock in 1970 until the network sets it.
_CLOCK_WAS_SET = datetime(2000, 1, 1, tzinfo=timezone.utc)
_DAY_S = 86400.0


@dataclass(frozen=True)
class Policy:
    """What to keep of one database. `days`: every set that is at most so old.

    A further rule (so many daily, weekly ones) becomes a further field: rules only ever add reasons to keep.
    """

    days: float = 7


@dataclass(frozen=True)
class Candidate:
    """A complete set: its name, when its snapshot was taken, and what drills said of it.

    `safety`: a restore made it, so it may hold the very accident that the restore was to undo.
    """

    name: str
    created: datetime
    passed: bool = False
    found_bad: bool = False
    safety: bool = False

    @property
    def promising(self) -> bool:
        """Whether one would restore it, unless told otherwise."""
        return not (self.found_bad or self.safety)


@dataclass(frozen=True)
class Decision:
    """Whether a set stays, and why, in words."""

    name: str
    keep: bool
    reason: str


#: Whatever the age, the newest set of each kind stays.
_NEWEST_OF = (
    ("it is the newest complete set", lambda candidate: True),
    ("it is the newest backup that no drill found bad", lambda candidate: candidate.promising),
    ("it is the newest set that passed a drill", lambda candidate: candidate.passed),
)


def decide(sets: Iterable[Candidate], policy: Policy, now: datetime) -> list[Decision]:
    """What to do with the complete sets of one database; their names are distinct.

    A set whose date cannot be right says nothing about its age, so it is kept, and it never takes the
    place of the newest.

    :returns: one decision for each set, newest first.
    :raises ValueError: the policy's days are not a number from 0 on.
    """
    if not policy.days >= 0:
        raise ValueError(f"{policy.days} is no number of days")
    ordered = sorted(sets, key=lambda candidate: (candidate.created, candidate.name), reverse=True)
    reasons = {candidate.name: _doubt(candidate, now) for candidate in ordered}
    dated = [candidate for candidate in ordered if not reasons[candidate.name]]
    for reason, belongs in _NEWEST_OF:
        newest = next((candidate for candidate in dated if belongs(candidate)), None)
        if newest and not reasons[newest.name]:
            reasons[newest.name] = reason
    decisions = []
    for candidate in ordered:
        reason = reasons[candidate.name]
        age_s = (now - candidate.created).total_seconds()
        if not reason and age_s <= policy.days * _DAY_S:
            reason = f"it is {human_seconds(age_s)} old, sets are kept for {policy.days:g} days"
        if reason:
            decisions.append(Decision(candidate.name, True, reason))
        else:
            words = f"it is {human_seconds(age_s)} old, older than {policy.days:g} days"
            decisions.append(Decision(candidate.name, False, words))
    return decisions


def _doubt(candidate: Candidate, now: datetime) -> str:
    if candidate.created > now:
        return f"its date {iso(candidate.created)} is in the future: was a clock wrong?"
    if candidate.created < _CLOCK_WAS_SET:
        return f"its date {iso(candidate.created)} cannot be right: the clock was not set"
    return ""
