# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From one major version of PostgreSQL to another: forwards with equal evidence, never backwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from restoring import Shop, stock_shop
from servers import IMAGES, Postgres, await_final_server, remove, start_postgres

# One worker starts the two servers once for all of them.
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Postgres]]:
    """A server of each image, the oldest version first."""
    one_only = "FIREDRILL_TEST_IMAGES names one major version only"
    if len(IMAGES) == 1:
        pytest.skip(one_only)
    started = [start_postgres(image, wait=False) for image in IMAGES]
    try:
        for server in started:
            await_final_server(server)
        started.sort(key=lambda server: server.major)
        if started[0].major == started[-1].major:
            pytest.skip(one_only)
        yield started
    finally:
        for server in started:
            remove(server.name)


@pytest.fixture(scope="module")
def old_stock(
    servers: list[Postgres], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Shop]:
    return stock_shop(servers[0], tmp_path_factory.mktemp("old") / "any", database="shop")


@pytest.fixture(scope="module")
def new_stock(
    servers: list[Postgres], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Shop]:
    return stock_shop(servers[-1], tmp_path_factory.mktemp("new") / "any", database="shop")


def moved(shop: Shop, other: Shop) -> Shop:
    """The set of one shop for the server and the database of another."""
    return Shop(other.server, other.database, shop.directory, shop.set_name, shop.original)


def test_a_set_of_an_older_version_is_restored_on_a_newer_one_with_equal_evidence(
    old_stock: Callable[[Path], Shop], new_stock: Callable[[Path], Shop], tmp_path: Path
) -> None:
    new = new_stock(tmp_path / "new")
    upgraded = moved(old_stock(tmp_path / "old"), new)
    upgraded.break_data()
    report = upgraded.restore()
    assert report.changed
    assert "3 tables equal to the manifest" in report.msg
    assert report.details["differences"] == []
    # Of a materialized view it is said that it was not compared; nothing else was left out.
    assert all("totals" in text for text in report.details["not_compared"])
    assert upgraded.contents() == upgraded.original


@pytest.mark.parametrize("with_manifest", [True, False], ids=["manifest", "no manifest"])
def test_a_set_of_a_newer_version_is_refused_on_an_older_one(
    old_stock: Callable[[Path], Shop],
    new_stock: Callable[[Path], Shop],
    tmp_path: Path,
    with_manifest: bool,
) -> None:
    old, new = old_stock(tmp_path / "old"), new_stock(tmp_path / "new")
    downgraded = moved(new, old)
    if not with_manifest:
        (downgraded.directory / f"{downgraded.set_name}.json").unlink()
    with downgraded.untouched():
        text = downgraded.refusal(source=downgraded.set_name, verify=with_manifest)
    assert "newer" in text
    assert str(old.server.major) in text
    if with_manifest:
        assert str(new.server.major) in text
