# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restore into the cluster that a new container has just initialised, as the recovery of a dead host makes it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from restoring import PROPERTIES, Names, logs_in, properties
from servers import (
    LABEL,
    RICH,
    Postgres,
    await_final_server,
    await_that,
    docker,
    remove,
    start_postgres,
)

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@contextmanager
def new_server(
    image: str, directory: Path, script: str, *arguments: str, database: str, wait: bool = True
) -> Iterator[Postgres]:
    """A container whose init directory holds one SQL script, which is played into `database`."""
    directory.mkdir()
    (directory / "001_schema.sql").write_text(script)
    directory.chmod(0o755)
    mounts = ["-v", f"{directory}:/docker-entrypoint-initdb.d:ro"]
    server = start_postgres(image, *mounts, "-e", f"POSTGRES_DB={database}", *arguments, wait=wait)
    try:
        yield server
    finally:
        remove(server.name)


SLOW = r"""
CREATE TABLE users (seed text);
\! until test -e /tmp/go; do sleep 0.1; done
SELECT pg_sleep(2);
INSERT INTO users VALUES ('of the init directory');
"""


@pytest.mark.parametrize("arguments", [(), ("--init",)], ids=["entrypoint", "init"])
def test_the_restore_waits_until_the_init_directory_was_played_and_the_final_server_runs(
    postgres: Postgres, image: str, sets: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    name = f"slow_{uuid.uuid4().hex[:6]}"
    postgres.create(name, RICH)
    postgres.backup(sets, name)
    with new_server(
        image, tmp_path / "initdb", SLOW, *arguments, database=name, wait=False
    ) as server:
        ask = "SELECT count(*) FROM pg_tables WHERE tablename = 'users'"
        command = ["exec", server.name, "psql", "-XqAt", "-U", "postgres", "-d", name, "-c", ask]
        await_that(lambda: docker(*command, check=False) == "1", "the temporary server answers")
        temporary = server.started()
        final: list[str] = []

        def watch(phase: str, *unused: int) -> None:
            if phase == "startup":
                docker("exec", server.name, "touch", "/tmp/go")
            elif phase == "preflight" and not final:
                final.append(server.started())

        report = server.restore(sets, name, watch, fresh_cluster=True)
        assert "equal to the manifest" in report.msg
        assert final != [temporary]
        assert server.started() == final[0]
        assert server.sql("SELECT count(*) FROM users", name) == "500"


FIRST_DAY = """
CREATE ROLE "{owner}" LOGIN;
CREATE ROLE crew;
CREATE ROLE "{clerk}" CREATEDB LOGIN NOINHERIT PASSWORD 'of the first day' CONNECTION LIMIT 1 VALID UNTIL '2020-01-01';
GRANT crew TO "{clerk}";
ALTER ROLE "{clerk}" SET work_mem = '5MB';
CREATE TABLE users (seed text);
"""


def role(server: Postgres, name: str) -> str:
    """Everything that a cluster says of a role, its settings and memberships."""
    return server.sql(f"""
        SELECT to_jsonb(a) - '{{oid,rolvaliduntil}}'::text[], coalesce(rolvaliduntil, 'infinity'),
               (SELECT array_agg(setconfig) FROM pg_db_role_setting WHERE setrole = a.oid AND setdatabase = 0),
               (SELECT array_agg(roleid::regrole ORDER BY 1) FROM pg_auth_members WHERE member = a.oid)
          FROM pg_authid a WHERE rolname = '{name}'""")


def test_a_fresh_cluster_gets_the_properties_and_the_passwords_of_the_set(
    postgres: Postgres, image: str, sets: Path, tmp_path: Path
) -> None:
    names = Names()
    stranger = f"stranger {names.database}"
    postgres.sql(f"""CREATE ROLE "{stranger}" LOGIN PASSWORD 'of nobody here';
                     CREATE ROLE "{names.owner}";
                     CREATE ROLE "{names.clerk}" LOGIN PASSWORD 'rotated since' CONNECTION LIMIT 9;
                     GRANT "{names.owner}" TO "{names.clerk}"; ALTER ROLE "{names.clerk}" SET lock_timeout = '3s'""")
    postgres.create(names.database, RICH)
    postgres.sql(PROPERTIES.format(**vars(names)))
    before = properties(postgres, names.database)
    # One that the database does not name belongs to the host that is dead all the same.
    everybody = (names.owner, names.clerk, stranger)
    roles = [role(postgres, name) for name in everybody]
    postgres.backup(sets, names.database)

    # `md5` asks for passwords of either kind.
    asks_for_passwords = ("-e", "POSTGRES_INITDB_ARGS=--auth-host=md5")
    script = FIRST_DAY.format(**vars(names))
    with new_server(
        image, tmp_path / "initdb", script, *asks_for_passwords, database=names.database
    ) as server:
        superuser = role(server, "postgres")
        assert not logs_in(server, names.clerk, "rotated since", names.database)
        report = server.restore(sets, names.database, fresh_cluster=True, keep_previous=False)
        assert "equal to the manifest" in report.msg
        assert properties(server, names.database) == before
        assert [role(server, name) for name in everybody] == roles
        assert role(server, "postgres") == superuser
        assert not logs_in(server, names.clerk, "of the first day", names.database)
        assert logs_in(server, names.clerk, "rotated since", names.database)
        assert any(f"role {names.clerk} is there" in text for text in report.warnings)
        assert any("in owner, connection limit, comment, acl" in text for text in report.warnings)
        assert report.details["previous"] == ""
        assert server.names() == sorted([names.database, "postgres", "template0", "template1"])


#: An extension whose table of configuration has a row of its own, which is nobody's data.
EXTENSION = r"""
cd "$(pg_config --sharedir)/extension" && echo "default_version = '1'" >notebook.control && cat >notebook--1.sql <<'END'
CREATE TABLE notes (note text);
INSERT INTO notes VALUES ('of the extension');
SELECT pg_catalog.pg_extension_config_dump('notes', 'WHERE note NOT LIKE ''of the%''');
CREATE TABLE versions AS SELECT 1 AS version;
END
"""

DATA = {
    "row": "CREATE TABLE users (seed text); INSERT INTO users VALUES ('of the init directory')",
    "partition": "CREATE TABLE log (n int) PARTITION BY LIST (n); CREATE TABLE one PARTITION OF log DEFAULT; INSERT INTO log VALUES (1)",
    "large object": "SELECT lo_from_bytea(0, 'kept for somebody')",
    "materialized": "CREATE MATERIALIZED VIEW figures AS SELECT generate_series(1, 3) AS n",
    "own schema": "CREATE SCHEMA shop; CREATE UNLOGGED TABLE shop.jobs AS SELECT 1 AS id",
    "extension": "CREATE EXTENSION notebook; INSERT INTO notes VALUES ('by somebody')",
}
NO_DATA = """
CREATE EXTENSION pgcrypto;
CREATE EXTENSION notebook;
CREATE TABLE log (n int) PARTITION BY LIST (n);
CREATE TABLE one PARTITION OF log DEFAULT;
CREATE TABLE users (id serial, seed text);
INSERT INTO users (seed) VALUES ('a mistake');
DELETE FROM users;
CREATE MATERIALIZED VIEW figures AS SELECT * FROM users WITH NO DATA;
CREATE MATERIALIZED VIEW more AS SELECT * FROM users;
"""
LOST = "CREATE TABLE users AS SELECT generate_series(1, 5) AS id"


@pytest.fixture(scope="module")
def prepared(image: str) -> Iterator[Postgres]:
    """A server that knows the extension."""
    server = start_postgres(image)
    docker("exec", server.name, "sh", "-ec", EXTENSION)
    yield server
    remove(server.name)


def restored_over(
    server: Postgres, sets: Path, content: str, **options: object
) -> tuple[str, Report]:
    """Restores a lost database where a container's start has made one with `content`; its name, and the report."""
    name = server.create(content=LOST)
    server.backup(sets, name)
    server.sql(f"DROP DATABASE {name}")
    server.create(name, content)
    wanted = {"fresh_cluster": True, "keep_previous": False, "safety_dump": False, **options}
    return name, server.restore(sets, name, **wanted)


@pytest.mark.parametrize(
    ("content", "method"),
    [*((content, "swap") for content in DATA.values()), (DATA["row"], "replace")],
    ids=[*DATA, "row, replace"],
)
def test_a_fresh_cluster_that_holds_data_keeps_it_whatever_was_asked_for(
    prepared: Postgres, sets: Path, content: str, method: str
) -> None:
    name, report = restored_over(prepared, sets, content, method=method)
    kept = report.details["previous"]
    assert kept.startswith(f"{name}_before_")
    assert kept in prepared.names()
    assert f'kept as "{kept}"' in " ".join(report.warnings)
    assert "holds data already" in " ".join(report.warnings)
    assert prepared.sql("SELECT count(*) FROM users", name) == "5"


@pytest.mark.parametrize("method", ["swap", "replace"])
def test_a_fresh_cluster_without_data_keeps_nothing(
    prepared: Postgres, sets: Path, method: str
) -> None:
    name, report = restored_over(prepared, sets, NO_DATA, method=method)
    assert report.details["previous"] == ""
    assert not any("data already" in text or "kept" in text for text in report.warnings)
    assert [one for one in prepared.names() if one.startswith(name)] == [name]
    assert prepared.sql("SELECT count(*) FROM users", name) == "5"


def test_what_comes_into_a_fresh_cluster_while_it_is_restored_is_kept(
    prepared: Postgres, sets: Path
) -> None:
    name = prepared.create(content=LOST)
    prepared.backup(sets, name)
    prepared.sql("TRUNCATE users", name)
    written: list[str] = []

    def watch(phase: str, *unused: int) -> None:
        if phase == "verify" and not written:
            written.append(prepared.sql("INSERT INTO users VALUES (99) RETURNING id", name))

    wanted = {"fresh_cluster": True, "keep_previous": False, "safety_dump": False}
    report = prepared.restore(sets, name, watch, **wanted)
    assert prepared.sql("SELECT max(id) FROM users", name) == "5"
    assert prepared.sql("SELECT max(id) FROM users", report.details["previous"]) == "99"


def test_the_forecast_for_a_fresh_cluster_drops_nothing_and_says_what_it_keeps(
    prepared: Postgres, sets: Path
) -> None:
    name, report = restored_over(prepared, sets, DATA["row"], method="replace", check=True)
    assert "beside the live database" in report.msg
    assert f'database "{name}" holds data already' in " ".join(report.warnings)
    assert prepared.sql("SELECT seed FROM users", name) == "of the init directory"


def test_a_set_that_was_restored_before_its_cluster_was_lost_is_restored_anew(
    postgres: Postgres, image: str, sets: Path
) -> None:
    database = postgres.create(content="CREATE TABLE t AS SELECT generate_series(1, 9) AS n")
    postgres.backup(sets, database)
    oid = f"SELECT oid FROM pg_database WHERE datname = '{database}'"
    lost = start_postgres(image)
    try:
        assert lost.restore(sets, database, source="latest").changed
        before = lost.sql(oid)
        # Its volume goes, as with `docker compose down --volumes`, and a new server makes an empty database of that name.
        remove(lost.name)
        settings = ["-e", "POSTGRES_PASSWORD=x", "-e", f"POSTGRES_DB={database}"]
        docker(
            "run",
            "-d",
            "--name",
            lost.name,
            "--label",
            LABEL,
            "--network",
            "none",
            *settings,
            image,
        )
        await_final_server(lost)
        assert lost.sql(oid) == before
        assert lost.restore(sets, database, source="latest").changed
        assert lost.sql("SELECT count(*) FROM t", database) == "9"
        assert not lost.restore(sets, database, source="latest").changed
    finally:
        remove(lost.name)
