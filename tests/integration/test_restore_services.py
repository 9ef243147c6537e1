# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The application's services around a restore: stopped as late and started as early as can be, in every outcome."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from restoring import Shop, runs, start_app, started_at, stock_shop
from servers import Postgres, docker, remove, start_postgres

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    SqlScript,
    Target,
)

pytestmark = [pytest.mark.integration, pytest.mark.newest_only, pytest.mark.slow]

FAILING = (SqlScript(sql="SELECT 1 / 0"),)


def labels(project: str, service: str) -> tuple[str, ...]:
    compose = "com.docker.compose"
    return ("--label", f"{compose}.project={project}", "--label", f"{compose}.service={service}")


@pytest.fixture(scope="module")
def project() -> str:
    return f"fdt{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def database_service(image: str, project: str) -> Iterator[Postgres]:
    server = start_postgres(image, *labels(project, "db"))
    yield server
    remove(server.name)


@pytest.fixture(scope="module")
def stock(
    database_service: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Shop]:
    return stock_shop(database_service, tmp_path_factory.mktemp("stock") / "any")


@pytest.fixture(scope="module")
def apps(image: str, project: str) -> Iterator[dict[str, str]]:
    """Two services of the project, and a service of the same name in another one."""
    started = {
        "web": start_app(image, *labels(project, "web")),
        "worker": start_app(image, *labels(project, "worker")),
        "stranger": start_app(image, *labels(f"{project}x", "web")),
    }
    yield started
    for name in started.values():
        remove(name)


@pytest.fixture
def shop(stock: Callable[[Path], Shop], apps: dict[str, str], project: str, tmp_path: Path) -> Shop:
    for name in apps.values():
        docker("start", name)
    found = stock(tmp_path)
    found.watched = list(apps.values())
    return found


@pytest.fixture
def by_labels(shop: Shop, project: str) -> dict[str, Any]:
    """The target as Compose knows it."""
    return {"target": Target(database=shop.database, project=project, service="db")}


def live_oid(shop: Shop) -> str:
    return shop.server.sql(f"SELECT oid FROM pg_database WHERE datname = '{shop.database}'")


def test_services_run_until_the_swap_and_again_right_after_it(
    shop: Shop, apps: dict[str, str], by_labels: dict[str, Any]
) -> None:
    docker("stop", apps["worker"])
    others = [started_at(apps["worker"]), started_at(apps["stranger"])]
    before = live_oid(shop)
    seen: list[tuple[str, bool, bool]] = []

    def look(phase: str, *unused: int) -> None:
        seen.append((phase, runs(apps["web"]), live_oid(shop) != before))

    report = shop.restore(look, stop_services=("web", "worker"), **by_labels)
    # The phase "downtime" is entered to stop, and once more to start what was stopped.
    assert seen == [
        ("preflight", True, False),
        ("load", True, False),
        ("verify", True, False),
        ("analyze", True, False),
        ("downtime", True, False),
        ("downtime", False, True),
        ("application", True, True),
    ]
    assert report.details["stopped"] == [apps["web"]]
    assert runs(apps["web"])
    assert [started_at(apps["worker"]), started_at(apps["stranger"])] == others
    assert 0 < report.details["downtime_s"] < 60


def test_containers_can_be_named_themselves(shop: Shop, apps: dict[str, str]) -> None:
    before = started_at(apps["stranger"])
    report = shop.restore(stop_services=(apps["stranger"],))
    assert report.details["stopped"] == [apps["stranger"]]
    assert runs(apps["stranger"])
    assert started_at(apps["stranger"]) != before


def test_a_swap_that_fails_renames_nothing_and_starts_the_services_again(
    shop: Shop, apps: dict[str, str], by_labels: dict[str, Any]
) -> None:
    broken = shop.break_data()
    docker("stop", apps["worker"])
    before = live_oid(shop), started_at(apps["web"]), started_at(apps["worker"])

    def spoil(phase: str, *unused: int) -> None:
        # The first of the two renames will be possible, the second will not.
        for name in shop.server.names() if phase == "downtime" else ():
            if name.startswith(f"{shop.database}_restore_"):
                shop.server.sql(f'DROP DATABASE "{name}"')

    text = shop.refusal(progress=spoil, stop_services=("web", "worker"), **by_labels)
    assert "The live database is as it was" in text
    assert "the application was started again" in text
    assert shop.contents() == broken
    assert live_oid(shop) == before[0]
    assert [n for n in shop.server.names() if n.startswith(shop.database)] == [shop.database]
    assert runs(apps["web"])
    assert started_at(apps["web"]) != before[1]
    assert started_at(apps["worker"]) == before[2]
    assert shop.journal()[-1]["step"] == "failed"


def test_a_copy_that_cannot_be_made_stops_nothing(shop: Shop, by_labels: dict[str, Any]) -> None:
    with shop.untouched(but=("files",)):
        shop.refusal(post_sql=FAILING, stop_services=("web", "worker"), **by_labels)


def test_a_replace_that_fails_puts_the_data_back_and_starts_the_services_again(
    shop: Shop, apps: dict[str, str], by_labels: dict[str, Any]
) -> None:
    broken = shop.break_data()
    docker("stop", apps["worker"])
    before = started_at(apps["web"]), started_at(apps["worker"])
    text = shop.refusal(
        method="replace", post_sql=FAILING, stop_services=("web", "worker"), **by_labels
    )
    assert "put back" in text
    assert "the application was started again" in text
    assert shop.contents() == broken
    assert runs(apps["web"])
    assert (started_at(apps["web"]), started_at(apps["worker"])) != before
    assert started_at(apps["worker"]) == before[1]


def test_services_never_start_on_half_a_database_and_the_next_restore_starts_them(
    shop: Shop, apps: dict[str, str], by_labels: dict[str, Any]
) -> None:
    options = {"method": "replace", "stop_services": ("web",), **by_labels}
    text = shop.refusal(safety_dump=False, post_sql=FAILING, **options)
    assert "was dropped and is not back" in text
    assert apps["web"] in text
    assert "stays stopped" in text
    assert not runs(apps["web"])
    # The operator does not have to remember what was stopped.
    options["stop_services"] = ()
    report = shop.restore(safety_dump=False, **options)
    assert shop.contents() == shop.original
    assert runs(apps["web"])
    assert any("is not back" in text for text in report.warnings)


def test_a_service_that_does_not_start_again_is_reported_and_the_restore_stands(
    shop: Shop, image: str, project: str, tmp_path: Path, by_labels: dict[str, Any]
) -> None:
    directory = tmp_path / "of the service"
    directory.mkdir()
    mount = f"type=bind,source={directory},target=/mnt"
    name = start_app(image, "--mount", mount, *labels(project, "fragile"))
    try:

        def spoil(phase: str, *unused: int) -> None:
            if phase == "load":
                shutil.rmtree(directory)

        shop.break_data()
        report = shop.restore(spoil, stop_services=("fragile", "web"), **by_labels)
        assert report.changed
        assert shop.contents() == shop.original
        told = [text for text in report.warnings if name in text]
        assert told
        assert any("docker" in text for text in told)
        # Another service does not suffer from it.
        assert runs(shop.watched[0])
    finally:
        remove(name)


@pytest.mark.parametrize(
    ("named", "said"), [("wbe", "wbe"), ("db", "the database's own container")]
)
def test_services_that_cannot_be_stopped_are_refused_before_anything_is_done(
    shop: Shop, by_labels: dict[str, Any], named: str, said: str
) -> None:
    with shop.untouched():
        assert said in shop.refusal(stop_services=("web", named), **by_labels)
