# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When the host backs itself up and drills, in its own local time. Pure: a moment in, moments out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

#: Every month has this day.
LAST_DAY = 28
#: Days or months from today. Where the clocks skip the hour after midnight, a moment of tomorrow may lie in today.
_AROUND = (-1, 0, 1, 2)


@dataclass(frozen=True)
class Schedule:
    """A backup every day at `backup`, a drill on day `drill_day` of the month at `drill`; day 0: no drills."""

    backup: time = time(2, 0)
    drill: time = time(3, 30)
    drill_day: int = 1

    def last_backup(self, now: datetime) -> datetime:
        """The latest moment, up to now, at which a backup was to begin."""
        return max(moment for moment in self._backups(now) if moment <= now)

    def next_backup(self, now: datetime) -> datetime:
        """The next moment after now."""
        return min(moment for moment in self._backups(now) if moment > now)

    def last_drill(self, now: datetime) -> datetime | None:
        """As last_backup(); None when no drill is wanted."""
        return max((moment for moment in self._drills(now) if moment <= now), default=None)

    def next_drill(self, now: datetime) -> datetime | None:
        """As next_backup(); None when no drill is wanted."""
        return min((moment for moment in self._drills(now) if moment > now), default=None)

    def _backups(self, now: datetime) -> list[datetime]:
        today = now.astimezone().date()
        return [_at(today + timedelta(days=shift), self.backup) for shift in _AROUND]

    def _drills(self, now: datetime) -> list[datetime]:
        if not self.drill_day:
            return []
        today = now.astimezone().date()
        months = [today.year * 12 + today.month - 1 + shift for shift in _AROUND]
        days = [date(month // 12, month % 12 + 1, self.drill_day) for month in months]
        return [_at(day, self.drill) for day in days]

    def __str__(self) -> str:
        drills = f"a drill on day {self.drill_day} of the month at {self.drill:%H:%M}"
        return f"a backup every day at {self.backup:%H:%M}, {drills if self.drill_day else 'no drills'}"


def _at(day: date, moment: time) -> datetime:
    """That wall clock time on that day; where the clocks skip it, the moment that it is on a clock that was put forward
    before: cron and systemd call when the gap is over, and by then it has come."""
    return datetime.combine(day, moment).astimezone()
