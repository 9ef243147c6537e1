# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When the host backs itself up and drills, in its own local time. Pure: a moment in, moments out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

#: Every month has this day.
LAST_DAY = 28


@dataclass(frozen=True)
class Schedule:
    """A backup every day at `backup`, a drill on day `drill_day` of the month at `drill`; day 0: no drills."""

    backup: time = time(2, 0)
    drill: time = time(3, 30)
    drill_day: int = 1

    def last_backup(self, now: datetime) -> datetime:
        """The latest moment, up to now, at which a backup was to begin."""
        today = _at(now.astimezone().date(), self.backup)
        return today if today <= now else _at(_day(today, -1), self.backup)

    def next_backup(self, now: datetime) -> datetime:
        """The next moment after now."""
        today = _at(now.astimezone().date(), self.backup)
        return today if today > now else _at(_day(today, 1), self.backup)

    def last_drill(self, now: datetime) -> datetime | None:
        """As last_backup(); None when no drill is wanted."""
        if not self.drill_day:
            return None
        this = _at(now.astimezone().date().replace(day=self.drill_day), self.drill)
        if this <= now:
            return this
        before = this.date().replace(day=1) - timedelta(days=1)
        return _at(before.replace(day=self.drill_day), self.drill)

    def next_drill(self, now: datetime) -> datetime | None:
        """As next_backup(); None when no drill is wanted."""
        if not self.drill_day:
            return None
        this = _at(now.astimezone().date().replace(day=self.drill_day), self.drill)
        if this > now:
            return this
        after = this.date().replace(day=LAST_DAY) + timedelta(days=4)
        return _at(after.replace(day=self.drill_day), self.drill)

    def __str__(self) -> str:
        drills = f"a drill on day {self.drill_day} of the month at {self.drill:%H:%M}"
        return f"a backup every day at {self.backup:%H:%M}, {drills if self.drill_day else 'no drills'}"


def _at(day: date, moment: time) -> datetime:
    """That wall clock time on that day; where the clocks skip it, as far after midnight."""
    return datetime.combine(day, moment).astimezone()


def _day(moment: datetime, shift: int) -> date:
    return moment.date() + timedelta(days=shift)
