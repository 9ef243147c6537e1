# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restore or a drill where the disk is too small: seen before anything starts, or met in the middle."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from far_ends import small_disk
from restoring import start_app, started_at
from servers import ROOT, Postgres, bulk, docker, own_containers, remove, start_postgres

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import preflight
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    HostError,
    RefusedError,
)

pytestmark = [pytest.mark.integration, pytest.mark.newest_only, pytest.mark.slow]

_DISK_MB = 100
_TABLE_MB = 25
#: The copy of a database has 7 MB of catalogs besides its table.
_FREE_MB = 16


@dataclass
class Small:
    """A server with room for one copy of its database `shop`, not for two; and an application."""

    server: Postgres
    directory: Path
    application: str
    original: str = ""

    def data(self) -> str:
        return self.server.sql("SELECT count(*), sum(length(body)) FROM bulk", "shop")

    def free_mb(self) -> float:
        blocks = docker("exec", self.server.name, "stat", "-f", "-c", "%a %S", "/small").split()
        return int(blocks[0]) * int(blocks[1]) / 1e6

    def fill(self, free_mb: float = _FREE_MB) -> None:
        """Leaves so much of the disk."""
        # What the server still has in memory only comes to the disk now.
        self.server.sql("CHECKPOINT")
        file = f"of=/small/ballast{self.free_mb():.0f}"
        count = f"count={self.free_mb() - free_mb:.0f}"
        docker("exec", self.server.name, "dd", "if=/dev/zero", file, "bs=1000000", count)

    def names(self) -> list[str]:
        return [name for name in self.server.names() if "shop" in name]


