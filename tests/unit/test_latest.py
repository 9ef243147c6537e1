# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which set `latest` means when a clock was wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    recovery_set as recovery_set_module,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.clock import is_ahead
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import SetError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Target,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.neighbours import shared
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
    (warning,) = vault.passed_over(taken, Target("shop"))
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
    assert vault.passed_over(taken, Target("shop")) == []


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
    monkeypatch.setattr(recovery_set_module, "utc_now", lambda: unset + timedelta(minutes=1))
    assert Vault(tmp_path).resolve("latest", "shop").name == newest.name
    assert not is_ahead(YESTERDAY, unset)


# -- another container with a database of that name ----------------------------------------------------


def of_container(directory: Path, days: float, container: str, project: str = "") -> str:
    """A set of so many days ago of that container."""
    made = lay_out(directory, created=NOW - timedelta(days=days))
    source = replace(
        made.source, container=container, project=project, service="db" * bool(project)
    )
    (directory / f"{made.name}.json").write_text(replace(made, source=source).to_json())
    return made.name


def latest(directory: Path, target: Target, source: str = "latest") -> str:
    return Vault(directory).resolve(source, "shop", target).name


def test_latest_is_of_the_container_that_is_asked_for(tmp_path: Path) -> None:
    mine = of_container(tmp_path, 3, "a-db-1", "a")
    other = of_container(tmp_path, 1, "b-db-1", "b")
    assert latest(tmp_path, Target("shop", container="a-db-1")) == mine
    assert latest(tmp_path, Target("shop", project="a", service="db")) == mine
    assert latest(tmp_path, Target("shop", container="b-db-1")) == other
    assert latest(tmp_path, Target("shop")) == other
    vault, target = Vault(tmp_path), Target("shop", container="a-db-1")
    taken = vault.resolve("latest", "shop", target)
    assert vault.passed_over(taken, target) == [
        f"{other} was passed over: it is of container b-db-1"
    ]
    # Whoever means it names it.
    assert latest(tmp_path, target, other) == other


def test_a_backup_says_that_another_container_puts_its_sets_there_too(tmp_path: Path) -> None:
    def told(*made_by: str) -> str:
        names = [of_container(tmp_path, 9 - day, one) for day, one in enumerate(made_by)]
        newest, *earlier = Vault(tmp_path).sets("shop")
        assert newest.name == names[-1]
        return shared(newest.require_manifest(), earlier)

    assert told("a", "a") == ""
    # It was made anew under another name.
    assert told("a", "a", "b") == ""
    assert told("a", "a", "b", "b") == ""
    assert "of container a lie in the same directory" in told("a", "b", "a", "b")


def test_where_it_has_made_none_latest_is_that_of_the_only_other_and_says_so(
    tmp_path: Path,
) -> None:
    of_container(tmp_path, 5, "a-db-1", "a")
    # Compose calls it so since then.
    made = of_container(tmp_path, 3, "a_db_1", "a")
    target = Target("shop", container="new")
    assert latest(tmp_path, target) == made
    (warning,) = Vault(tmp_path).passed_over(Vault(tmp_path).resolve("latest", "shop"), target)
    assert 'is of container a_db_1 on pi, not of database "shop" in new' in warning
    of_container(tmp_path, 1, "b-db-1", "b")
    for source in ("latest", "before:2100-01-01"):
        with pytest.raises(SetError, match="may be of several containers"):
            latest(tmp_path, target, source)
