# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Old sets stay while something is wrong with the newest backup, until somebody has looked at it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from recovery_sets import drilled, lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import cli, holds
from ansible_collections.firedrill.postgres.plugins.module_utils._engine import prune as of_prune
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import Section
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.due import _Backup, _Try
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    AbsentError,
    BusyError,
    HostError,
    InterruptedRun,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.holds import (
    AcknowledgeRequest,
    acknowledge,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.journal import (
    Entry,
    Journal,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import (
    CONFIRMED,
    Copy,
    Ledger,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Report,
    iso,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.prune import (
    PruneRequest,
    prune,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.retention import Policy
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.schedule import Schedule
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.settling import interrupted
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.state import look
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.status import status_rows

NOW = utc_now()


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def sets_of(
    directory: Path, rows: dict[float, int], method: str = "", *, counted: bool = True
) -> dict[float, str]:
    """Sets of that age in days with so many rows; returns their names."""
    return {
        days: lay_out(directory, method, created=days_ago(days), rows=count, counted=counted).name
        for days, count in rows.items()
    }


def copied(directory: Path, name: str, target: str) -> None:
    """A copy that was confirmed."""
    Ledger(directory, "shop").note(name, target, Copy(CONFIRMED, iso(NOW)))


def removed(report: Report) -> set[str]:
    return {entry["name"] for entry in report.details["removed"]}


def pruned(directory: Path) -> Report:
    """A prune, which says before what it does, and does it."""
    policy = Policy(7)
    before = sorted(directory.iterdir())
    told = prune(PruneRequest(directory, policy, check=True))
    assert sorted(directory.iterdir()) == before
    done = prune(PruneRequest(directory, policy))
    assert removed(done) == removed(told)
    assert done.details["kept"] == told.details["kept"]
    return done


def test_without_anything_wrong_an_old_set_goes(tmp_path: Path) -> None:
    names = sets_of(tmp_path, {20: 100, 1: 100})
    report = pruned(tmp_path)
    assert (removed(report), report.warnings) == ({names[20]}, [])


@pytest.mark.parametrize("method", ["", "age", "gpg"])
def test_after_a_loss_of_rows_nothing_goes_until_it_is_acknowledged(
    tmp_path: Path, method: str
) -> None:
    names = sets_of(tmp_path, {30: 100, 20: 100, 10: 3, 1: 3}, method)
    report = pruned(tmp_path)
    assert removed(report) == set()
    assert f"{names[10]} has 3 rows, {names[20]} before it had 100" in report.warnings[0]
    assert "`firedrill acknowledge`" in report.warnings[0]
    would = acknowledge(AcknowledgeRequest(tmp_path, "shop", check=True))
    assert would.changed
    assert removed(pruned(tmp_path)) == set()
    done = acknowledge(AcknowledgeRequest(tmp_path, "shop"))
    assert done.changed
    assert names[10] in done.msg
    again = acknowledge(AcknowledgeRequest(tmp_path, "shop"))
    assert not again.changed
    assert removed(pruned(tmp_path)) == {names[30], names[20], names[10]}


@pytest.mark.parametrize("method", ["", "age", "gpg"])
def test_an_emptied_database_lets_nothing_go_though_nobody_counted_rows(
    tmp_path: Path, method: str
) -> None:
    names = sets_of(tmp_path, {30: 100, 20: 100, 9: 0, 1: 0}, method, counted=False)
    report = pruned(tmp_path)
    assert removed(report) == set()
    assert f"{names[9]} has 0 rows, {names[20]} before it had some" in report.warnings[0]
    acknowledge(AcknowledgeRequest(tmp_path, "shop"))
    assert removed(pruned(tmp_path)) == {names[30], names[20], names[9]}


def test_an_acknowledgement_is_for_that_loss_only(tmp_path: Path) -> None:
    sets_of(tmp_path, {30: 100, 2: 3})
    acknowledge(AcknowledgeRequest(tmp_path, "shop"))
    sets_of(tmp_path, {1: 0})
    assert removed(pruned(tmp_path)) == set()


def test_a_damaged_acknowledgement_keeps_more_and_stops_nothing(tmp_path: Path) -> None:
    sets_of(tmp_path, {30: 100, 2: 3})
    acknowledge(AcknowledgeRequest(tmp_path, "shop"))
    (note,) = tmp_path.glob("*.acknowledged")
    assert note.stat().st_mode & 0o777 == 0o600
    note.write_text("{")
    assert removed(pruned(tmp_path)) == set()
    assert acknowledge(AcknowledgeRequest(tmp_path, "shop")).changed


def test_a_gap_that_pruning_leaves_does_not_look_like_a_loss(tmp_path: Path) -> None:
    # A slow decline: each set has more than half of the one before.
    names = sets_of(tmp_path, {16: 100, 9.5: 60, 3: 40, 1: 40})
    copied(tmp_path, names[9.5], "nas")
    request = PruneRequest(tmp_path, Policy(7), targets={"shop": ["nas"]})
    assert removed(prune(request)) == {names[9.5]}
    assert prune(request).warnings == []
    assert not acknowledge(AcknowledgeRequest(tmp_path, "shop")).changed


def test_a_loss_of_one_database_holds_the_sets_of_no_other(tmp_path: Path) -> None:
    sets_of(tmp_path, {30: 100, 1: 3})
    assert removed(prune(PruneRequest(tmp_path, Policy(7), "another"))) == set()
    # The loss is of shop, and this state is of another.
    acknowledge(AcknowledgeRequest(tmp_path, "another"))
    assert removed(pruned(tmp_path)) == set()


def test_status_names_a_loss_of_rows_until_it_is_acknowledged(tmp_path: Path) -> None:
    sets_of(tmp_path, {2: 100, 1: 3})
    section = Section("shop", tmp_path, {"container": "none"})

    def told() -> bool:
        (row,) = status_rows([section], None, NOW)
        return any("was data lost?" in problem for problem in row["problems"])

    assert told()
    acknowledge(AcknowledgeRequest(tmp_path, "shop"))
    assert not told()


# -- what drills said -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["freshness", "assertion"])
def test_a_set_that_a_drill_found_intact_but_old_is_what_is_left_when_the_newest_is_damaged(
    tmp_path: Path, kind: str
) -> None:
    names = sets_of(tmp_path, {30: 100, 20: 100, 1: 100})
    drilled(tmp_path, names[30], "backup_bad", evidence="failed")
    drilled(tmp_path, names[20], "backup_bad", evidence="ok", **{kind: "failed"})
    drilled(tmp_path, names[1], "backup_bad")
    assert removed(pruned(tmp_path)) == {names[30]}


def test_where_drills_can_never_test_everything_the_newest_of_their_sets_stays(
    tmp_path: Path,
) -> None:
    names = sets_of(tmp_path, {40: 7, 30: 7, 20: 7, 10: 7, 1: 7})
    drilled(tmp_path, names[40], "pass")
    drilled(tmp_path, names[30], "partial", evidence="skipped")
    drilled(tmp_path, names[20], "partial", evidence="skipped")
    report = pruned(tmp_path)
    assert removed(report) == {names[30], names[10]}
    reasons = {entry["name"]: entry["reason"] for entry in report.details["kept"]}
    assert "found good what it tested" in reasons[names[20]]


# -- backups that failed -------------------------------------------------------------------------------


def test_while_the_newest_backup_failed_nothing_goes(tmp_path: Path) -> None:
    names = sets_of(tmp_path, {20: 100, 1: 100})
    attempts = Attempts(tmp_path, "shop")
    attempts.begin("backup", days_ago(0.1), days_ago(0.1))
    # It may have been killed, or be under way.
    assert "has not ended" in pruned(tmp_path).warnings[0]
    attempts.end("backup", "the disk is full")
    report = pruned(tmp_path)
    assert removed(report) == set()
    assert "failed" in report.warnings[0]
    attempts.end("backup")
    assert removed(pruned(tmp_path)) == {names[20]}


def test_a_failure_of_a_backup_by_hand_counts_as_well(tmp_path: Path) -> None:
    names = sets_of(tmp_path, {20: 100, 1: 100})
    Attempts(tmp_path, "shop").fail("dump", days_ago(0.1), "no such role")
    assert removed(pruned(tmp_path)) == set()
    Attempts(tmp_path, "shop").end("dump")
    assert removed(pruned(tmp_path)) == {names[20]}


def test_while_a_restore_is_under_way_or_was_killed_nothing_goes(tmp_path: Path) -> None:
    names = sets_of(tmp_path, {20: 100, 1: 100})
    journal = Journal(tmp_path, "shop-db-1", "shop")
    entry = journal.write(Entry("run", "restore", "replace", "shop-db-1", "shop", step="created"))
    report = pruned(tmp_path)
    assert removed(report) == set()
    assert f"the restore of {entry.at} has not ended" in report.warnings[0]
    journal.write(entry, step="done")
    assert removed(pruned(tmp_path)) == {names[20]}


def test_a_failure_before_the_newest_set_is_over(tmp_path: Path) -> None:
    names = sets_of(tmp_path, {20: 100, 1: 100})
    Attempts(tmp_path, "shop").fail("dump", days_ago(2), "no such role")
    assert removed(pruned(tmp_path)) == {names[20]}


def test_a_file_of_public_keys_that_is_gone_fails_a_backup_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    names = sets_of(sets, {20: 100, 1: 100})
    settings = tmp_path / "config.yml"
    settings.write_text(
        f"backup_dir: {sets}\ndatabases: {{shop: {{container: none}}}}\n"
        f"encryption: {{with: age, recipients_files: [{tmp_path}/gone]}}\n"
    )
    words = ("--config", str(settings), "backup")
    assert cli.main([*words, "--dry-run"]) != 0
    assert Attempts(sets, "shop").latest("dump") is None
    assert cli.main(words) != 0
    assert "gone" in capsys.readouterr().err
    assert removed(pruned(sets)) == set()
    Attempts(sets, "shop").end("dump")
    assert removed(pruned(sets)) == {names[20]}


def test_a_failure_under_a_clock_that_was_ahead_holds_nothing(tmp_path: Path) -> None:
    names = sets_of(tmp_path, {20: 100, 1: 100})
    Attempts(tmp_path, "shop").fail("dump", NOW + timedelta(days=3000), "no such role")
    assert removed(pruned(tmp_path)) == {names[20]}


def test_after_a_pause_that_was_longer_than_sets_are_kept_none_goes_at_once(tmp_path: Path) -> None:
    sets_of(tmp_path, {24: 100, 23: 100, 22: 100, 0.1: 100})
    report = pruned(tmp_path)
    assert removed(report) == set()
    assert "there was no backup between" in report.warnings[0]
    assert "(21 d 2" in report.warnings[0]


class _Docker:
    """A Docker engine that has these containers, or does not answer."""

    def __init__(self, *names: str, answers: bool = True) -> None:
        self._names = names
        self._answers = answers

    def find(self, *, name: str) -> None:
        if not self._answers:
            raise HostError("no Docker engine")
        if name not in self._names:
            raise AbsentError("none")


@pytest.mark.parametrize(
    ("docker", "ends"),
    [(_Docker(), True), (_Docker("shop-db-1"), False), (_Docker(answers=False), False)],
)
def test_a_killed_restore_is_ended_by_hand_only_where_its_container_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docker: _Docker, ends: bool
) -> None:
    monkeypatch.setattr(holds, "Containers", lambda: docker)
    names = sets_of(tmp_path, {20: 100, 1: 100})
    journal = Journal(tmp_path, "shop-db-1", "shop")
    journal.write(
        Entry("run", "restore", "replace", "shop-db-1", "shop"),
        step="replacing",
        safety_set="before",
        stopped=("0123456789abcdef",),
    )
    would = acknowledge(AcknowledgeRequest(tmp_path, "shop", check=True))
    assert interrupted(tmp_path, "shop")
    done = acknowledge(AcknowledgeRequest(tmp_path, "shop"))
    assert would.changed is done.changed is ends
    words = ("shop-db-1 is gone", "in the set before", "`docker start 0123456789ab`")
    assert [each in done.msg for each in words] == [ends] * 3
    assert bool(interrupted(tmp_path, "shop")) is not ends
    assert removed(pruned(tmp_path)) == ({names[20]} if ends else set())


def test_a_restore_of_another_host_holds_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, "shop-db-1", "shop")
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "another")
        journal.write(Entry("run", "restore", "replace", "shop-db-1", "shop"), step="replacing")
        assert interrupted(tmp_path, "shop")
    assert interrupted(tmp_path, "shop") == []


def _run(directory: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try of the schedule that ends so."""

    def refused(*unused: object) -> Report:
        raise error

    job = _Backup(Schedule(), Policy(), "")
    monkeypatch.setattr(job, "run", refused)
    with pytest.raises(type(error)):
        _Try(job, Section("shop", directory), days_ago(0.1))(None)


def test_a_backup_that_was_refused_because_another_runs_is_no_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sets_of(tmp_path, {20: 100, 1: 100})
    _run(tmp_path, BusyError("another run works on it"), monkeypatch)
    assert Attempts(tmp_path, "shop").latest("backup") is None
    assert removed(pruned(tmp_path)) == {names[20]}


@pytest.mark.parametrize("by_signal", [True, False])
def test_a_backup_that_a_signal_ended_is_no_failed_one_but_a_time_limit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_signal: bool
) -> None:
    sets_of(tmp_path, {1: 100})
    _run(tmp_path, InterruptedRun("ended", by_signal=by_signal), monkeypatch)
    known = look(tmp_path, "shop", NOW)
    assert bool(known.tries.get("backup")) is not by_signal
    # Nobody thinks that all is well for ever.
    (row,) = status_rows([Section("shop", tmp_path, {})], Schedule(), NOW + timedelta(days=1))
    assert any("no backup since" in problem for problem in row["problems"])


def test_a_refusal_does_not_hide_the_failure_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets_of(tmp_path, {20: 100, 1: 100})
    monkeypatch.setattr(
        "ansible_collections.firedrill.postgres.plugins.module_utils._engine.due.uptime_s",
        lambda: 1e6,
    )
    _run(tmp_path, HostError("no disk"), monkeypatch)
    before = Attempts(tmp_path, "shop").latest("backup")
    _run(tmp_path, BusyError("another run works on it"), monkeypatch)
    assert Attempts(tmp_path, "shop").latest("backup") == before
    assert removed(pruned(tmp_path)) == set()


# -- a clock that is ahead -----------------------------------------------------------------------------


def test_a_clock_that_is_far_ahead_lets_no_good_set_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sets_of(tmp_path, {1: 100, 2.1: 100, 3.2: 100, 4.3: 100, 5.4: 100, 6.5: 100})
    ahead = NOW + timedelta(days=15000)
    lay_out(tmp_path, created=ahead, rows=100)
    monkeypatch.setattr(of_prune, "utc_now", lambda: ahead)
    report = pruned(tmp_path)
    assert removed(report) == set()
    assert "is the clock right?" in report.warnings[0]
    # It is right again, and the set of the future is left out.
    monkeypatch.setattr(of_prune, "utc_now", lambda: NOW + timedelta(days=0.7))
    assert removed(pruned(tmp_path)) == {names[6.5]}


# -- copies elsewhere ----------------------------------------------------------------------------------


def test_a_set_stays_until_every_target_has_it(tmp_path: Path) -> None:
    names = sets_of(tmp_path, {30: 7, 20: 7, 1: 7})
    copied(tmp_path, names[20], "nas")
    copied(tmp_path, names[20], "s3")
    copied(tmp_path, names[30], "s3")
    report = prune(PruneRequest(tmp_path, Policy(7), targets={"shop": ["nas", "s3"]}))
    assert removed(report) == {names[20]}
    reasons = {entry["name"]: entry["reason"] for entry in report.details["kept"]}
    assert "not confirmed at nas" in reasons[names[30]]


def test_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    sets_of(tmp_path, {30: 7, 1: 7})
    others = ["notes.txt", "shop_20200101_000000.dump", "old.json", "shop_20200101_000000.sql"]
    for name in others:
        (tmp_path / name).write_text("x")
    assert removed(pruned(tmp_path))
    assert all((tmp_path / name).exists() for name in others)
