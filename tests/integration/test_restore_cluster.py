# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What belongs to the database itself, and the roles of the cluster, around a restore."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from restoring import PROPERTIES, Names, Shop, contents, logs_in, properties
from servers import RICH, Postgres, await_that, remove, start_postgres

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.access import open_access
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.catalog import (
    apply_properties,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import ServerError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    DatabaseProperties,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.programs import outdated
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run

pytestmark = pytest.mark.integration


@pytest.fixture
def names(postgres: Postgres) -> Iterator[Names]:
    found = Names()
    postgres.sql(f'CREATE ROLE "{found.owner}"; CREATE ROLE "{found.clerk}" LOGIN')
    yield found
    drop(postgres, found)


def drop(server: Postgres, names: Names) -> None:
    for name in server.names():
        if name.startswith(names.database):
            server.sql(f'DROP DATABASE "{name}" WITH (FORCE)')
    server.sql(f'DROP ROLE IF EXISTS "{names.owner}", "{names.clerk}"')


def locale_words(server: Postgres, kind: str) -> str:
    """How to create a database with an encoding and a locale that are not the cluster's."""
    if kind == "latin1":
        return "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    has_icu = server.sql("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'") != "0"
    if server.major < 15 or not has_icu:
        pytest.skip("this server has no ICU provider for databases")
    rules = " ICU_RULES '&a < g'" if server.major >= 16 else ""
    return f"LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' LC_COLLATE 'C' LC_CTYPE 'C'{rules}"


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("swap", "latin1"),
        pytest.param("replace", "icu", marks=pytest.mark.slow),
        pytest.param("swap", "icu", marks=pytest.mark.slow),
    ],
)
def test_what_belongs_to_the_database_itself_survives_a_restore(
    postgres: Postgres, names: Names, sets: Path, method: str, kind: str
) -> None:
    words = locale_words(postgres, kind)
    postgres.sql(f'CREATE DATABASE "{names.database}" TEMPLATE template0 {words}')
    postgres.sql(
        "CREATE TABLE t AS SELECT g AS id, 'Grüße' AS text FROM generate_series(1, 9) g",
        names.database,
    )
    postgres.sql(PROPERTIES.format(**vars(names)))
    before = properties(postgres, names.database)
    assert "fün" in before
    postgres.backup(sets, names.database, globals=False)
    report = postgres.restore(sets, names.database, method=method, safety_dump=False)
    assert report.changed
    old = outdated(postgres.sql("SHOW server_version").split()[0])
    assert report.warnings == ([old] if old else [])
    assert properties(postgres, names.database) == before
    assert "equal to the manifest" in report.msg


@pytest.mark.slow
def test_a_database_keeps_its_provider_of_locales_where_the_cluster_has_another(
    postgres: Postgres, image: str, sets: Path
) -> None:
    locale_words(postgres, "icu")
    arguments = "POSTGRES_INITDB_ARGS=--locale-provider=icu --icu-locale=de"
    server = start_postgres(image, "-e", arguments)
    try:
        words = "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
        server.sql(f"CREATE DATABASE plain TEMPLATE template0 {words}")
        server.sql("CREATE TABLE t AS SELECT 1 AS x", "plain")
        before = properties(server, "plain")
        assert '"datlocprovider": "c"' in before
        assert '"datlocprovider": "i"' in properties(server, "template0")
        server.backup(sets, "plain", globals=False)
        server.restore(sets, "plain")
        assert properties(server, "plain") == before
    finally:
        remove(server.name)


@pytest.mark.slow
def test_the_properties_are_those_of_the_live_database_not_of_the_day_of_the_dump(
    postgres: Postgres, names: Names, sets: Path
) -> None:
    postgres.create(names.database, "CREATE TABLE t (id int)")
    postgres.backup(sets, names.database, globals=False)
    postgres.sql(PROPERTIES.format(**vars(names)))
    before = properties(postgres, names.database)
    postgres.restore(sets, names.database)
    assert properties(postgres, names.database) == before


#: Ends the statement that waits for its lock.
_CANCEL = """
BEGIN;
LOCK TABLE pg_db_role_setting IN EXCLUSIVE MODE;
DO $$ BEGIN
  LOOP
    PERFORM pg_cancel_backend(pid) FROM pg_locks WHERE relation = 'pg_db_role_setting'::regclass AND NOT granted;
    EXIT WHEN FOUND;
    PERFORM pg_sleep(0.05);
  END LOOP;
END $$;
COMMIT;
"""


@pytest.mark.slow
def test_a_server_in_trouble_is_told_from_a_property_that_it_refuses(
    own_postgres: Postgres,
) -> None:
    server = own_postgres
    name = server.create()
    wanted = DatabaseProperties("nobody", "UTF8", "C", "C", settings=(("", "work_mem=7MB"),))
    with Run("check") as run, open_access(run, server.target(name)).server.session(name) as session:
        (refused,) = apply_properties(session, name, wanted)
        assert 'role "nobody" does not exist' in refused
        canceller = server.sql_beside(_CANCEL)
        held = "SELECT count(*) FROM pg_locks WHERE relation = 'pg_db_role_setting'::regclass AND mode ~ '^Excl'"
        await_that(lambda: server.sql(held) == "1", "the lock is held")
        with pytest.raises(ServerError) as caught:
            apply_properties(session, name, wanted)
        assert caught.value.sqlstate == "57014"
        assert canceller.communicate(timeout=60) == ("", "")


