# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A loss of rows is the same to the backup that has it, to the restore that would bring it, and to retention."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Callable

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.holds import (
    candidates,
    waiting_loss,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.listing import list_sets
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import utc_now
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.neighbours import shrunk
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.preflight import (
    Plan,
    _compare_with_earlier,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

NOW = utc_now().replace(microsecond=0)


def told_by_the_backup(directory: Path) -> str:
    newest, *earlier = Vault(directory).sets("shop")
    return shrunk(newest.require_manifest(), earlier)


def told_by_the_restore(directory: Path) -> str:
    vault = Vault(directory)
    newest = vault.sets("shop")[0]
    plan = Plan(newest, newest.manifest)
    _compare_with_earlier(plan, vault, "shop")
    return "; ".join(plan.warnings)


def told_by_retention(directory: Path) -> str:
    known = candidates(list_sets(directory, "shop"), "shop")
    return str(waiting_loss(directory, "shop", known, NOW) or "")


tellers = pytest.mark.parametrize(
    "told", [told_by_the_backup, told_by_the_restore, told_by_retention]
)


def days_ago(days: float, directory: Path, rows: int, purpose: str = "backup") -> str:
    created = NOW - timedelta(days=days)
    return lay_out(directory, created=created, rows=rows, purpose=purpose).name


@tellers
def test_less_than_half_the_rows_of_the_backup_before_is_a_loss(
    tmp_path: Path, told: Callable[[Path], str]
) -> None:
    before = days_ago(2, tmp_path, 100)
    after = days_ago(1, tmp_path, 49)
    assert told(tmp_path).startswith(f"{after} has 49 rows, {before} before it had 100")


@tellers
def test_half_the_rows_are_no_loss(tmp_path: Path, told: Callable[[Path], str]) -> None:
    days_ago(2, tmp_path, 100)
    days_ago(1, tmp_path, 50)
    assert told(tmp_path) == ""


@tellers
def test_a_dump_of_the_accident_hides_no_loss(tmp_path: Path, told: Callable[[Path], str]) -> None:
    """A restore that dumps for safety dumps what it is to undo."""
    before = days_ago(3, tmp_path, 100)
    days_ago(2, tmp_path, 3, "safety")
    after = days_ago(1, tmp_path, 3)
    assert f"{after} has 3 rows, {before} before it had 100" in told(tmp_path)


@tellers
def test_what_a_safety_dump_held_more_is_no_loss(
    tmp_path: Path, told: Callable[[Path], str]
) -> None:
    days_ago(3, tmp_path, 40)
    days_ago(2, tmp_path, 100, "safety")
    days_ago(1, tmp_path, 40)
    assert told(tmp_path) == ""
