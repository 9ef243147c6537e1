# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies at a target go by the target's own policy, and only what is known to be whole there. A real rclone is asked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from recovery_sets import drilled, lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import Section
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import HostError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.holds import (
    AcknowledgeRequest,
    acknowledge,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import Ledger
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Report,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.offsite import (
    CopyRequest,
    copy_sets,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.prune import (
    PruneRequest,
    prune,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.prune_far import (
    PruneFarRequest,
    prune_far,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.retention import Policy
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.status import status_rows
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import (
    Offsite,
    RcloneTarget,
)

NOW = utc_now()


class Place:
    """A backup directory and one target, which is another directory."""

    def __init__(self, room: Path) -> None:
        self.here, self.there = room / "sets", room / "far" / "shop"
        self.here.mkdir()
        config = room / "rclone.conf"
        config.write_text("[disk]\ntype = local\n")
        self.target = RcloneTarget("disk", f"disk:{room / 'far'}", config)

    def sets(self, rows: dict[float, int], method: str = "") -> dict[float, str]:
        """Sets of that age in days with so many rows, all of them copied."""
        names = {
            days: lay_out(self.here, method, created=NOW - timedelta(days=days), rows=count).name
            for days, count in rows.items()
        }
        assert copy_sets(CopyRequest(self.here, "shop", self.offsite())).verdict == ""
        return names

    def offsite(self, *more: RcloneTarget) -> Offsite:
        return Offsite((self.target, *more), "shop")

    def prune(self, *more: RcloneTarget, check: bool = False) -> Report:
        return prune_far(PruneFarRequest(self.here, "shop", self.offsite(*more), check))

    def far(self) -> set[str]:
        """The sets that are whole there."""
        return {path.stem for path in self.there.glob("*.json")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def removed(report: Report) -> set[str]:
    return {entry["name"] for entry in report.details["removed"]}


@pytest.mark.parametrize("method", ["", pytest.param("age", marks=pytest.mark.slow)])
def test_a_copy_goes_by_the_policy_of_its_target_and_stays_gone(place: Place, method: str) -> None:
    names = place.sets({40: 7, 20: 7, 1: 7}, method)
    told = place.prune(check=True)
    assert place.far() == set(names.values())
    assert removed(told) == {names[40]}
    done = place.prune()
    assert removed(done) == {names[40]}
    assert done.details["kept"] == told.details["kept"]
    assert not list(place.there.glob(f"{names[40]}*"))
    # It is here still; it must not be brought there again, and here it counts as copied.
    assert not copy_sets(CopyRequest(place.here, "shop", place.offsite())).changed
    assert place.far() == {names[20], names[1]}
    own = prune(PruneRequest(place.here, Policy(7), targets={"shop": ["disk"]}))
    assert removed(own) == {names[40], names[20]}
    assert not place.prune().changed
    assert place.far() == {names[20], names[1]}


def test_what_was_not_confirmed_stays(place: Place) -> None:
    names = place.sets({50: 7, 40: 7, 20: 7, 1: 7})
    Ledger(place.here, "shop").forget("disk", [names[50]])
    # Somebody has shortened it since.
    (place.there / f"{names[40]}.globals.sql").write_text("x")
    report = place.prune()
    assert removed(report) == set()
    reasons = {entry["name"]: entry["reason"] for entry in report.details["kept"]}
    assert "not confirmed at disk" in reasons[names[50]]
    assert "not confirmed at disk" in reasons[names[40]]


@pytest.mark.slow
def test_a_copy_that_a_drill_found_intact_but_old_is_what_is_left_when_the_newest_is_damaged(
    place: Place,
) -> None:
    names = place.sets({50: 7, 31: 7, 1: 7})
    drilled(place.here, names[50], "backup_bad", evidence="failed")
    drilled(place.here, names[31], "backup_bad", evidence="ok", freshness="failed")
    drilled(place.here, names[1], "backup_bad")
    assert removed(place.prune()) == {names[50]}


@pytest.mark.slow
def test_files_of_others_stay_at_the_target(place: Place) -> None:
    names = place.sets({40: 7, 1: 7})
    others = ["notes.txt", "old.json", "shop_20200101_000000.dump", "RECOVERY.md"]
    for name in others:
        (place.there / name).write_text("x")
    assert removed(place.prune()) == {names[40]}
    assert all((place.there / name).exists() for name in others)


@pytest.mark.slow
def test_a_target_that_cannot_be_listed_loses_nothing_and_keeps_no_other_from_its_turn(
    place: Place,
) -> None:
    names = place.sets({40: 7, 1: 7})
    broken = replace(place.target, name="broken", remote="absent:far")
    report = place.prune(broken)
    assert removed(report) == {names[40]}
    assert report.verdict == "not_offsite"
    assert "NOT pruned: broken" in report.msg
    assert not Ledger(place.here, "shop").target("broken").copies


@pytest.mark.slow
def test_without_the_directory_of_the_sets_nothing_goes_there(place: Place) -> None:
    names = place.sets({40: 7, 1: 7})
    shutil.rmtree(place.here)
    with pytest.raises(HostError):
        place.prune()
    place.here.mkdir()
    # The ledger went with it: nobody can tell what is whole there.
    report = place.prune()
    assert removed(report) == set()
    assert "1 that are old enough stay, this host has not confirmed them" in report.msg
    assert place.far() == set(names.values())


@pytest.mark.slow
def test_while_the_newest_backup_failed_or_lost_rows_no_copy_goes(place: Place) -> None:
    names = place.sets({40: 7, 35: 7, 20: 7, 1: 7})
    Attempts(place.here, "shop").fail("dump", NOW, "no such role")
    assert removed(place.prune()) == set()
    Attempts(place.here, "shop").end("dump")
    place.sets({0.5: 1})
    report = place.prune()
    assert removed(report) == set()
    assert "was data lost?" in report.warnings[0]
    acknowledge(AcknowledgeRequest(place.here, "shop"))
    assert removed(place.prune()) == {names[40], names[35]}


def leave(place: Place, *names: str) -> None:
    """Sets that go here, and stay at the target."""
    for name in names:
        for file in place.here.glob(f"{name}*"):
            file.unlink()


def test_after_a_pause_the_target_keeps_its_copies_as_long_as_it_says_though_sets_here_go_sooner(
    place: Place,
) -> None:
    """The host was off for two months; the sets from before went here after a week."""
    names = place.sets({70: 7, 69: 7, 68: 7, 8: 7, 5: 7, 1: 7})
    leave(place, names[70], names[69], names[68])
    report = place.prune()
    assert removed(report) == set()
    kept = {entry["name"]: entry["reason"] for entry in report.details["kept"]}
    assert "there are newer ones of 5 days, not yet of 31" in kept[names[70]]


def test_an_old_set_that_stays_here_alone_is_no_pause(place: Place) -> None:
    """It passed the last drill, or is that of a year."""
    names = place.sets({200: 7, 50: 7, 40: 7, 25: 7, 15: 7, 5: 7, 1: 7})
    leave(place, *(names[days] for days in (50, 40, 25, 15)))
    report = place.prune()
    assert removed(report) == {names[200], names[50], names[40]}
    assert report.warnings == []


@pytest.mark.slow
def test_a_removal_that_was_cut_off_is_ended_and_then_forgotten(place: Place) -> None:
    names = place.sets({40: 7, 1: 7})
    ledger = Ledger(place.here, "shop")
    ledger.removed(names[40], "disk", NOW)
    (place.there / f"{names[40]}.json").unlink()
    for file in place.here.glob(f"{names[40]}*"):
        file.unlink()
    assert not place.prune().changed
    assert not list(place.there.glob(f"{names[40]}*"))
    place.prune()
    assert ledger.copy_of(names[40], "disk") is None
    assert place.far() == {names[1]}


@pytest.mark.slow
@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_lost_copy_is_a_problem_until_it_is_acknowledged_or_would_have_gone_by_now(
    place: Place, acknowledged: bool
) -> None:
    names = place.sets({40: 7, 20: 7, 1: 7})
    for directory in (place.here, place.there):
        for path in [*directory.glob(f"{names[40]}*"), *directory.glob(f"{names[20]}*")]:
            path.unlink()
    copy_sets(CopyRequest(place.here, "shop", place.offsite()))
    section = Section("shop", place.here, {"container": "none"}, place.offsite())

    def told() -> str:
        (row,) = status_rows([section], None, NOW)
        return "; ".join(problem for problem in row["problems"] if "has lost" in problem)

    assert names[40] in told()
    assert names[20] in told()
    place.prune(check=True)
    acknowledge(AcknowledgeRequest(place.here, "shop", check=True))
    assert names[40] in told()
    if acknowledged:
        done = acknowledge(AcknowledgeRequest(place.here, "shop"))
        assert done.changed
        assert names[20] in done.msg
        assert told() == ""
        assert not acknowledge(AcknowledgeRequest(place.here, "shop")).changed
    else:
        place.prune()
        assert names[40] not in told()
        assert names[20] in told()
    # What is forgotten is not told as a new loss.
    assert copy_sets(CopyRequest(place.here, "shop", place.offsite())).warnings == []


def test_copies_of_a_target_that_was_empty_once_are_known_again(place: Place) -> None:
    """Its disk was not mounted."""
    names = place.sets({40: 7, 35: 7, 20: 7, 1: 7})
    for days in (40, 35, 20):
        for path in place.here.glob(f"{names[days]}*"):
            path.unlink()
    disk = place.there.with_name("disk")
    place.there.rename(disk)
    gone = copy_sets(CopyRequest(place.here, "shop", place.offsite()))
    assert len(gone.details["targets"][0]["lost"]) == 4
    shutil.rmtree(place.there)
    disk.rename(place.there)
    # Another has been shortened meanwhile.
    (place.there / f"{names[35]}.globals.sql").write_text("x")
    copy_sets(CopyRequest(place.here, "shop", place.offsite()))
    assert Ledger(place.here, "shop").lost([]) == {"disk": [names[35]]}
    assert removed(place.prune()) == {names[40]}


@pytest.mark.slow
def test_the_guide_to_a_recovery_lies_beside_the_copies_and_is_replaced(place: Place) -> None:
    names = place.sets({2: 7})
    assert f"SET={names[2]}" in (place.there / "RECOVERY.md").read_text()
    newer = place.sets({1: 7})
    assert f"SET={newer[1]}" in (place.there / "RECOVERY.md").read_text()
    (place.there / "RECOVERY.md").unlink()
    assert not copy_sets(CopyRequest(place.here, "shop", place.offsite())).changed
    assert f"SET={newer[1]}" in (place.there / "RECOVERY.md").read_text()


def test_a_prune_that_fails_at_a_target_is_told_until_one_succeeds(place: Place) -> None:
    place.sets({40: 7, 1: 7})
    section = Section("shop", place.here, {"container": "none"}, place.offsite())
    away = place.there.with_name("away")

    def told() -> str:
        (row,) = status_rows([section], None, NOW)
        return "\n".join(row["problems"])

    place.there.rename(away)
    place.there.write_text("no directory")
    assert place.prune(check=True).verdict == place.prune().verdict == "not_offsite"
    assert "the prune of copies of " in told()
    assert "failed: offsite target disk: " in told()
    # Where nothing can be copied either, that says it all, and it is over with that.
    copy_sets(CopyRequest(place.here, "shop", place.offsite()))
    assert place.prune().verdict == "not_offsite"
    assert "the prune of copies" not in told()
    assert "offsite target disk fails since" in told()
    place.there.unlink()
    away.rename(place.there)
    copy_sets(CopyRequest(place.here, "shop", place.offsite()))
    assert "the prune of copies" not in told()