@pytest.mark.slow
def test_statistics_are_there_before_the_swap(postgres: Postgres, sets: Path, rich: str) -> None:
    postgres.backup(sets, rich, globals=False)
    shop = Shop(postgres, rich, sets, "", "")
    seen: list[str] = []

    def look(phase: str, *unused: int) -> None:
        if phase != "downtime" or seen:
            return
        copies = [name for name in postgres.names() if name.startswith(f"{rich}_")]
        assert len(copies) == 1
        rows = "SELECT reltuples FROM pg_class WHERE relname = 'jobs'"
        columns = "SELECT count(*) FROM pg_stats WHERE tablename = 'jobs'"
        seen.append(postgres.sql(f"{rows}; {columns}", copies[0]))

    shop.restore(look)
    assert seen == ["2000\n4"]


# -- roles -----------------------------------------------------------------------------------------

OWNED = """
CREATE SCHEMA store AUTHORIZATION "{owner}";
CREATE TABLE store.t (id int);
ALTER TABLE store.t OWNER TO "{owner}";
GRANT SELECT ON store.t TO "{clerk}";
INSERT INTO store.t SELECT generate_series(1, 5);
"""


def role_row(server: Postgres, name: str) -> str:
    return server.sql(f"SELECT * FROM pg_authid WHERE rolname = '{name}'")


def test_an_existing_role_is_left_as_it_is_and_the_difference_is_reported(
    postgres: Postgres, names: Names, sets: Path
) -> None:
    postgres.sql(f"""ALTER ROLE "{names.clerk}" SUPERUSER PASSWORD 'of the dump'""")
    postgres.create(names.database, OWNED.format(**vars(names)))
    postgres.backup(sets, names.database)
    rotated = f"""ALTER ROLE "{names.clerk}" NOSUPERUSER CREATEDB PASSWORD 'rotated since'"""
    postgres.sql(rotated)
    before = [role_row(postgres, name) for name in (names.clerk, names.owner, "postgres")]
    report = postgres.restore(sets, names.database, restore_superusers=True)
    after = [role_row(postgres, name) for name in (names.clerk, names.owner, "postgres")]
    assert after == before
    told = [text for text in report.warnings if names.clerk in text]
    assert len(told) == 1
    assert "superuser" in told[0]
    assert "createdb" in told[0]
    assert not any(names.owner in text for text in report.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [False, True])
def test_a_missing_role_becomes_a_superuser_only_when_that_was_asked_for(
    postgres: Postgres, names: Names, sets: Path, allowed: bool
) -> None:
    attributes = "SUPERUSER REPLICATION BYPASSRLS CREATEDB LOGIN CONNECTION LIMIT 3"
    postgres.sql(f"""ALTER ROLE "{names.owner}" {attributes}""")
    unrelated = f"stranger_{names.database}"
    postgres.sql(f'CREATE ROLE "{unrelated}"')
    postgres.create(names.database, OWNED.format(**vars(names)))
    postgres.backup(sets, names.database)
    postgres.sql(f'DROP DATABASE "{names.database}"')
    postgres.sql(f'DROP ROLE "{names.owner}", "{names.clerk}", "{unrelated}"')
    report = postgres.restore(sets, names.database, restore_superusers=allowed)
    shown = postgres.sql(
        f"""SELECT rolsuper, rolreplication, rolbypassrls, rolcreatedb, rolcanlogin, rolconnlimit
              FROM pg_roles WHERE rolname = '{names.owner}'"""
    )
    dangerous = "t|t|t" if allowed else "f|f|f"
    assert shown == f"{dangerous}|t|t|3"
    told = any(names.owner in text and "restore_superusers" in text for text in report.warnings)
    assert told is not allowed
    assert (
        postgres.sql("SELECT tableowner FROM pg_tables WHERE tablename = 't'", names.database)
        == names.owner
    )
    # A role that the archive does not name is not created.
    assert role_row(postgres, unrelated) == ""


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["group and member", "group"])
def test_a_role_whose_privileges_are_all_those_of_a_group_logs_in_and_reads_after_a_restore(
    postgres: Postgres, names: Names, sets: Path, lost: str
) -> None:
    team = f"team_{names.database}"
    postgres.sql(f"""ALTER ROLE "{names.clerk}" PASSWORD 'secret'; CREATE ROLE "{team}";
                     GRANT "{names.owner}" TO "{team}"; GRANT "{team}" TO "{names.clerk}" """)
    owned = 'CREATE TABLE t AS SELECT generate_series(1, 5) AS id; ALTER TABLE t OWNER TO "{owner}"'
    postgres.create(names.database, owned.format(**vars(names)))
    clerk = role_row(postgres, names.clerk)
    postgres.backup(sets, names.database)
    postgres.sql(f'DROP DATABASE "{names.database}"; DROP ROLE "{names.owner}", "{team}"')
    if lost != "group":
        postgres.sql(f'DROP ROLE "{names.clerk}"')
    report = postgres.restore(sets, names.database)
    rows = postgres.sql("SELECT count(*) FROM t", names.database, user=names.clerk)
    postgres.sql(f'DROP ROLE "{team}"')
    assert rows == "5"
    if lost == "group":
        assert role_row(postgres, names.clerk) == clerk
        told = f"role {names.clerk} will become a member of {team}"
        assert any(told in text for text in report.warnings)
    else:
        assert role_row(postgres, names.clerk).split("|")[1:] == clerk.split("|")[1:]


