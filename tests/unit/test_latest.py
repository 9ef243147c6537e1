# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which set `latest` means when a clock was wrong."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    vault as vault_module,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.clock import is_ahead
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import utc_now
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

NOW = utc_now().replace(microsecond=0)
YESTERDAY = NOW - timedelta(days=1)
NEXT_YEAR = NOW + timedelta(days=365)


def test_latest_passes_over_a_set_of_the_future_and_says_so(tmp_path: Path) -> None:
    meant = lay_out(tmp_path, created=YESTERDAY)
    lay_out(tmp_path, created=YESTERDAY - timedelta(days=1))
    wrong = lay_out(tmp_path, created=NEXT_YEAR)
    vault = Vault(tmp_path)
    taken = vault.resolve("latest", "shop")
    assert taken.name == meant.name
    (warning,) = vault.passed_over(taken, "shop")
    assert wrong.name in warning
    assert "in the future" in warning
    # Whoever means it names it, or a limit after it.
    assert vault.resolve(wrong.name, "shop").name == wrong.name
    limit = NEXT_YEAR + timedelta(days=1)
    assert vault.resolve(f"before:{limit:%Y-%m-%d}", "shop").name == wrong.name


def test_latest_takes_a_set_of_the_future_when_there_is_no_other(tmp_path: Path) -> None:
    wrong = lay_out(tmp_path, created=NEXT_YEAR)
    vault = Vault(tmp_path)
    taken = vault.resolve("latest", "shop")
    assert taken.name == wrong.name
    assert vault.passed_over(taken, "shop") == []


def test_a_set_of_the_same_minute_on_a_clock_that_runs_fast_is_no_set_of_the_future(
    tmp_path: Path,
) -> None:
    lay_out(tmp_path, created=YESTERDAY)
    newest = lay_out(tmp_path, created=NOW + timedelta(seconds=60))
    assert Vault(tmp_path).resolve("latest", "shop").name == newest.name


def test_while_the_clock_is_not_set_latest_is_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set of 1970 would be the only one that is not of the future."""
    unset = datetime(1970, 1, 1, 0, 2, tzinfo=timezone.utc)
    lay_out(tmp_path, created=unset)
    newest = lay_out(tmp_path, created=YESTERDAY)
    monkeypatch.setattr(vault_module, "utc_now", lambda: unset + timedelta(minutes=1))
    assert Vault(tmp_path).resolve("latest", "shop").name == newest.name
    assert not is_ahead(YESTERDAY, unset)
