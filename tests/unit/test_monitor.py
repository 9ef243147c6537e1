# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which ping a run has earned: a success only for what was verified, a failure only for what failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.alarms import Alarms, Told
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import (
    Section,
    parse_config,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import set_details
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    BusyError,
    HostError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.monitor import (
    Monitor,
    _verdict,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.offsite import NOT_OFFSITE
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.outcomes import (
    Outcome,
    failure,
    success,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import load_set

BUSY, FAILED = failure(BusyError("another run works on it")), failure(HostError("no disk"))


def backup_of(directory: Path, method: str = "", rows: int = 7) -> Report:
    """The report of a backup that has made a set with so many rows."""
    manifest = lay_out(directory, method, rows=rows)
    details = set_details(load_set(directory / manifest.dump.name))
    return Report("backup", changed=True, msg="made", database="shop", details=details)


@pytest.mark.parametrize("method", ["", "age", "gpg"])
@pytest.mark.parametrize(("rows", "kind"), [(7, ""), (0, "fail")])
def test_a_backup_with_rows_is_a_success_and_one_without_any_is_none_encrypted_or_not(
    tmp_path: Path, method: str, rows: int, kind: str
) -> None:
    earned, words = _verdict(success(backup_of(tmp_path, method, rows)))
    assert (earned, "no row" in words) == (kind, not rows)


@pytest.mark.parametrize("job", ["backup", "drill"])
def test_a_run_that_another_one_keeps_from_its_turn_is_no_failure(job: str) -> None:
    assert earned(section(), [(job, BUSY)]) == ({job: "log"}, "")
    assert earned(section(), [(job, FAILED)]) == ({job: "fail"}, "")


# -- offsite copies --------------------------------------------------------------------------------


def section(*targets: str) -> Section:
    """One database with offsite targets of those names."""
    content = {
        "backup_dir": "/b",
        "databases": {"shop": {"container": "c"}},
        "offsite": {name: {"type": "rclone", "remote": f"{name}:x"} for name in targets},
    }
    return parse_config(content, Path("/c.yml")).sections["shop"]


def earned(
    of: Section, runs: list[tuple[str, Outcome]], owed: str = ""
) -> tuple[dict[str, str], str]:
    """The kind of each job's ping after runs, and the success that still waits for copies."""
    monitor = Monitor(Alarms(), [of], None, [of])
    for action, outcome in runs:
        monitor.ended(action, of.name, outcome)
    pings, waits = monitor._earned(of, Told(owed=owed))
    return {job: kind for job, (kind, unused_words) in pings.items()}, waits


def ended(action: str, verdict: str = "") -> Outcome:
    return success(Report(action, changed=True, msg=f"{action} done", verdict=verdict))


MADE, COPIED, NOT_COPIED = ended("backup"), ended("copy"), ended("copy", NOT_OFFSITE)


@pytest.mark.parametrize("last", [COPIED, NOT_COPIED, BUSY])
def test_the_success_of_a_backup_waits_for_its_copies_whatever_becomes_of_them(
    last: Outcome,
) -> None:
    place = section("nas")
    pings, owed = earned(place, [("backup", MADE)])
    assert (pings, owed) == ({"backup": "log"}, "backup done")
    later, still = earned(place, [("copy", last)], owed)
    expected = {id(COPIED): {"backup": ""}, id(NOT_COPIED): {"backup": "fail"}, id(BUSY): {}}
    assert later == expected[id(last)]
    assert still == ("" if last is COPIED else owed)


def test_backup_and_copies_in_one_run_earn_one_ping() -> None:
    assert earned(section("nas"), [("backup", MADE), ("copy", COPIED)]) == ({"backup": ""}, "")
    assert earned(section("nas"), [("backup", MADE), ("copy", NOT_COPIED)]) == (
        {"backup": "fail"},
        "backup done",
    )


def test_without_targets_a_backup_is_a_success_by_itself() -> None:
    assert earned(section(), [("backup", MADE)]) == ({"backup": ""}, "")


def test_copies_of_older_sets_earn_nothing_where_no_success_waits() -> None:
    assert earned(section("nas"), [("copy", COPIED)]) == ({}, "")
    assert earned(section("nas"), [("copy", NOT_COPIED)]) == ({}, "")


def test_a_failed_backup_takes_the_success_back_that_waited_and_a_busy_one_does_not() -> None:
    assert earned(section("nas"), [("backup", FAILED)], "made") == ({"backup": "fail"}, "")
    assert earned(section("nas"), [("backup", BUSY)], "made") == ({"backup": "log"}, "made")
