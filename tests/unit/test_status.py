# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is a problem of a host depends on what its schedule promises."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import Section
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import utc_now
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
