# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The moments of the schedule in local time, and what is due at one."""

from __future__ import annotations

import platform
import time as clock_of_the_system
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, time, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import state as of_state
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report, iso
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.report import (
    LOG_NAME,
    append_json,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.schedule import Schedule
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.state import look

# Written out, as tzset(3) has it, so that no list of time zones is needed.
BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
#: Here the hour before midnight is skipped.
NUUK = "<-02>2<-01>,M3.5.0/-1,M10.5.0/0"
#: Here the hour after midnight is skipped, in Santiago on a first day of a month now and then.
CAIRO = "EET-2EEST,M4.5.5/0,M10.5.4/24"
SANTIAGO = "<-04>4<-03>,M9.1.6/24,M4.1.6/24"
NEW_YORK = "EST5EDT,M3.2.0,M11.1.0"
CHATHAM = "<+1245>-12:45<+1345>,M9.5.0/2:45,M4.1.0/3:45"
ZONES = [BERLIN, NUUK, CAIRO, SANTIAGO, NEW_YORK, CHATHAM, "UTC0"]


@contextmanager
def living_in(zone: str) -> Iterator[None]:
    """Local time is that of `zone` inside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", zone)
        clock_of_the_system.tzset()
        try:
            yield
        finally:
            patch.undo()
            clock_of_the_system.tzset()


@pytest.fixture
def berlin() -> Iterator[None]:
    with living_in(BERLIN):
        yield


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


EPOCH = utc("2026-01-01 00:00")


def moments(found: list[datetime | None]) -> list[str]:
    return [f"{one.astimezone(timezone.utc):%m-%d %H:%M}" for one in found if one]


def backups(schedule: Schedule, after: str, count: int) -> list[str]:
    found: list[datetime | None] = []
    now = utc(after)
    for unused_one in range(count):
        now = schedule.next_backup(now)
        found.append(now)
    return moments(found)


def drills(schedule: Schedule, after: str, count: int) -> list[str]:
    found: list[datetime | None] = []
    now: datetime | None = utc(after)
    for unused_one in range(count):
        now = schedule.next_drill(now) if now else None
        found.append(now)
    return moments(found)


# -- moments -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("berlin")
def test_a_backup_is_at_the_same_local_time_in_summer_and_in_winter() -> None:
    schedule = Schedule(backup=time(4, 0))
    assert backups(schedule, "2026-03-28 00:00", 2) == ["03-28 03:00", "03-29 02:00"]
    assert backups(schedule, "2026-10-24 00:00", 2) == ["10-24 02:00", "10-25 03:00"]


@pytest.mark.usefixtures("berlin")
def test_a_time_that_the_clocks_skip_has_come_when_they_have_skipped_it() -> None:
    """What calls at 02:30 calls right after the hour that is left out, at 01:00 UTC."""
    schedule = Schedule(backup=time(2, 30))
    assert backups(schedule, "2026-03-28 00:00", 3) == ["03-28 01:30", "03-29 00:30", "03-30 00:30"]


@pytest.mark.usefixtures("berlin")
def test_a_time_that_the_clocks_have_twice_is_one_backup() -> None:
    schedule = Schedule(backup=time(2, 30))
    assert backups(schedule, "2026-10-24 12:00", 2) == ["10-25 00:30", "10-26 01:30"]
    between = utc("2026-10-25 01:00")
    assert moments([schedule.last_backup(between)]) == ["10-25 00:30"]


@pytest.mark.usefixtures("berlin")
def test_the_day_of_the_month_is_the_local_one() -> None:
    """Half past midnight of the first is still the month before in UTC."""
    schedule = Schedule(drill=time(0, 30), drill_day=1)
    assert drills(schedule, "2026-01-31 12:00", 2) == ["01-31 23:30", "02-28 23:30"]
    assert moments([schedule.last_drill(utc("2026-01-31 23:29"))]) == ["12-31 23:30"]
    assert moments([schedule.last_drill(utc("2026-01-31 23:30"))]) == ["01-31 23:30"]


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("day", [1, 15, 28])
def test_every_month_has_one_drill_from_whichever_day_one_asks(day: int) -> None:
    schedule = Schedule(drill=time(12, 0), drill_day=day)
    asked = utc("2027-12-20 00:00")
    while asked < utc("2029-02-01 00:00"):
        last, following = schedule.last_drill(asked), schedule.next_drill(asked)
        assert last
        assert following
        months = [one.year * 12 + one.month for one in (last, following)]
        assert months[1] - months[0] == 1, asked
        assert last <= asked < following
        assert {last.day, following.day} == {day}
        asked += timedelta(hours=6)


def test_without_a_day_there_are_no_drills() -> None:
    schedule = Schedule(drill_day=0)
    now = utc("2026-02-19 12:00")
    assert (schedule.last_drill(now), schedule.next_drill(now)) == (None, None)
    assert "no drills" in str(schedule)


@settings(deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    at=st.times().map(lambda one: one.replace(second=0, microsecond=0, fold=0)),
    day=st.integers(1, 28),
    now=st.integers(0, 5 * 365 * 24 * 60).map(lambda minutes: EPOCH + timedelta(minutes=minutes)),
)
@example(zone=NUUK, at=time(23, 30), day=28, now=utc("2026-03-29 00:29"))
@example(zone=NUUK, at=time(23, 30), day=28, now=utc("2026-03-29 01:15"))
@example(zone=CAIRO, at=time(0, 30), day=24, now=utc("2026-04-23 21:45"))
@example(zone=SANTIAGO, at=time(0, 30), day=1, now=utc("2030-09-01 03:45"))
def test_a_moment_lies_between_the_last_and_the_next_and_none_is_left_out(
    zone: str, at: time, day: int, now: datetime
) -> None:
    schedule = Schedule(backup=at, drill=at, drill_day=day)
    with living_in(zone):
        last, following = schedule.last_backup(now), schedule.next_backup(now)
        assert last <= now < following
        assert timedelta(hours=22) < following - last < timedelta(hours=26)
        assert schedule.last_backup(following) == following
        assert schedule.next_backup(last) == following
        last_drill, next_drill = schedule.last_drill(now), schedule.next_drill(now)
        assert last_drill
        assert next_drill
        assert last_drill <= now < next_drill
        assert timedelta(days=27) < next_drill - last_drill < timedelta(days=32)
        assert schedule.last_drill(next_drill) == next_drill
        assert schedule.next_drill(last_drill) == next_drill


# -- what is due -------------------------------------------------------------------------------------

SCHEDULE = Schedule(time(2, 0), time(3, 30), 1)
NOW = utc("2026-02-19 12:00")
SLOT = utc("2026-02-19 02:00")
DRILL_SLOT = utc("2026-02-01 03:30")


@pytest.fixture
def in_utc() -> Iterator[None]:
    with living_in("UTC0"):
        yield


def due(directory: Path, now: datetime = NOW) -> tuple[datetime | None, datetime | None]:
    """Since when a backup and a drill are due."""
    state = look(directory, "shop", now)
    return state.backup_due(SCHEDULE, now), state.drill_due(SCHEDULE, now, has_key=True)


def drilled(
    directory: Path, at: str, verdict: str, set_name: str, target: str = "throwaway"
) -> None:
    report = Report("drill", True, "", "shop", set_name=set_name, verdict=verdict)
    report.details.update(at=at, target=target)
    append_json(directory / LOG_NAME, report)


@pytest.mark.usefixtures("in_utc")
def test_without_any_set_a_backup_is_due_and_no_drill(tmp_path: Path) -> None:
    assert due(tmp_path) == (SLOT, None)
    assert due(tmp_path / "not there") == (SLOT, None)


@pytest.mark.usefixtures("in_utc")
def test_a_backup_is_due_from_its_moment_on_until_there_is_a_set_from_after_it(
    tmp_path: Path,
) -> None:
    lay_out(tmp_path, created=SLOT - timedelta(days=1), host=platform.node())
    assert due(tmp_path, SLOT - timedelta(seconds=1))[0] is None
    assert due(tmp_path, SLOT)[0] == SLOT
    # Of a host that keeps its sets in the same directory.
    lay_out(tmp_path, created=SLOT, host="another")
    assert due(tmp_path)[0] == SLOT
    lay_out(tmp_path, created=SLOT + timedelta(seconds=1), host=platform.node())
    assert due(tmp_path)[0] is None
    assert due(tmp_path, SLOT + timedelta(days=1))[0] == SLOT + timedelta(days=1)


@pytest.mark.usefixtures("in_utc")
def test_a_set_of_the_future_does_not_stop_the_backups(tmp_path: Path) -> None:
    lay_out(tmp_path, created=NOW + timedelta(days=3650))
    assert due(tmp_path) == (SLOT, None)


@pytest.mark.usefixtures("in_utc")
def test_a_set_that_lost_a_file_is_no_backup(tmp_path: Path) -> None:
    made = lay_out(tmp_path, created=SLOT)
    (tmp_path / made.dump.name).write_bytes(b"")
    assert due(tmp_path) == (SLOT, None)


@pytest.mark.usefixtures("in_utc")
def test_what_failed_is_tried_again_later_and_not_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = Attempts(tmp_path, "shop")
    tries.begin("backup", SLOT, NOW)
    # Nothing says how it ended: the power went.
    assert due(tmp_path)[0] == SLOT
    tries.end("backup", "no disk")
    monkeypatch.setattr(of_state, "uptime_s", lambda: 1e6)
    assert due(tmp_path, NOW + timedelta(minutes=5))[0] is None
    # The host went down meanwhile, and may have been about to when it failed.
    monkeypatch.setattr(of_state, "uptime_s", lambda: 60.0)
    assert due(tmp_path, NOW + timedelta(minutes=5))[0] == SLOT
    assert due(tmp_path, NOW + timedelta(seconds=50))[0] is None
    tries.begin("backup", SLOT, NOW)
    tries.end("backup", "no disk again")
    assert due(tmp_path, NOW + timedelta(minutes=5))[0] is None
    monkeypatch.setattr(of_state, "uptime_s", lambda: 1e6)
    assert due(tmp_path, NOW + timedelta(hours=2))[0] == SLOT
    tomorrow = SLOT + timedelta(days=1)
    assert due(tmp_path, tomorrow)[0] == tomorrow


@pytest.mark.usefixtures("in_utc")
def test_a_drill_is_due_until_one_has_shown_something_since_its_moment(tmp_path: Path) -> None:
    name = lay_out(tmp_path, created=SLOT).name
    assert due(tmp_path)[1] == DRILL_SLOT
    drilled(tmp_path, iso(DRILL_SLOT - timedelta(hours=1)), "pass", name)
    assert due(tmp_path)[1] == DRILL_SLOT
    for verdict in ("environment", "not_tested"):
        drilled(tmp_path, iso(DRILL_SLOT + timedelta(hours=1)), verdict, name)
        assert due(tmp_path)[1] == DRILL_SLOT
    # One of the live server says nothing about a set.
    drilled(tmp_path, iso(DRILL_SLOT + timedelta(hours=2)), "pass", name, target="live")
    assert due(tmp_path)[1] == DRILL_SLOT
    for verdict in ("partial", "pass"):
        drilled(tmp_path, iso(DRILL_SLOT + timedelta(hours=3)), verdict, name)
        assert due(tmp_path)[1] is None


@pytest.mark.usefixtures("in_utc")
def test_a_set_that_was_found_bad_does_not_answer_for_the_next_one(tmp_path: Path) -> None:
    bad = lay_out(tmp_path, created=SLOT - timedelta(hours=2)).name
    drilled(tmp_path, iso(SLOT - timedelta(hours=1)), "backup_bad", bad)
    assert due(tmp_path)[1] is None
    lay_out(tmp_path, created=SLOT)
    assert due(tmp_path)[1] == DRILL_SLOT


@pytest.mark.usefixtures("in_utc")
def test_no_drill_is_due_where_none_is_wanted(tmp_path: Path) -> None:
    lay_out(tmp_path, created=SLOT)
    state = look(tmp_path, "shop", NOW)
    assert state.drill_due(Schedule(drill_day=0), NOW, has_key=True) is None
