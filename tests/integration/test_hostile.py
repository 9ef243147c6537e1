# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases that want to harm: roles that plant code, names that mean something to a shell."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Postgres, own_containers

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import (
    BackupRequest,
    backup,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    load_set,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def rows_of(report: Report) -> dict[str, int]:
    found = load_set(Path(report.details["path"]))
    found.check_files()
    return found.require_manifest().evidence.counts()


# -- planted code ----------------------------------------------------------------------------------

#: What a role without any right but a schema of its own can leave lying about. Whoever is superuser and runs
#: any of it makes the role a superuser, or, in a transaction that only reads, a file.
_PLANTED = """
CREATE ROLE {role} LOGIN;
CREATE SCHEMA {role} AUTHORIZATION {role};
GRANT CREATE ON SCHEMA public TO {role};
CREATE TABLE victim (x int, t text);
INSERT INTO victim SELECT g, g::text FROM generate_series(1, 50) g;
SET ROLE {role};
CREATE FUNCTION {role}.harm() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  BEGIN
    EXECUTE 'ALTER ROLE {role} SUPERUSER';
  EXCEPTION WHEN OTHERS THEN NULL;
  END;
  BEGIN
    EXECUTE 'COPY (SELECT current_query()) TO ''/tmp/{role}''';
  EXCEPTION WHEN OTHERS THEN NULL;
  END;
END $$;
"""

_CAST = """
CREATE TABLE {schema}.bait (n int);
INSERT INTO {schema}.bait VALUES (1), (2);
CREATE FUNCTION {schema}.bait_text({schema}.bait) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN PERFORM {role}.harm(); RETURN 'x'; END $$;
CREATE CAST ({schema}.bait AS text) WITH FUNCTION {schema}.bait_text({schema}.bait) AS IMPLICIT;
"""


def _function(arguments: str, result: str, value: str, name: str) -> str:
    return f"""
CREATE FUNCTION {{schema}}.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS
  $$ BEGIN PERFORM {{role}}.harm(); RETURN {value}; END $$;
"""


#: Functions and operators that the engine's own queries use, with the very types of their arguments.
_SHADOWS = (
    _function("text, bigint", "bigint", "1", "hashtextextended")
    + _function("text", "text", "'x'", "current_setting")
    + _function("oid", "bigint", "1", "pg_database_size")
    + _function("oid", "name", "'x'", "pg_get_userbyid")
    + _function("integer", "text", "'x'", "pg_encoding_to_char")
    + _function("", "text", "'x'", "pg_export_snapshot")
    + _function("", "name", "'x'", "current_database")
    + _function("numeric, numeric", "numeric", "1", "adding")
    + _function("bigint", "bigint", "1", "counting")
    + _function("name, text", "boolean", "true", "unlike")
    + _function("name, name", "boolean", "true", "equal")
    + _function("oid, oid", "boolean", "true", "equal")
    + _function('"char", "char"', "boolean", "true", "equal")
    + """
CREATE AGGREGATE {schema}.count(*) (sfunc = {schema}.counting, stype = bigint, initcond = '0');
CREATE AGGREGATE {schema}.sum(numeric) (sfunc = {schema}.adding, stype = numeric, initcond = '0');
CREATE OPERATOR {schema}.!~ (function = {schema}.unlike, leftarg = name, rightarg = text);
CREATE OPERATOR {schema}.<> (function = {schema}.unlike, leftarg = name, rightarg = text);
CREATE OPERATOR {schema}.= (function = {schema}.equal, leftarg = name, rightarg = name);
CREATE OPERATOR {schema}.= (function = {schema}.unlike, leftarg = name, rightarg = text);
CREATE OPERATOR {schema}.= (function = {schema}.equal, leftarg = oid, rightarg = oid);
CREATE OPERATOR {schema}.= (function = {schema}.equal, leftarg = "char", rightarg = "char");
"""
)


def harm_done(server: Postgres, role: str) -> str:
    file = server.sql(f"SELECT pg_read_file('/tmp/{role}', 0, 9999, true)")
    return file or server.sql(f"SELECT rolname FROM pg_roles WHERE rolname = '{role}' AND rolsuper")


@pytest.mark.parametrize("schema", ["public", "a schema of its own"])
def test_nothing_that_a_role_planted_runs_in_a_dump_or_a_restore(
    postgres: Postgres, sets: Path, schema: str
) -> None:
    role = f"mallory_{uuid.uuid4().hex[:8]}"
    schema = role if schema != "public" else schema
    name = postgres.create()
    planted = (_PLANTED + _CAST + _SHADOWS).format(role=role, schema=schema)
    postgres.sql(planted, name)
    path = f"{schema}, pg_catalog"
    postgres.sql(f"ALTER DATABASE {name} SET search_path = {path}")
    postgres.sql(f"ALTER ROLE postgres IN DATABASE {name} SET search_path = {path}")
    report = postgres.backup(sets, name)
    assert harm_done(postgres, role) == ""
    assert rows_of(report) == {f"{schema}.bait": 2, "public.victim": 50}
    restored = postgres.restore(sets, name, jobs=2)
    assert harm_done(postgres, role) == ""
    assert restored.details["differences"] == []
    again = postgres.restore(sets, name)
    assert not again.changed
    assert harm_done(postgres, role) == ""
    # The bait does work on who takes it.
    postgres.sql(f"SELECT bait::text FROM {schema}.bait", name)
    assert harm_done(postgres, role) != ""
    postgres.sql(f"ALTER ROLE {role} NOSUPERUSER")


# -- names -----------------------------------------------------------------------------------------

NAMES = [
    """../it's "Quoted" two\twords""",
    "-Fc --help $(touch /tmp/pwned); `id` & | > x",
    "grüße 例え 100%s %41 {} $HOME",
    "postgresql://mallory@example.org/db?sslmode=disable",
    "dbname=postgres host=/tmp back\\slash \\' end\\",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_database_of_any_name_is_dumped_and_restored(
    postgres: Postgres, sets: Path, name: str
) -> None:
    postgres.create(name, "CREATE TABLE t AS SELECT generate_series(1, 3) AS x")
    try:
        report = postgres.backup(sets, name)
        assert report.database == load_set(Path(report.details["path"])).require_manifest().database
        assert report.database == name
        assert rows_of(report) == {"public.t": 3}
        assert {path.parent for path in sets.rglob("*")} == {sets}
        postgres.sql("TRUNCATE t", name)
        restored = postgres.restore(sets, name, keep_previous=False, safety_dump=False, jobs=1)
        assert restored.details["differences"] == []
        assert postgres.sql("SELECT count(*) FROM t", name) == "3"
    finally:
        postgres.sql(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
    assert not own_containers()


ROLES = ['it\'s "own" r\\ole', "-U postgres", "$(touch /tmp/pwned) dbname=x", "Größe 50%s = x"]


_GRANTS = """
SELECT pg_get_userbyid(datdba),
       (SELECT array_agg(acl::text ORDER BY acl::text) FROM unnest(datacl) acl),
       (SELECT array_agg((r.rolname, setconfig)::text ORDER BY r.rolname)
          FROM pg_db_role_setting JOIN pg_roles r ON r.oid = setrole WHERE setdatabase = d.oid),
       (SELECT array_agg(acl::text ORDER BY acl::text) FROM pg_class, unnest(relacl) acl WHERE relname = 't')
  FROM pg_database d WHERE datname = current_database()"""


@pytest.fixture
def roles(postgres: Postgres) -> Iterator[list[str]]:
    """Superusers of any name, who own a database together."""
    names = [f"{role} {uuid.uuid4().hex[:6]}" for role in ROLES]
    for name in names:
        postgres.sql(f"CREATE ROLE {quoted(name)} SUPERUSER LOGIN")
    yield names
    for database in postgres.sql(
        "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) ~ ' '"
    ).splitlines():
        postgres.sql(f"DROP DATABASE {quoted(database)} WITH (FORCE)")
    for name in names:
        postgres.sql(f"DROP ROLE IF EXISTS {quoted(name)}")


def test_roles_of_any_name_dump_and_are_created_again_with_what_they_own_and_may(
    postgres: Postgres, sets: Path, roles: list[str]
) -> None:
    name = postgres.create(content="CREATE TABLE t (x int)")
    for role in roles:
        postgres.sql(
            f"GRANT SELECT ON t TO {quoted(role)};"
            f"GRANT CONNECT ON DATABASE {name} TO {quoted(role)};"
            f"ALTER ROLE {quoted(role)} IN DATABASE {name} SET work_mem = '5MB'",
            name,
        )
    owner = quoted(roles[0])
    postgres.sql(f"ALTER TABLE t OWNER TO {owner}; ALTER DATABASE {name} OWNER TO {owner}", name)
    before = postgres.sql(_GRANTS, name)
    assert all(role.partition(" ")[0] in before for role in roles)
    for role in roles[:2]:
        backup(BackupRequest(postgres.target(name, user=role), sets))
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")
    for role in roles:
        postgres.sql(f"DROP ROLE {quoted(role)}")
    postgres.restore(sets, name, restore_superusers=True)
    assert postgres.sql(_GRANTS, name) == before


_TABLES = [
    "two words",
    """it's "quoted" """,
    "100%s {} %(x)s",
    "TABLE DATA public t postgres",
    "line\nbreak; 1259 1 TABLE DATA x y z",
    "grüße",
    "-t",
    "; DROP TABLE victim; --",
]
_SCHEMAS = ["public", "ATTACH", "DATA", "DATA x"]


def test_tables_of_any_name_are_dumped_counted_and_restored(postgres: Postgres, sets: Path) -> None:
    name = postgres.create()
    wanted = {}
    for schema in _SCHEMAS:
        postgres.sql(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}", name)
        for number, table in enumerate(_TABLES, 1):
            full = f"{quoted(schema)}.{quoted(table)}"
            postgres.sql(f"CREATE TABLE {full} AS SELECT generate_series(1, {number}) x", name)
            wanted[f"{schema}.{table}"] = number
    report = postgres.backup(sets, name, globals=False)
    assert rows_of(report) == wanted
    restored = postgres.restore(sets, name)
    assert restored.details["differences"] == []
    assert restored.details["rows_after"] == wanted


@pytest.mark.parametrize("odd", ["-rf it's $(touch pwned)\nnew line", 'a "b", c:ro'])
def test_a_directory_of_any_name_holds_sets(postgres: Postgres, tmp_path: Path, odd: str) -> None:
    directory = tmp_path / odd / odd
    name = postgres.create(content="CREATE TABLE t AS SELECT generate_series(1, 3) AS x")
    report = postgres.backup(directory, name, globals=False)
    assert rows_of(report) == {"public.t": 3}
    # A set that was copied and renamed by hand, without its manifest.
    copy = directory / f"{odd}.dump"
    copy.write_bytes(Path(report.details["path"]).read_bytes())
    postgres.sql("TRUNCATE t", name)
    restored = postgres.restore(directory, name, source=str(copy), verify=False, jobs=1)
    assert restored.changed
    assert postgres.sql("SELECT count(*) FROM t", name) == "3"
