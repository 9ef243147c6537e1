# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is a problem of a host depends on what its schedule promises."""

from __future__ import annotations

import platform
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    attempts as of_attempts,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    journal as of_journal,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import Section
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import HostError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.journal import (
    Entry,
    Journal,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import iso, utc_now
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.prune import (
    PruneRequest,
    prune,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.schedule import Schedule
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.status import status_rows


@pytest.mark.parametrize(
    ("schedule", "missing"), [(Schedule(drill_day=0), False), (Schedule(), True), (None, True)]
)
def test_that_no_drill_was_held_is_a_problem_unless_the_schedule_wants_none(
    tmp_path: Path, schedule: Schedule | None, missing: bool
) -> None:
    now = utc_now()
    lay_out(tmp_path, created=now - timedelta(hours=1))
    section = Section("shop", tmp_path, {"container": "none"})
    (row,) = status_rows([section], schedule, now)
    assert ("no drill has been held" in row["problems"]) is missing


NOW = datetime(2026, 2, 19, 12, tzinfo=timezone.utc)


def told(directory: Path, schedule: Schedule | None = None, now: datetime = NOW) -> str:
    """The problems of that database in one text."""
    (row,) = status_rows([Section("shop", directory, {"container": "none"})], schedule, now)
    return "\n".join(row["problems"])


def hours_ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def test_a_restore_is_interrupted_when_its_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, "shop-db-1", "shop")
    entry = journal.write(Entry("run", "restore", "swap", "shop-db-1", "shop"))
    assert "has not ended" not in told(tmp_path, now=utc_now())
    # It hangs.
    assert "has not ended" in told(tmp_path, now=utc_now() + timedelta(days=1))
    monkeypatch.setattr(of_journal, "owner_mark", lambda: "another-boot/1/1")
    entry = journal.write(entry, step="stopping")
    assert f"the restore of {entry.at} has not ended" in told(tmp_path)
    journal.write(entry, step="failed")
    assert "has not ended" not in told(tmp_path)


def test_a_prune_that_fails_is_told_until_one_succeeds(tmp_path: Path) -> None:
    request = PruneRequest(tmp_path, database="shop")
    lay_out(tmp_path, created=hours_ago(1))
    # Where it cannot be read what restores were about, nothing goes.
    journal = tmp_path / "shop.journal"
    journal.mkdir()
    for check in (True, False):
        with pytest.raises(HostError):
            prune(replace(request, check=check))
        assert ("the prune of " in told(tmp_path)) is not check
    assert f"failed: The journal {journal} cannot be read" in told(tmp_path)
    journal.rmdir()
    prune(replace(request, check=True))
    assert "the prune of " in told(tmp_path)
    prune(request)
    assert "the prune of " not in told(tmp_path)


# -- one directory, two hosts --------------------------------------------------------------------------


def test_a_host_whose_sets_lie_among_ours_is_named(tmp_path: Path) -> None:
    for hours, host in ((35, platform.node()), (34, "another"), (11, platform.node())):
        lay_out(tmp_path, created=hours_ago(hours), host=host)
    words = (
        "sets of host another lie in the same directory: give each host a `backup_dir` of its own"
    )
    assert words in told(tmp_path)
    # By then the other one has moved.
    assert words not in told(tmp_path, now=NOW + timedelta(days=1))


def test_a_host_that_tries_in_vain_where_another_makes_its_sets_is_told(tmp_path: Path) -> None:
    lay_out(tmp_path, created=hours_ago(2), host="another")
    attempts = Attempts(tmp_path, "shop")
    # On new hardware: the last set of the old one is older.
    attempts.begin("backup", hours_ago(1), hours_ago(1))
    assert "same directory" not in told(tmp_path)
    attempts.begin("backup", hours_ago(3), hours_ago(3))
    attempts.end("backup")
    assert "sets of host another lie in the same directory" in told(tmp_path)


def test_the_sets_of_another_host_do_not_stand_for_ours_that_are_missing(tmp_path: Path) -> None:
    lay_out(tmp_path, created=hours_ago(40), host=platform.node())
    lay_out(tmp_path, created=hours_ago(1), host="another")
    assert f"no backup since {iso(hours_ago(40))}" in told(tmp_path, Schedule())


@pytest.mark.parametrize("own", [False, True])
def test_on_new_hardware_under_another_name_and_on_a_host_that_only_drills_nothing_is_wrong(
    tmp_path: Path, own: bool
) -> None:
    for hours in (35, 2):
        lay_out(tmp_path, created=hours_ago(hours), host="another")
    if own:
        lay_out(tmp_path, created=hours_ago(1), host=platform.node())
    for schedule in (Schedule(), None):
        assert "same directory" not in told(tmp_path, schedule)
        assert "no backup" not in told(tmp_path, schedule)


# -- a backup that takes long --------------------------------------------------------------------------


def test_a_backup_is_not_missing_while_it_is_being_made(tmp_path: Path) -> None:
    lay_out(tmp_path, created=hours_ago(40), host=platform.node())
    schedule = Schedule()
    slot = schedule.last_backup(hours_ago(2))
    attempts = Attempts(tmp_path, "shop")
    assert "is missing" in told(tmp_path, schedule)
    attempts.begin("backup", slot, slot)
    assert "is missing" not in told(tmp_path, schedule)
    # A whole day is too long, and so is what a failed one takes to be tried again.
    attempts.begin("backup", slot, hours_ago(25))
    assert "is missing" in told(tmp_path, schedule)
    attempts.begin("backup", slot, hours_ago(1))
    attempts.end("backup", "no disk")
    attempts.begin("backup", slot, hours_ago(1))
    assert "is missing" in told(tmp_path, schedule)


def test_a_backup_whose_process_is_gone_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, created=hours_ago(40), host=platform.node())
    schedule = Schedule()
    slot = schedule.last_backup(hours_ago(2))
    monkeypatch.setattr(of_attempts, "owner_mark", lambda: "another-boot/1/1")
    Attempts(tmp_path, "shop").begin("backup", slot, slot)
    assert "is missing" in told(tmp_path, schedule)


def test_a_backup_that_waits_for_that_of_another_database_is_not_missing(tmp_path: Path) -> None:
    settings = {"container": "none", "database": "shop"}
    sections = [Section(name, tmp_path / name, settings) for name in ("wiki", "shop")]
    for section in sections:
        section.directory.mkdir()
        lay_out(section.directory, created=hours_ago(40), host=platform.node())
    schedule = Schedule()
    slot = schedule.last_backup(hours_ago(2))
    wiki, shop = (Attempts(section.directory, section.database) for section in sections)

    def missing(now: datetime = NOW) -> set[str]:
        rows = status_rows(sections, schedule, now)
        return {row["name"] for row in rows if "is missing" in "\n".join(row["problems"])}

    assert missing() == {"wiki", "shop"}
    wiki.begin("backup", slot, slot)
    assert missing() == set()
    # One that has failed does not wait for its first turn; and nobody waits for a whole day.
    shop.begin("backup", slot, slot)
    shop.end("backup", "no disk")
    assert missing() == {"shop"}
    assert missing(NOW + timedelta(days=1)) == {"wiki", "shop"}
