# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases whose settings, locks, policies or encodings stand in the way of a dump or a restore."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from servers import Postgres, await_that, docker, own_containers

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    snapshots as snapshots_room,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.drill import (
    DrillRequest,
    drill,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import (
    BackupRequest,
    backup,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
    TargetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import Manifest
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    load_set,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

#: For our own questions: outranks what the tests set for a database.
PLAIN = "-c statement_timeout=0 -c default_transaction_read_only=off"

_TABLE = "CREATE TABLE t (x int, b text); INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, {}) g;"


def dumped(server: Postgres, directory: Path, database: str, **options: object) -> Manifest:
    report = server.backup(directory, database, globals=False, **options)
    return load_set(Path(report.details["path"])).require_manifest()


def dumped_and_restored(server: Postgres, directory: Path, database: str) -> Manifest:
    """The manifest of a set that was restored again and found equal."""
    manifest = dumped(server, directory, database)
    restored = server.restore(directory, database, jobs=1)
    assert restored.changed
    assert restored.details["differences"] == []
    return manifest


def settings_of(server: Postgres, database: str) -> str:
    return server.sql(
        "SELECT setrole::regrole, unnest(setconfig) FROM pg_db_role_setting s"
        f" JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = '{database}' ORDER BY 1, 2"
    )


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["DATABASE {}", "ROLE postgres IN DATABASE {}"])
def test_settings_that_end_or_bend_sessions_do_not_reach_ours_and_survive(
    postgres: Postgres, sets: Path, subject: str
) -> None:
    name = postgres.create(content=_TABLE.format(100_000))
    settings = {
        "statement_timeout": "20ms",
        "idle_in_transaction_session_timeout": "50ms",
        "lock_timeout": "1ms",
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "serializable",
        "row_security": "off",
        "search_path": '"no such schema", pg_catalog',
    }
    if postgres.major >= 17:
        settings["transaction_timeout"] = "60ms"
    for setting, value in settings.items():
        postgres.sql(f"ALTER {subject.format(name)} SET {setting} = {value!r}")
    before = settings_of(postgres, name)
    assert all(setting in before for setting in settings)
    manifest = dumped_and_restored(postgres, sets, name)
    assert manifest.evidence.counts() == {"public.t": 100_000}
    assert settings_of(postgres, name) == before
    plain = PLAIN + (" -c transaction_timeout=0" if postgres.major >= 17 else "")
    assert postgres.sql("SELECT count(*) FROM public.t", name, options=plain) == "100000"


def test_settings_that_change_how_values_are_written_change_no_evidence(
    postgres: Postgres, sets: Path
) -> None:
    """They are the source's at the dump, and not yet the new database's when it is verified."""
    name = postgres.create(
        content="""
CREATE TABLE t (d date, ts timestamptz, i interval, f float8, r float4, b bytea, m money, x xml, e text);
INSERT INTO t SELECT '2026-03-01'::date + g, now() + g * '1 hour 1.5 s'::interval, g * '1 day 2:03'::interval,
       g / 3.0, g / 7.0, decode(md5(g::text), 'hex'), g * 1.01, '<a/>', E'\\\\' || g FROM generate_series(1, 100) g;
"""
    )
    plain = dumped(postgres, sets, name)
    for setting, value in {
        "DateStyle": "German, DMY",
        "TimeZone": "Asia/Kathmandu",
        "IntervalStyle": "iso_8601",
        "extra_float_digits": "-10",
        "bytea_output": "escape",
        "lc_monetary": "en_US.utf8",
        "xmloption": "document",
        "standard_conforming_strings": "off",
        "client_encoding": "LATIN1",
    }.items():
        postgres.sql(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    before = settings_of(postgres, name)
    manifest = dumped_and_restored(postgres, sets, name)
    assert manifest.evidence.tables == plain.evidence.tables
    assert settings_of(postgres, name) == before


def test_a_login_trigger_that_locks_everybody_out_locks_us_not_out(
    postgres: Postgres, sets: Path
) -> None:
    if postgres.major < 17:
        pytest.skip("PostgreSQL has login triggers from 17 on")
    name = postgres.create(content=_TABLE.format(10))
    postgres.sql(
        """
CREATE FUNCTION deny() RETURNS event_trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'nobody enters'; END $$;
CREATE EVENT TRIGGER deny ON login EXECUTE FUNCTION deny();
ALTER EVENT TRIGGER deny ENABLE ALWAYS;
""",
        name,
    )
    with pytest.raises(AssertionError, match="nobody enters"):
        postgres.sql("SELECT 1", name)
    assert dumped_and_restored(postgres, sets, name).evidence.counts() == {"public.t": 10}
    with pytest.raises(AssertionError, match="nobody enters"):
        postgres.sql("SELECT 1", name)
    assert postgres.sql("SELECT count(*) FROM t", name, options="-c event_triggers=off") == "10"


# -- contents --------------------------------------------------------------------------------------


def test_a_view_that_was_never_filled_hides_no_other_table(postgres: Postgres, sets: Path) -> None:
    name = postgres.create(
        content=_TABLE.format(10)
        + "CREATE MATERIALIZED VIEW a_hollow AS SELECT count(*) FROM t WITH NO DATA;"
        "CREATE MATERIALIZED VIEW filled AS SELECT count(*) FROM t;"
    )
    manifest = dumped_and_restored(postgres, sets, name)
    tables = {table.label: table for table in manifest.evidence.tables}
    assert tables["public.t"].rows == 10
    assert tables["public.t"].fingerprint
    assert tables["public.a_hollow"].note == "not populated"
    assert tables["public.filled"].note.startswith("populated")
    with pytest.raises(AssertionError, match="has not been populated"):
        postgres.sql("SELECT * FROM a_hollow", name)
    assert postgres.sql("SELECT * FROM filled", name) == "10"


_FORCED = """
CREATE ROLE {role} LOGIN;
CREATE TABLE forced (x int);
INSERT INTO forced SELECT generate_series(1, 30);
ALTER TABLE forced OWNER TO {role};
ALTER TABLE forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY few ON forced USING (x < 10);
"""


def test_row_security_hides_no_row_from_a_dump_and_a_role_it_binds_makes_none(
    postgres: Postgres, sets: Path
) -> None:
    role = f"bound_{uuid.uuid4().hex[:8]}"
    name = postgres.create(content=_FORCED.format(role=role))
    assert postgres.sql("SELECT count(*) FROM forced", name, user=role) == "9"
    with pytest.raises(FiredrillError, match="row-level security") as caught:
        backup(BackupRequest(postgres.target(name, user=role), sets, globals=False))
    assert "forced" in str(caught.value)
    assert list(sets.iterdir()) == []
    assert dumped_and_restored(postgres, sets, name).evidence.counts() == {"public.forced": 30}
    assert postgres.sql("SELECT count(*) FROM forced", name) == "30"
    assert postgres.sql("SELECT count(*) FROM forced", name, user=role) == "9"


def test_a_table_that_is_locked_for_long_is_a_refusal_in_words(
    postgres: Postgres, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgres.create(content=_TABLE.format(10))
    monkeypatch.setattr(snapshots_room, "_LOCK_TIMEOUT", "500ms")
    migration = postgres.sql_beside("BEGIN; LOCK TABLE t; SELECT pg_sleep(600)", name)
    locked = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted"
    await_that(lambda: postgres.sql(locked, name) == "1", "the lock is held")
    with pytest.raises(TargetError) as caught:
        postgres.backup(sets, name)
    text = str(caught.value)
    assert f'"{name}" is locked by another session for more than 500ms' in text
    assert "Nothing was changed" in text
    assert "pg_stat_activity" in text
    assert list(sets.iterdir()) == []
    assert not own_containers()
    waiting = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
    await_that(lambda: postgres.sql(waiting) == "1", "only the migration is left")
    postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    migration.communicate(timeout=120)


# -- what a dump leaves out, or brings back in another form ------------------------------------------


def test_an_index_that_could_not_be_built_is_in_no_dump_and_in_no_evidence(
    postgres: Postgres, sets: Path
) -> None:
    name = postgres.create(content="CREATE TABLE t (x int PRIMARY KEY, y int DEFAULT 7)")
    postgres.sql("INSERT INTO t VALUES (1), (2)", name)
    with pytest.raises(AssertionError, match="could not create unique index"):
        postgres.sql("CREATE UNIQUE INDEX CONCURRENTLY broken ON t (y)", name)
    assert postgres.sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid", name) == "1"
    # The index of a partitioned table is not valid before each partition has one, and it is dumped.
    postgres.sql(
        """
CREATE TABLE whole (x int) PARTITION BY LIST (x);
CREATE TABLE part PARTITION OF whole FOR VALUES IN (1);
CREATE INDEX ON ONLY whole (x);
""",
        name,
    )
    assert dumped_and_restored(postgres, sets, name).evidence.objects["indexes"] == 2


def test_sequences_and_views_that_a_pattern_of_excluded_data_names_are_not_compared(
    postgres: Postgres, sets: Path
) -> None:
    name = postgres.create(
        content="""
CREATE TABLE audit (id serial, x int); INSERT INTO audit (x) SELECT generate_series(1, 10);
CREATE TABLE kept (id serial, x int); INSERT INTO kept (x) SELECT generate_series(1, 20);
CREATE SEQUENCE "audit number" START 77; SELECT nextval('"audit number"');
CREATE MATERIALIZED VIEW audit_sums AS SELECT sum(x) FROM audit;
CREATE MATERIALIZED VIEW kept_sums AS SELECT sum(x) FROM kept;
"""
    )
    manifest = dumped(postgres, sets, name, exclude_table_data=("public.audit*",))
    notes = {entry.label: entry.note for entry in manifest.evidence.sequences}
    excluded = "its data was excluded"
    assert notes == {
        "public.audit number": excluded,
        "public.audit_id_seq": excluded,
        "public.kept_id_seq": "",
    }
    not_compared = {
        f"public.audit ({excluded})",
        f"public.audit_sums ({excluded})",
        "public.kept_sums (populated, its contents are not read)",
        f"sequence public.audit number ({excluded})",
        f"sequence public.audit_id_seq ({excluded})",
    }
    report = drill(DrillRequest(postgres.target(name), sets))
    assert report.verdict == "pass", report.msg
    assert set(report.details["not_compared"]) == not_compared
    restored = postgres.restore(sets, name)
    assert restored.details["differences"] == []
    assert set(restored.details["not_compared"]) == not_compared
    assert postgres.sql("SELECT last_value FROM kept_id_seq", name) == "20"


def test_a_filled_view_of_one_that_is_not_filled_comes_back_empty_and_that_is_said(
    postgres: Postgres, sets: Path
) -> None:
    """pg_dump does not refresh it: its query would fail."""
    name = postgres.create(
        content="""
CREATE MATERIALIZED VIEW hollow AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW filled AS SELECT * FROM hollow;
REFRESH MATERIALIZED VIEW hollow WITH NO DATA;
"""
    )
    manifest = dumped_and_restored(postgres, sets, name)
    notes = {table.label: table.note for table in manifest.evidence.tables}
    assert "not refreshed" in notes["public.filled"]
    assert notes["public.hollow"] == "not populated"
    (said,) = (text for text in manifest.warnings if "public.filled" in text)
    assert "without rows" in said


def test_a_trigger_of_a_partitioned_table_counts_once_whatever_the_version_calls_its_copies(
    postgres: Postgres, sets: Path
) -> None:
    name = postgres.create(
        content="""
CREATE TABLE whole (x int) PARTITION BY LIST (x);
CREATE TABLE one PARTITION OF whole FOR VALUES IN (1);
CREATE TABLE two PARTITION OF whole FOR VALUES IN (2);
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER noted AFTER INSERT ON whole FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER of_its_own AFTER INSERT ON one FOR EACH ROW EXECUTE FUNCTION noted();
"""
    )
    assert dumped_and_restored(postgres, sets, name).evidence.objects["triggers"] == 2


def test_an_heir_whose_columns_come_back_in_another_order_is_equal(
    postgres: Postgres, sets: Path
) -> None:
    name = postgres.create(
        content="""
CREATE TABLE parent (a int);
CREATE TABLE heir (k int, "K" text, "x.y" int) INHERITS (parent);
ALTER TABLE parent ADD b int;
INSERT INTO heir SELECT g, g + 1, md5(g::text), NULL, g + 2 FROM generate_series(1, 50) g;
INSERT INTO parent VALUES (1, 2);
"""
    )
    columns = (
        "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'heir'::regclass AND attnum > 0"
    )
    before = postgres.sql(columns, name)
    known = dumped_and_restored(postgres, sets, name).evidence
    assert postgres.sql(columns, name) != before
    assert known.counts() == {"public.heir": 50, "public.parent": 1}
    # It still is a fingerprint of what stands in which column.
    postgres.sql("UPDATE heir SET a = b, b = a", name)
    found = {
        table.label: table.fingerprint for table in dumped(postgres, sets, name).evidence.tables
    }
    fingerprints = {table.label: table.fingerprint for table in known.tables}
    assert found["public.parent"] == fingerprints["public.parent"]
    assert found["public.heir"] != fingerprints["public.heir"]


def test_a_large_object_with_holes_is_equal_to_itself_with_zeros_and_to_no_other(
    postgres: Postgres, sets: Path
) -> None:
    name = postgres.create(
        content="SELECT lo_from_bytea(7, 'head'); SELECT lo_put(7, 100000, 'tail');"
    )
    pages = "SELECT count(*) FROM pg_largeobject"
    assert postgres.sql(pages, name) == "2"
    known = dumped_and_restored(postgres, sets, name).evidence.large_objects
    assert int(postgres.sql(pages, name)) > 40
    seen = {known}
    for change in (
        r"lo_put(7, 50000, '\x01')",
        r"lo_put(7, 50000, '\x0001')",
        r"lo_put(7, 100000, '\x00')",
        r"lo_put(7, 100004, '\x00')",
    ):
        postgres.sql(f"SELECT {change}", name)
        seen.add(dumped(postgres, sets, name).evidence.large_objects)
    assert len(seen) == 5


_EXTENSION = """
set -e
cd "$(dirname "$(find /usr/share/postgresql -name plpgsql.control)")"
echo "default_version = '1'" > firedrill_test.control
cat > firedrill_test--1.sql <<'END'
CREATE TABLE choices (name text, own bool DEFAULT true);
INSERT INTO choices VALUES ('built in', false);
SELECT pg_catalog.pg_extension_config_dump('choices', 'WHERE own');
CREATE TABLE constants (x int);
END
"""


def test_rows_of_an_extension_that_a_dump_takes_are_said_to_be_not_compared(
    postgres: Postgres, sets: Path
) -> None:
    docker("exec", "-i", "-u", "root", postgres.name, "sh", stdin=_EXTENSION)
    name = postgres.create(
        content="CREATE EXTENSION firedrill_test; INSERT INTO choices VALUES ('ours');"
    )
    dumped(postgres, sets, name)
    restored = postgres.restore(sets, name)
    assert restored.details["differences"] == []
    assert restored.details["not_compared"] == ["public.choices (its rows belong to an extension)"]
    assert postgres.sql("SELECT count(*) FROM choices", name) == "2"


# -- what changes while a backup waits ---------------------------------------------------------------

#: Commits when somebody waits for its lock.
_MIGRATION = """
BEGIN;
CREATE ROLE {role};
ALTER TABLE t ADD y int;
GRANT SELECT ON t TO {role};
CREATE EXTENSION pgcrypto;
ALTER DATABASE {database} SET work_mem = '7MB';
DO $$ BEGIN
  WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND NOT granted) LOOP
    PERFORM pg_sleep(0.05);
  END LOOP;
END $$;
COMMIT;
"""


def test_what_a_migration_makes_while_the_backup_waits_for_it_is_in_the_manifest_too(
    postgres: Postgres, sets: Path
) -> None:
    name = postgres.create(content=_TABLE.format(10))
    role = f"late_{name}"
    migration = postgres.sql_beside(_MIGRATION.format(role=role, database=name), name)
    held = (
        "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted AND mode ~ 'Excl'"
    )
    await_that(lambda: postgres.sql(held, name) == "1", "the migration holds its lock")
    manifest = dumped(postgres, sets, name)
    assert migration.communicate(timeout=120) == ("", "")
    assert {found.name: found.named_by_database for found in manifest.roles}[role]
    assert "pgcrypto" in {extension.name for extension in manifest.extensions}
    assert manifest.properties.settings == (("", "work_mem=7MB"),)
    report = drill(DrillRequest(postgres.target(name), sets))
    assert report.verdict == "pass", report.msg


# -- encodings -------------------------------------------------------------------------------------


def encoded(server: Postgres, encoding: str) -> str:
    name = f"db_{uuid.uuid4().hex[:8]}"
    server.sql(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    return name


def test_a_database_in_latin1_comes_back_in_latin1(postgres: Postgres, sets: Path) -> None:
    name = encoded(postgres, "LATIN1")
    postgres.sql(
        f"""
SET client_encoding = 'UTF8';
CREATE TABLE "größe" ("maß" text);
INSERT INTO "größe" VALUES ('für');
COMMENT ON DATABASE {name} IS 'Größen';
""",
        name,
    )
    manifest = dumped_and_restored(postgres, sets, name)
    assert manifest.properties.encoding == manifest.evidence.encoding == "LATIN1"
    assert manifest.properties.comment == "Größen"
    assert manifest.evidence.counts() == {"public.größe": 1}
    asked = f"""
SET client_encoding = 'UTF8';
SELECT octet_length("maß"), "maß", current_setting('server_encoding') FROM "größe";
SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{name}';
"""
    assert postgres.sql(asked, name).splitlines() == ["3|für|LATIN1", "Größen"]


def test_a_database_without_an_encoding_keeps_its_bytes(postgres: Postgres, sets: Path) -> None:
    name = encoded(postgres, "SQL_ASCII")
    postgres.sql(
        r"CREATE TABLE größe (x text); INSERT INTO größe VALUES (E'caf\351'), (E'\377\376')", name
    )
    manifest = dumped_and_restored(postgres, sets, name)
    assert manifest.evidence.encoding == "SQL_ASCII"
    assert manifest.evidence.counts() == {"public.größe": 2}
    asked = "SELECT string_agg(encode(x::bytea, 'hex'), ' ' ORDER BY x) FROM größe"
    assert postgres.sql(asked, name) == "636166e9 fffe"


def test_a_name_that_is_no_utf8_is_a_refusal_in_words(postgres: Postgres, sets: Path) -> None:
    """Only a database without an encoding takes such a name; a manifest could not hold it."""
    name = encoded(postgres, "SQL_ASCII")
    postgres.sql(r"""DO $$ BEGIN EXECUTE E'CREATE TABLE "caf\351" (x int)'; END $$""", name)
    with pytest.raises(FiredrillError) as caught:
        postgres.backup(sets, name)
    text = str(caught.value)
    assert f'"{name}"' in text
    assert "no UTF-8" in text
    assert "Rename it" in text
    assert list(sets.iterdir()) == []
    assert not own_containers()
