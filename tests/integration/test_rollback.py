# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way back from a restore: what was live before it is live again, and nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from restoring import Shop, contents, readable, runs, start_app, started_at
from servers import own_containers, remove

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.rollback import roll_back

pytestmark = [pytest.mark.integration, pytest.mark.newest_only]


@pytest.fixture(scope="module")
def app(image: str) -> Iterator[str]:
    name = start_app(image)
    yield name
    remove(name)


@pytest.fixture
def shop(stock: Callable[[Path], Shop], app: str, tmp_path: Path) -> Shop:
    found = stock(tmp_path)
    found.watched = [app]
    return found


def back(shop: Shop, **options: Any) -> Report:
    return roll_back(shop.request(**options))


def refusal(shop: Shop, **options: Any) -> str:
    with shop.untouched(), pytest.raises(FiredrillError) as caught:
        back(shop, **options)
    return readable(caught.value)


def beside(shop: Shop) -> list[str]:
    return [name for name in shop.server.names() if name.startswith(f"{shop.database}_")]


def test_a_rollback_brings_back_what_was_live_and_keeps_what_was_restored(
    shop: Shop, app: str
) -> None:
    broken = shop.break_data()
    previous = shop.restore(stop_services=(app,)).details["previous"]
    shop.sql("INSERT INTO users (email) VALUES ('written after the restore')")
    written = shop.contents()
    with shop.untouched():
        asked = back(shop, check=True)
    assert asked.changed
    assert previous in asked.msg
    since = started_at(app)
    report = back(shop)
    assert report.changed
    assert shop.contents() == broken
    kept = beside(shop)
    assert len(kept) == 1
    assert kept[0] in report.msg
    assert contents(shop.server, kept[0]) == written
    # What the restore had stopped is stopped for the way back too, and runs again.
    assert runs(app)
    assert started_at(app) != since
    assert own_containers() == []


@pytest.mark.slow
def test_a_rollback_again_is_unchanged_and_the_restore_can_be_repeated(shop: Shop) -> None:
    broken = shop.break_data()
    shop.restore()
    back(shop)
    with shop.untouched():
        again = back(shop)
    assert not again.changed
    assert shop.set_name in again.msg
    assert "already" in again.msg
    assert shop.contents() == broken
    # The set is not what is in the database any more.
    assert shop.restore().changed
    assert shop.contents() == shop.original


@pytest.mark.slow
def test_a_rollback_is_refused_when_the_database_before_is_gone(shop: Shop) -> None:
    previous = shop.restore().details["previous"]
    shop.server.sql(f'DROP DATABASE "{previous}"')
    text = refusal(shop)
    assert f'"{previous}"' in text
    assert "is gone" in text
    assert "Restore" in text


@pytest.mark.slow
def test_a_rollback_finds_the_database_before_under_another_name(shop: Shop) -> None:
    broken = shop.break_data()
    previous = shop.restore().details["previous"]
    shop.server.sql(f'ALTER DATABASE "{previous}" RENAME TO "{shop.database}_put_aside"')
    assert back(shop).changed
    assert shop.contents() == broken


@pytest.mark.slow
def test_a_rollback_is_refused_when_the_live_database_is_another(shop: Shop) -> None:
    shop.restore()
    shop.server.sql(f'ALTER DATABASE "{shop.database}" RENAME TO "{shop.database}_old"')
    shop.server.sql(f'CREATE DATABASE "{shop.database}" TEMPLATE "{shop.database}_old"')
    assert shop.set_name in refusal(shop)


def test_a_rollback_without_a_restore_says_where_it_looked(shop: Shop) -> None:
    assert str(shop.directory) in refusal(shop)


@pytest.mark.slow
def test_a_rollback_of_a_replace_names_the_safety_dump(shop: Shop) -> None:
    safety = shop.restore(method="replace").details["safety_set"]
    assert safety in refusal(shop)