@pytest.mark.slow
@pytest.mark.parametrize("options", ["INHERIT FALSE, SET FALSE", "INHERIT FALSE, ADMIN TRUE"])
def test_a_membership_comes_back_with_its_options(
    postgres: Postgres, names: Names, sets: Path, options: str
) -> None:
    if postgres.major < 16:
        pytest.skip("before PostgreSQL 16 a membership has no such options")
    postgres.sql(f'GRANT "{names.owner}" TO "{names.clerk}" WITH {options}')
    postgres.create(names.database, OWNED.format(**vars(names)))
    membership = f"""SELECT admin_option, inherit_option, set_option FROM pg_auth_members
                      WHERE member = '"{names.clerk}"'::regrole"""
    before = postgres.sql(membership)
    assert "f" in before
    postgres.backup(sets, names.database)
    postgres.sql(f'DROP DATABASE "{names.database}"; DROP ROLE "{names.owner}", "{names.clerk}"')
    postgres.restore(sets, names.database)
    assert postgres.sql(membership) == before


@pytest.fixture
def strict(image: str) -> Iterator[Postgres]:
    """A server that asks for passwords on its loopback address too, and logs every statement."""
    server = start_postgres(
        image,
        "-e",
        "POSTGRES_INITDB_ARGS=--auth-host=scram-sha-256",
        command=("-c", "log_statement=all", "-c", "log_min_duration_statement=0"),
    )
    yield server
    remove(server.name)


def test_on_a_blank_server_the_database_comes_back_with_its_properties_and_its_roles_log_in(
    strict: Postgres, sets: Path, tmp_path: Path
) -> None:
    names = Names()
    password = 'pa$$ "word" \\ '
    quoted = password.replace("'", "''")
    strict.sql(f"""CREATE ROLE "{names.owner}"; CREATE ROLE "{names.clerk}" LOGIN PASSWORD '{quoted}';
                   GRANT "{names.owner}" TO "{names.clerk}"; ALTER ROLE "{names.clerk}" SET lock_timeout = '3s'""")
    strict.create(names.database, RICH)
    strict.sql(PROPERTIES.format(**vars(names)))
    original = contents(strict, names.database)
    verifier = strict.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{names.clerk}'")
    before = properties(strict, names.database)
    name = strict.backup(sets, names.database).set_name
    strict.sql(f'DROP DATABASE "{names.database}"')
    strict.sql(f'DROP ROLE "{names.owner}", "{names.clerk}"')

    blank = Shop(strict, names.database, tmp_path / "no directory yet", name, original)
    source = str(sets / f"{name}.dump")
    with blank.untouched():
        asked = blank.restore(source=source, check=True)
    assert "new database" in asked.msg
    report = blank.restore(source=source)
    assert report.changed
    assert blank.contents() == original
    assert not report.details["previous"]
    assert not report.details.get("safety_set")
    assert not logs_in(strict, names.clerk, "another", names.database)
    assert logs_in(strict, names.clerk, password, names.database)
    member = f"""SELECT pg_has_role('{names.clerk}', '{names.owner}', 'MEMBER'), rolconfig
                   FROM pg_roles WHERE rolname = '{names.clerk}'"""
    assert strict.sql(member) == "t|{lock_timeout=3s}"
    assert properties(strict, names.database) == before
    assert not blank.restore(source=source).changed
    assert verifier.startswith("SCRAM-SHA-256$")
    # The server logs every statement, but not the one with the verifier.
    logs = ["docker", "logs", strict.name]
    log = subprocess.run(
        logs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True
    ).stdout
    assert f'ALTER ROLE "{names.clerk}"' in log
    assert verifier not in log


@pytest.mark.slow
def test_without_a_manifest_there_is_nothing_to_make_a_new_database_from(
    postgres: Postgres, names: Names, sets: Path
) -> None:
    postgres.create(names.database, OWNED.format(**vars(names)))
    name = postgres.backup(sets, names.database, globals=False).set_name
    (sets / f"{name}.json").unlink()
    postgres.sql(f'DROP DATABASE "{names.database}"')
    shop = Shop(postgres, names.database, sets, name, "")
    with shop.untouched(but=("files",)):
        text = shop.refusal(source=name, verify=False)
    assert "CREATE DATABASE" in text
    # As the message says: an empty database is all that it takes.
    postgres.create(names.database)
    shop.restore(source=name, verify=False)
    assert postgres.sql("SELECT count(*) FROM store.t", names.database) == "5"