@pytest.fixture(scope="module")
def small(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    # The log of transactions lies elsewhere: the data has to meet the limit first, every time.
    disk = ("--tmpfs", f"/small:size={_DISK_MB}m,mode=1777")
    places = ("-e", "PGDATA=/small/data", "-e", "POSTGRES_INITDB_WALDIR=/wal")
    server = start_postgres(image, *disk, *places)
    application = start_app(image)
    server.create("shop", bulk(_TABLE_MB))
    directory = tmp_path_factory.mktemp("small") / "sets"
    server.backup(directory, "shop")
    small = Small(server, directory, application)
    small.original = small.data()
    small.fill()
    yield small
    remove(server.name)
    remove(application)


def test_a_restore_that_does_not_fit_is_refused_with_the_numbers(small):
    before = small.data(), started_at(small.application)
    with pytest.raises(RefusedError) as failure:
        small.server.restore(small.directory, "shop", stop_services=(small.application,))
    said = str(failure.value)
    numbers = re.search(r"has ([\d.]+) MB free and the restore needs about ([\d.]+) MB", said)
    assert numbers, said
    free, needed = map(float, numbers.groups())
    assert abs(free - small.free_mb()) < 1
    assert needed > _TABLE_MB > free
    assert "method: replace" in said
    assert "Nothing was changed" in said
    assert (small.data(), started_at(small.application)) == before
    assert small.names() == ["shop"]
    assert [path.name for path in small.directory.glob("*.journal")] == []


def test_where_room_lacks_the_databases_that_restores_kept_are_named_with_their_sizes(
    postgres, sets, monkeypatch
):
    long = f"room_{'x' * 58}"
    stamp = "before_20260219_020000"
    for database, kept in ((long, f"{long[:40]}_{stamp}"), ("room", f"room_{stamp}")):
        postgres.create(database, "CREATE TABLE t (x int)")
        postgres.backup(sets, database)
        postgres.create(kept)
    postgres.create("room_undone_20260220_020000_2", bulk(3))
    # Neither is of `room`, whatever it looks like.
    postgres.create(f"room_b_{stamp}")
    postgres.create("room_before_the_flood")
    monkeypatch.setattr(preflight, "_ROOM_FACTOR", 1e9)
    for database, names in (
        ("room", ["room_undone_20260220_020000_2", f"room_{stamp}"]),
        (long, [f"{long[:40]}_{stamp}"]),
    ):
        with pytest.raises(RefusedError) as failure:
            postgres.restore(sets, database)
        said = str(failure.value)
        listed = re.search("earlier restores kept (.*): drop those", said)
        assert listed, said
        assert re.sub(r" \([\d.]+ MB\)", "", listed[1]).split(", ") == names
        assert len(re.findall(r"\([\d.]+ MB\)", listed[1])) == len(names)


def test_a_disk_that_fills_up_in_a_load_costs_the_copy_and_nothing_else(small, monkeypatch):
    monkeypatch.setattr(preflight, "_ROOM_FACTOR", 0)
    before = small.data(), started_at(small.application), small.server.started()
    with pytest.raises(HostError) as failure:
        small.server.restore(small.directory, "shop", stop_services=(small.application,))
    said = str(failure.value)
    assert "disk of the database is full" in said
    assert "could not extend file" in said
    assert "live database was not touched" in said
    assert "Free some disk space" in said
    assert (small.data(), started_at(small.application), small.server.started()) == before
    assert small.names() == ["shop"]
    assert small.free_mb() > _FREE_MB - 2
    assert own_containers() == []


def test_replace_needs_no_room_for_two_copies(small):
    small.server.sql("DELETE FROM bulk WHERE id % 2 = 0", "shop")
    small.server.restore(small.directory, "shop", method="replace", force=True)
    assert small.data() == small.original
    assert small.names() == ["shop"]


def test_a_disk_that_fills_up_in_a_replace_brings_back_what_was_there(small, monkeypatch):
    monkeypatch.setattr(preflight, "_ROOM_FACTOR", 0)
    small.server.sql("TRUNCATE bulk; INSERT INTO bulk (body) VALUES ('the last row')", "shop")
    small.fill()
    before = small.data()
    request = {"method": "replace", "force": True, "stop_services": (small.application,)}
    with pytest.raises(HostError) as failure:
        small.server.restore(small.directory, "shop", **request)
    said = str(failure.value)
    assert "disk of the database is full" in said
    assert "put back" in said
    assert "application was started again" in said
    assert small.data() == before
    assert small.names() == ["shop"]
    assert docker("inspect", "-f", "{{.State.Running}}", small.application) == "true"


# -- a server whose log lies beside its data, as it does in every stock container --------------------


@pytest.fixture
def one_disk(image: str, tmp_path: Path) -> Iterator[Small]:
    """A server on a disk of its own with all that it has, where the sets are too; its database holds one row."""
    with small_disk(tmp_path / "disk", "400m") as disk:
        disk.chmod(0o755)
        mount = ("-v", f"{disk}:/small", "-e", "PGDATA=/small/data")
        server = start_postgres(image, *mount, command=("-c", "min_wal_size=32MB"))
        server.create("shop", "CREATE TABLE bulk AS SELECT 1 AS id, 'live' AS body")
        yield Small(server, disk / "sets", "")
        remove(server.name)


def logged(megabytes: int) -> str:
    return bulk(megabytes).replace("UNLOGGED ", "")


def test_a_restore_has_room_for_its_log_too_or_does_not_begin(
    postgres, one_disk, tmp_path, request
):
    postgres.create("shop", logged(60))
    request.addfinalizer(lambda: postgres.sql("DROP DATABASE shop"))
    postgres.backup(tmp_path / "far", "shop")
    started = one_disk.server.started()
    # Enough for the data alone.
    one_disk.fill(95)
    with pytest.raises(RefusedError) as failure:
        one_disk.server.restore(tmp_path / "far", "shop")
    said = str(failure.value)
    numbers = re.search(r"needs about ([\d.]+) MB, ([\d.]+) MB of it for WAL", said)
    assert numbers, said
    assert one_disk.data() == "1|4"
    docker("exec", one_disk.server.name, "sh", "-c", "rm /small/ballast*")
    one_disk.fill(float(numbers[1]) + 1)
    one_disk.server.restore(tmp_path / "far", "shop")
    assert one_disk.data() == postgres.sql("SELECT count(*), sum(length(body)) FROM bulk", "shop")
    assert one_disk.server.started() == started


# -- a drill, whose server is a second one -----------------------------------------------------------


def drilled(server: Postgres, directory: Path, database: str, size: str, place: str) -> Any:
    """The report of the command in a mount namespace of its own, where `place` is an empty disk of that size."""
    settings = directory.parent / "config.yml"
    settings.write_text(
        # JSON is YAML.
        json.dumps(
            {"backup_dir": str(directory), "databases": {database: {"container": server.name}}}
        )
    )
    mounted = f"mount -t tmpfs -o size={size} tmpfs {place}; exec "
    command = f"{ROOT}/firedrill --config {settings} --json drill"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", mounted + command],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def rooms() -> tuple[str, str]:
    """Where the engine has its data, and the volumes below it."""
    root = docker("info", "--format", "{{.DockerRootDir}}")
    return root, f"{root}/volumes"


def test_a_drill_that_would_fill_the_disk_of_the_live_server_is_not_begun(postgres, sets, rooms):
    database = postgres.create(content=bulk(20))
    postgres.backup(sets, database)
    # 512 MB (of 1024 each) of WAL, 256 MB for the live server, and the database.
    report = drilled(postgres, sets, database, "770m", rooms[1])
    assert report["verdict"] == "environment"
    numbers = re.search(r"has ([\d.]+) MB free, .* needs about ([\d.]+) MB", report["msg"])
    assert numbers, report["msg"]
    free, needed = map(float, numbers.groups())
    assert abs(free - 770 * 1.048576) < 1
    assert 536 + 20 < needed < free < needed + 256
    for words in (rooms[1], "256.0 MB have to stay free", "Free some space, or drill on another"):
        assert words in report["msg"]
    assert "start server" in report["phases"]
    assert "load" not in report["phases"]
    assert drilled(postgres, sets, database, "830m", rooms[1])["verdict"] == "pass"


def test_where_the_disk_of_the_engine_is_not_seen_a_drill_is_made(postgres, sets, rooms):
    database = postgres.create(content="CREATE TABLE t AS SELECT 1 AS id")
    postgres.backup(sets, database)
    # Something else is there by that name.
    assert drilled(postgres, sets, database, "1m", rooms[0])["verdict"] == "pass"
