# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which ping a run has earned: a success only for what was verified, a failure only for what failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import set_details
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.monitor import _verdict
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.outcomes import success
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import load_set


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
