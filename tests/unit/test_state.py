# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a drill is due: once for each time of the schedule, and again only where another try could show more."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import due as of_due
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import Section
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.due import _Drill, _Try
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import ToolError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report, iso
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.report import LOG_NAME
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.schedule import Schedule
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.state import look

NOW = datetime(2026, 2, 19, 12, tzinfo=timezone.utc)
KEY = {"identity_file": Path("/root/key")}


def drilled(directory: Path, verdict: str, at: datetime, set_name: str) -> None:
    """A line in the log of drills."""
    entry = {"action": "drill", "database": "shop", "verdict": verdict, "at": iso(at)}
    with (directory / LOG_NAME).open("a") as log:
        log.write(json.dumps({**entry, "set_name": set_name, "target": "scratch"}) + "\n")


def due(directory: Path, settings: dict[str, Any], now: datetime = NOW) -> datetime | None:
    """The time of the schedule for which a drill is due."""
    section = Section("shop", directory, {"container": "c", **settings})
    return _Drill(Schedule()).due(section, look(directory, "shop", now), now)


@pytest.mark.parametrize("method", ["age", "gpg"])
def test_a_drill_that_cannot_open_the_set_is_held_once_for_each_time_of_the_schedule(
    tmp_path: Path, method: str
) -> None:
    made = lay_out(tmp_path, method, created=NOW - timedelta(hours=10))
    assert due(tmp_path, {})
    drilled(tmp_path, "not_tested", NOW - timedelta(hours=2), made.name)
    assert due(tmp_path, {}) is None
    lay_out(tmp_path, method, created=NOW - timedelta(hours=1))
    assert due(tmp_path, {}) is None
    assert due(tmp_path, {}, NOW + timedelta(days=31))


def test_a_drill_that_could_show_more_now_is_due_again(tmp_path: Path) -> None:
    made = lay_out(tmp_path, "age", created=NOW - timedelta(hours=10))
    drilled(tmp_path, "not_tested", NOW - timedelta(hours=2), made.name)
    assert due(tmp_path, KEY)
    drilled(tmp_path, "environment", NOW - timedelta(hours=1), made.name)
    assert due(tmp_path, {})
    drilled(tmp_path, "pass", NOW, made.name)
    assert due(tmp_path, {}) is due(tmp_path, KEY) is None


def test_a_drill_of_a_set_that_is_not_encrypted_is_repeated_while_nothing_was_tested(
    tmp_path: Path,
) -> None:
    made = lay_out(tmp_path, created=NOW - timedelta(hours=10))
    drilled(tmp_path, "not_tested", NOW - timedelta(hours=2), made.name)
    assert due(tmp_path, {})


def test_a_drill_of_an_older_set_says_nothing_of_what_the_newer_was_found_to_be(
    tmp_path: Path,
) -> None:
    older = lay_out(tmp_path, created=NOW - timedelta(days=3))
    newest = lay_out(tmp_path, created=NOW - timedelta(hours=10))
    drilled(tmp_path, "backup_bad", NOW - timedelta(hours=8), newest.name)
    drilled(tmp_path, "pass", NOW - timedelta(hours=2), older.name)
    state = look(tmp_path, "shop", NOW)
    assert state.last_drill
    assert (state.last_drill.verdict, state.last_drill.set_name) == ("backup_bad", newest.name)
    assert state.last_pass_at == NOW - timedelta(hours=2)
    # It is drilled again once it passed, whichever name the others have.
    drilled(tmp_path, "environment", NOW - timedelta(hours=1), "a file of somebody")
    drilled(tmp_path, "pass", NOW, newest.name)
    state = look(tmp_path, "shop", NOW)
    assert state.last_drill
    assert (state.last_drill.verdict, state.last_drill.set_name) == ("pass", newest.name)


def test_a_drill_of_an_older_set_is_not_that_of_the_schedule(tmp_path: Path) -> None:
    older = lay_out(tmp_path, created=NOW - timedelta(days=60))
    middle = lay_out(tmp_path, created=NOW - timedelta(days=45))
    lay_out(tmp_path, created=NOW - timedelta(hours=10))
    drilled(tmp_path, "pass", NOW - timedelta(days=44), middle.name)
    drilled(tmp_path, "pass", NOW - timedelta(hours=2), older.name)
    assert due(tmp_path, {})


def test_a_drill_of_a_clock_that_was_ahead_makes_no_later_one_late(tmp_path: Path) -> None:
    made = lay_out(tmp_path, created=NOW - timedelta(hours=10))
    drilled(tmp_path, "pass", NOW - timedelta(days=40), made.name)
    drilled(tmp_path, "pass", NOW + timedelta(days=15000), made.name)
    state = look(tmp_path, "shop", NOW)
    assert state.last_drill
    assert state.last_drill.at == state.last_pass_at == NOW - timedelta(days=40)
    assert due(tmp_path, {})


def test_what_a_drill_of_the_schedule_found_is_noted_as_others_may_hear_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report("drill", changed=False, msg="no disk for public.orders", verdict="environment")
    report.discreet = replace(report, msg="no disk")
    monkeypatch.setattr(of_due, "uptime_s", lambda: 1e6)
    monkeypatch.setattr(of_due, "drill", lambda *unused: report)
    section = Section("shop", tmp_path, {"container": "c"})
    tried = _Try(_Drill(Schedule()), section, NOW)
    assert tried(None) is report
    noted = Attempts(tmp_path, "shop").latest("drill")
    assert noted
    assert noted.msg == "no disk"

    def fail(*unused: object) -> Report:
        raise ToolError("no table public.orders", told="it failed")

    monkeypatch.setattr(of_due, "drill", fail)
    with pytest.raises(ToolError):
        tried(None)
    noted = Attempts(tmp_path, "shop").latest("drill")
    assert noted
    assert noted.msg == "it failed"
