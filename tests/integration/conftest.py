# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures: one server an image that tests share, and servers that a test may break."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from restoring import Shop, stock_shop
from servers import IMAGES, RICH, Postgres, remove, start_postgres

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.containers import (
    Containers,
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out older servers where the version does not matter."""

    def is_meant(item: pytest.Item) -> bool:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return (
            item.get_closest_marker("newest_only") is None
            or parameters.get("image", IMAGES[-1]) == IMAGES[-1]
        )

    left_out = [item for item in items if not is_meant(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if is_meant(item)]


@pytest.fixture(scope="session", params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    """Each image under test, in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgres(image: str) -> Iterator[Postgres]:
    """A server that many tests share; each test makes databases of its own in it, and breaks nothing else."""
    server = start_postgres(image, command=("-c", "max_prepared_transactions=4"))
    yield server
    remove(server.name)


@pytest.fixture
def own_postgres(image: str) -> Iterator[Postgres]:
    """A server that the test may stop, kill or fill."""
    server = start_postgres(image)
    yield server
    remove(server.name)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A backup directory that does not exist yet."""
    return tmp_path / "sets"


@pytest.fixture
def schedule_turn() -> Iterator[None]:
    """A host has one schedule, which is run once at a time: tests that run it take turns."""
    with (Path(tempfile.gettempdir()) / "firedrill-test-schedule").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def clean_up_after() -> Iterator[None]:
    """For tests that kill the engine: removes what it left, unless the next run has done so already."""
    yield
    Containers().sweep()


@pytest.fixture
def rich(postgres: Postgres) -> str:
    """The name of a database with tables of many kinds."""
    return postgres.create(content=RICH)


@pytest.fixture(scope="module")
def stock(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Shop]:
    """Makes shops that are equal, each in a directory, from one set."""
    return stock_shop(postgres, tmp_path_factory.mktemp("stock") / "any", globals=False)


@pytest.fixture
def shop(stock: Callable[[Path], Shop], tmp_path: Path) -> Shop:
    """A database with a set of it."""
    return stock(tmp_path)
