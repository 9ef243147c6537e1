# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restore over a live database that is itself in trouble, which is what restores are for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg2
import psycopg2.extras
import pytest
from restoring import Shop, readable
from servers import await_that, docker, own_containers

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.rollback import roll_back

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.newest_only]

#: A restore that waits for ever ends here, long after any that does not.
_FOR_EVER_S = 300

_PROPERTIES = """
SELECT datconnlimit, datdba::regrole, shobj_description(d.oid, 'pg_database'), array_agg(s.setconfig)
  FROM pg_database d LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid
 WHERE datname = '{}' GROUP BY 1, 2, 3
"""


@contextlib.contextmanager
def connected(
    shop: Shop, database: str = "", **more: object
) -> Iterator[psycopg2.extensions.connection]:
    """A session beside the test, which the engine may end."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", shop.server.name)
    connection = psycopg2.connect(
        host=f"/proc/{pid}/root/run/postgresql",
        user="postgres",
        dbname=database or shop.database,
        **more,
    )
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def crashed_migration(shop: Shop) -> Iterator[None]:
    """A transaction that nobody ends keeps a table to itself."""
    with connected(shop) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        yield


def test_a_table_that_a_crashed_migration_keeps_locked_stops_no_restore(shop: Shop) -> None:
    shop.break_data()
    with crashed_migration(shop):
        asked = shop.restore(check=True, timeout_s=_FOR_EVER_S)
        report = shop.restore(timeout_s=_FOR_EVER_S)
    assert shop.contents() == shop.original
    for said in (asked, report):
        assert any("not known for public.jobs" in text for text in said.warnings)
        assert "public.jobs" not in said.details["rows_before"]
        assert said.details["rows_before"]["public.users"] == 500
    with crashed_migration(shop):
        again = shop.restore(timeout_s=_FOR_EVER_S)
    assert not again.changed
    assert "not known for public.jobs" in again.msg
    assert "->" not in again.msg


def close_to_all(shop: Shop) -> None:
    shop.server.sql(f'ALTER DATABASE "{shop.database}" ALLOW_CONNECTIONS false')


def damage(shop: Shop) -> None:
    oid = shop.server.sql(f"SELECT oid FROM pg_database WHERE datname = '{shop.database}'")
    lost = f'rm "$PGDATA/base/{oid}/pg_filenode.map"'
    docker("exec", shop.server.name, "sh", "-c", lost)


@pytest.mark.parametrize("trouble", [close_to_all, damage])
def test_a_live_database_that_cannot_be_read_is_replaced_as_it_was_and_kept(
    shop: Shop, trouble: Callable[[Shop], None]
) -> None:
    shop.server.sql(
        f"""
COMMENT ON DATABASE "{shop.database}" IS 'the till';
ALTER DATABASE "{shop.database}" CONNECTION LIMIT 7;
ALTER DATABASE "{shop.database}" SET work_mem = '7MB';
"""
    )
    asked = _PROPERTIES.format(shop.database)
    before = shop.server.sql(asked)
    assert before == "7|postgres|the till|{{work_mem=7MB}}"
    shop.break_data()
    trouble(shop)
    report = shop.restore()
    assert shop.contents() == shop.original
    assert any("live database cannot be read" in text for text in report.warnings)
    assert shop.server.sql(asked) == before
    assert report.details["previous"] in shop.server.names()
    # Of one that was restored nobody knows what was written since, and nothing is done unasked.
    trouble(shop)
    with pytest.raises(FiredrillError) as caught:
        shop.restore()
    assert "`force`" in readable(caught.value)
    assert shop.restore(force=True).changed
    assert shop.contents() == shop.original
    assert not own_containers()


def test_whatever_is_connected_to_either_database_is_no_obstacle_to_a_swap(shop: Shop) -> None:
    """A walsender stands for the background workers of extensions: none of them is a client."""
    broken = shop.break_data()
    sessions = contextlib.ExitStack()

    def join_the_copy(phase: str, *unused: int) -> None:
        if phase == "downtime" and not visitors:
            copy = next(n for n in shop.server.names() if n.startswith(f"{shop.database}_restore"))
            visitors.append(sessions.enter_context(connected(shop, copy)))

    visitors: list[psycopg2.extensions.connection] = []
    replication = {"connection_factory": psycopg2.extras.LogicalReplicationConnection}
    with sessions:
        sessions.enter_context(connected(shop, **replication))
        kinds = f"SELECT backend_type FROM pg_stat_activity WHERE datname = '{shop.database}'"
        await_that(lambda: "walsender" in shop.server.sql(kinds), "the walsender is there")
        report = shop.restore(join_the_copy)
        assert visitors
    assert shop.contents() == shop.original
    # One attempt that is refused takes five seconds; twelve were tried in vain.
    assert report.details["downtime_s"] < 30
    with connected(shop, **replication):
        roll_back(shop.request())
    assert shop.contents() == broken
