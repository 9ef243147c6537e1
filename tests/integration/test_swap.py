# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The swap under fire: clients that never give up, names that are taken, names that are hard, things in its way."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from restoring import Shop, contents, readable
from servers import RICH, ROOT, Postgres, docker, own_containers, remove, start_postgres

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import swap
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
    RefusedError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.rollback import roll_back
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.server import Session

pytestmark = [pytest.mark.integration, pytest.mark.newest_only]


# -- clients ---------------------------------------------------------------------------------------


def socket_directory(server: Postgres) -> str:
    return (
        f"/proc/{docker('inspect', '--format', '{{.State.Pid}}', server.name)}/root/run/postgresql"
    )


@contextlib.contextmanager
def clients(server: Postgres, database: str, number: int) -> Iterator[dict[str, Any]]:
    """Reconnecting clients during the block; what they met is in the dictionary afterwards."""
    seen: dict[str, Any] = {}
    command = [sys.executable, str(ROOT / "tests" / "clients.py")]
    command += [socket_directory(server), database, str(number)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        yield seen
        answer, trouble = process.communicate(timeout=180)
        assert process.returncode == 0, trouble
        seen.update(json.loads(answer))
    finally:
        process.kill()
        process.wait()


def await_sessions(server: Postgres, database: str, number: int) -> None:
    """Waits until that many clients that stay are in a database."""
    count = (
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
        " AND application_name = 'staying'"
    )
    limit = time.monotonic() + 180
    while int(server.sql(count)) < number:
        assert time.monotonic() < limit, f"the clients have not come back to {database}"
        time.sleep(0.1)


def test_fifty_clients_that_reconnect_all_the_time_do_not_defeat_it(shop: Shop) -> None:
    broken = shop.break_data()
    neighbour = shop.server.create(content="CREATE TABLE untouched (id int)")
    address = {"host": socket_directory(shop.server), "user": "postgres", "dbname": neighbour}
    with contextlib.closing(psycopg2.connect(**address)) as bystander:
        with bystander.cursor() as cursor:
            # An open transaction, so that a session that was ended could not be taken for a new one.
            cursor.execute("INSERT INTO untouched VALUES (1)")
        with clients(shop.server, shop.database, 50) as seen:
            report = shop.restore()
            await_sessions(shop.server, shop.database, 50)
            back = roll_back(shop.request())
            await_sessions(shop.server, shop.database, 50)
        with bystander.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM untouched")
            assert cursor.fetchone() == (1,)
    assert contents(shop.server, shop.database) == broken
    # They were thrown out twice, and nobody stayed in the database that was put aside.
    assert seen["connected"] >= 150
    # Far more than it takes, far less than if it waited for the clients to leave.
    assert report.details["downtime_s"] < 30
    assert back.details["downtime_s"] < 30
    assert seen["longest_gap_s"] < 60
    assert own_containers() == []


def test_who_comes_right_after_the_swap_is_not_thrown_out_any_more(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = Session.execute

    def slowly(self: Session, statement: str, *values: object) -> None:
        """As on a machine that is busy: the server gets to it when we may have done with the swap."""
        late = "SELECT pg_sleep(1); " if "pg_terminate_backend" in statement else ""
        execute(self, late + statement, *values)

    monkeypatch.setattr(Session, "execute", slowly)
    shop.restore()
    shop.sql("SELECT pg_sleep(2)")
    assert shop.contents() == shop.original


# -- names that are taken --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("word", ["restore", "before"])
def test_a_database_that_has_the_name_already_is_neither_lost_nor_in_the_way(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    moment = datetime.now(timezone.utc)
    monkeypatch.setattr(swap, "utc_now", lambda: moment)
    taken = f"{shop.database}_{word}_{moment:%Y%m%d_%H%M%S}"
    shop.server.create(taken, "CREATE TABLE somebody_elses AS SELECT 1 AS id")
    failure = None
    try:
        shop.restore()
    except FiredrillError as error:
        failure = error
    assert shop.server.sql("SELECT id FROM somebody_elses", taken) == "1"
    assert failure is None
    assert shop.contents() == shop.original


@pytest.mark.slow
def test_two_swaps_in_the_same_second_keep_both_databases(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = shop.break_data()
    moment = datetime.now(timezone.utc)
    monkeypatch.setattr(swap, "utc_now", lambda: moment)
    first = shop.restore().details["previous"]
    second = shop.restore(force=True).details["previous"]
    assert first != second
    assert contents(shop.server, first) == broken
    assert contents(shop.server, second) == shop.original
    assert shop.contents() == shop.original


# -- names that are hard ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_database_whose_name_fills_all_bytes_is_swapped_and_back(
    postgres: Postgres, sets: Path
) -> None:
    name = "données_" + "é" * 27
    assert len(name.encode()) == 63
    postgres.create(name, "CREATE TABLE t AS SELECT 'first' AS state")
    postgres.backup(sets, name, globals=False)
    postgres.sql("UPDATE t SET state = 'second'", name)
    previous = postgres.restore(sets, name).details["previous"]
    assert postgres.sql("SELECT state FROM t", name) == "first"
    assert postgres.sql("SELECT state FROM t", previous) == "second"
    assert len(previous.encode()) <= 63
    roll_back(Shop(postgres, name, sets, "", "").request())
    assert postgres.sql("SELECT state FROM t", name) == "second"
    for kept in postgres.names():
        if kept.startswith(name[:20]):
            postgres.sql(f'DROP DATABASE "{kept}"')


@pytest.fixture(scope="module")
def logical(image: str) -> Iterator[Postgres]:
    """A server of this file's own, which can have replication slots."""
    settings = ("wal_level=logical", "max_prepared_transactions=4")
    server = start_postgres(image, command=tuple(word for s in settings for word in ("-c", s)))
    yield server
    remove(server.name)


@pytest.mark.slow
def test_the_database_called_postgres_can_be_restored(logical: Postgres, sets: Path) -> None:
    logical.sql(RICH)
    original = contents(logical, "postgres")
    logical.backup(sets, "postgres", globals=False)
    logical.sql("DELETE FROM jobs")
    report = logical.restore(sets, "postgres")
    assert contents(logical, "postgres") == original
    roll_back(Shop(logical, "postgres", sets, "", "").request())
    assert logical.sql("SELECT count(*) FROM jobs") == "0"
    assert report.details["previous"].startswith("postgres_before_")


@pytest.mark.slow
def test_a_server_without_a_database_called_postgres_is_no_obstacle(
    logical: Postgres, sets: Path
) -> None:
    name = logical.create(content="CREATE TABLE t AS SELECT 1 AS id")
    logical.backup(sets, name, globals=False)
    logical.sql("ALTER DATABASE postgres RENAME TO another_name", "template1")
    try:
        logical.sql("DELETE FROM t", name)
        report = logical.restore(sets, name)
        assert logical.sql("SELECT id FROM t", name) == "1"
        assert logical.sql("SELECT count(*) FROM t", report.details["previous"]) == "0"
    finally:
        logical.sql("ALTER DATABASE another_name RENAME TO postgres", "template1")


# -- what follows a database by its OID ------------------------------------------------------------


@pytest.mark.slow
def test_prepared_transactions_and_replication_slots_are_refused_in_one_message(
    logical: Postgres, sets: Path
) -> None:
    name = logical.create(content=RICH)
    logical.backup(sets, name, globals=False)
    logical.sql("SELECT pg_create_logical_replication_slot('to_warehouse', 'pgoutput')", name)
    logical.sql("BEGIN; DELETE FROM jobs; PREPARE TRANSACTION 'from the shop''s till'", name)
    shop = Shop(logical, name, sets, "", "")
    try:
        for method in ("swap", "replace"):
            with shop.untouched(), pytest.raises(RefusedError) as caught:
                shop.restore(method=method)
            text = readable(caught.value)
            assert len(caught.value.findings) == 2
            assert "from the shop's till" in text
            assert "COMMIT PREPARED" in text
            assert "to_warehouse" in text
            assert "pg_drop_replication_slot" in text
    finally:
        logical.sql("ROLLBACK PREPARED 'from the shop''s till'", name)
        logical.sql("SELECT pg_drop_replication_slot('to_warehouse')", name)
    # They were the only reasons.
    assert shop.restore(check=True).changed


def test_a_template_is_never_restored(postgres: Postgres, shop: Shop) -> None:
    target = postgres.target("template1")
    with shop.untouched():
        text = shop.refusal(target=target, source=str(shop.dump), force=True)
    assert "template1 is a template" in text
