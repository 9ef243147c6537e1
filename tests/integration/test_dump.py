# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dump: what a recovery set holds, and that its evidence is of the dump's own snapshot."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import RICH, Postgres, await_that, docker, own_containers

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    ConfigError,
    FiredrillError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Report,
    TableEvidence,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    load_set,
)

pytestmark = pytest.mark.integration

#: The same as the engine's own, so that a server can be asked what the manifest claims.
FINGERPRINT = (
    "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(ROW(x.*)::text, 0)::numeric), 0)"
)


class Made:
    """One set of the rich database, which tests look at and do not change."""

    def __init__(self, server: Postgres, database: str, directory: Path, **options: object) -> None:
        self.server = server
        self.database = database
        self.directory = directory
        self.report: Report = server.backup(directory, database, **options)
        self.path = Path(self.report.details["path"])
        self.manifest = load_set(self.path).require_manifest()

    @property
    def evidence(self) -> dict[str, TableEvidence]:
        return {table.label: table for table in self.manifest.evidence.tables}


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    return postgres.create(content=RICH)


@pytest.fixture(scope="module")
def made(postgres: Postgres, database: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A set as nobody chose anything."""
    return Made(postgres, database, tmp_path_factory.mktemp("made") / "deep" / "sets")


@pytest.fixture(scope="module")
def lean(postgres: Postgres, database: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A set of which everything was left out that may be."""
    options = {
        "globals": False,
        "evidence": "counts",
        "compress": "none",
        "exclude_table_data": ("public.audit*",),
    }
    return Made(postgres, database, tmp_path_factory.mktemp("lean") / "sets", **options)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- what a set is ---------------------------------------------------------------------------------


def test_a_set_is_three_files_for_root_alone_in_a_directory_for_root_alone(made: Made) -> None:
    name = made.report.set_name
    assert sorted(path.name for path in made.directory.iterdir()) == [
        "RECOVERY.md",
        f"{name}.dump",
        f"{name}.globals.sql",
        f"{name}.json",
    ]
    assert {mode(path) for path in made.directory.iterdir()} == {0o600}
    assert mode(made.directory) == 0o700
    assert name.startswith(f"{made.database}_20")


def test_the_manifest_holds_size_and_sha256_of_each_file_as_they_are_on_the_disk(
    made: Made,
) -> None:
    written = json.loads((made.directory / f"{made.report.set_name}.json").read_text())
    for kind in ("dump", "globals"):
        content = (made.directory / written[kind]["name"]).read_bytes()
        assert written[kind]["bytes"] == len(content) > 0
        assert written[kind]["sha256"] == hashlib.sha256(content).hexdigest()
    assert made.report.details["sha256"] == written["dump"]["sha256"]


def test_an_edited_manifest_is_not_believed(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made.directory, copy)
    beside = copy / f"{made.report.set_name}.json"
    text = beside.read_text()
    assert '"rows": 500' in text
    beside.write_text(text.replace('"rows": 500', '"rows": 501', 1))
    found = load_set(copy / f"{made.report.set_name}.dump")
    assert found.manifest is None
    assert "edited or damaged" in found.problem


def test_the_archive_reads_to_its_end_and_holds_every_table(made: Made) -> None:
    sql = made.server.pg_restore(made.path, "-f", "-")
    for table in ("users", "jobs", "audit", "audit_2026"):
        assert f"CREATE TABLE public.{table} (" in sql
    for table in ("users", "jobs", "audit_2026"):
        assert f"COPY public.{table} (" in sql
    assert "üser500@例え.jp" in sql
    assert "PostgreSQL database dump complete" in sql


def test_the_manifest_says_what_was_dumped_and_where_it_came_from(made: Made) -> None:
    manifest, source = made.manifest, made.manifest.source
    image_id = docker("inspect", "-f", "{{.Image}}", made.server.name)
    assert (source.container, source.image, source.image_id) == (
        made.server.name,
        made.server.image,
        image_id,
    )
    assert source.server_version == made.server.sql("SHOW server_version")
    assert source.pg_dump_version.split(".")[0] == str(source.major) == str(made.server.major)
    assert manifest.database == made.database
    assert manifest.properties.encoding == "UTF8"
    assert manifest.properties.owner == "postgres"
    assert "pgcrypto" in {extension.name for extension in manifest.extensions}
    assert {"postgres"} <= {role.name for role in manifest.roles}
    assert manifest.created_at <= manifest.finished_at
    assert manifest.durations_s["dump"] > 0


def test_evidence_is_what_the_server_counts_itself(made: Made) -> None:
    evidence = made.manifest.evidence
    assert evidence.counts() == {
        "public.users": 500,
        "public.jobs": 2000,
        "public.audit_2026": 100,
    }
    for table in evidence.tables:
        if table.kind == "table":
            asked = made.server.sql(f"{FINGERPRINT} FROM ONLY {table.label} x", made.database)
            assert asked == f"{table.rows} {table.fingerprint}"
    assert evidence.large_objects
    assert evidence.large_objects.count == 1
    assert {s.label: s.first for s in evidence.sequences}["public.users_id_seq"] == 500
    wanted = {"views": 1, "materialized views": 1, "triggers": 1, "policies": 1, "types": 1}
    assert {kind: evidence.objects[kind] for kind in wanted} == wanted
    assert {table.kind for table in evidence.tables} == {
        "table",
        "partitioned table",
        "materialized view",
    }


def test_globals_hold_the_roles_with_their_password_hashes(made: Made) -> None:
    sql = (made.directory / f"{made.report.set_name}.globals.sql").read_text()
    assert "CREATE ROLE postgres" in sql
    stored = made.server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
    assert stored.startswith(("SCRAM-SHA-256", "md5"))
    assert stored in sql


def test_without_globals_there_is_no_password_hash_in_the_set(lean: Made) -> None:
    assert sorted(path.suffix for path in lean.directory.iterdir()) == [".dump", ".json", ".md"]
    assert lean.manifest.globals is None
    assert not [p for p in lean.directory.iterdir() if b"SCRAM-SHA-256" in p.read_bytes()]


def test_counts_alone_are_recorded_as_counts_alone(lean: Made) -> None:
    assert lean.manifest.evidence.level == lean.report.details["evidence_level"] == "counts"
    assert lean.evidence["public.jobs"].rows == 2000
    assert {table.fingerprint for table in lean.evidence.values()} == {None}


def test_excluded_data_is_recorded_as_excluded_and_stays_out(lean: Made) -> None:
    assert lean.manifest.excluded_table_data == ("public.audit*",)
    assert lean.evidence["public.audit_2026"].rows is None
    assert "excluded" in lean.evidence["public.audit_2026"].note
    assert "excluded" not in lean.evidence["public.jobs"].note
    sql = lean.server.pg_restore(lean.path, "-f", "-")
    assert "CREATE TABLE public.audit_2026 (" in sql
    assert "COPY public.audit_2026" not in sql
    assert "COPY public.jobs" in sql


def test_no_evidence_is_recorded_as_none_and_said(
    postgres: Postgres, database: str, sets: Path
) -> None:
    none = Made(postgres, database, sets, evidence="none", globals=False, compress="gzip:1")
    assert none.manifest.evidence.level == "none"
    assert none.manifest.evidence.counts() == {}
    assert set(none.evidence) >= {"public.users", "public.jobs", "public.audit_2026"}
    assert "no evidence" in none.report.msg
    assert none.manifest.compress == "gzip:1"
    assert "COPY public.jobs" in none.server.pg_restore(none.path, "-f", "-")


def test_the_next_set_shows_what_changed_in_between(postgres: Postgres, sets: Path) -> None:
    name = postgres.create(
        content="".join(
            f"CREATE TABLE {table} (x int); INSERT INTO {table} SELECT generate_series(1, 1000);"
            for table in ("same", "edited", "emptied", "emptied_too", "emptied_three")
        )
    )
    first = Made(postgres, name, sets, globals=False)
    assert not any("rows" in warning for warning in first.report.warnings)
    postgres.sql(
        "UPDATE edited SET x = -1 WHERE x = 777; TRUNCATE emptied, emptied_too, emptied_three", name
    )
    second = Made(postgres, name, sets, globals=False)
    one, other = first.evidence, second.evidence
    assert one["public.same"].fingerprint == other["public.same"].fingerprint
    assert one["public.edited"].rows == other["public.edited"].rows == 1000
    assert one["public.edited"].fingerprint != other["public.edited"].fingerprint
    assert other["public.emptied"].rows == 0
    # It may be the accident that is dumped here.
    assert any("2000 rows" in text and "5000" in text for text in second.report.warnings)


# -- compression -----------------------------------------------------------------------------------


def test_the_compression_fits_the_server_when_nobody_chooses(made: Made) -> None:
    wanted = "zstd" if made.server.major >= 16 else "gzip"
    assert made.manifest.compress == made.report.details["compress"]
    assert made.manifest.compress.startswith(f"{wanted}:")
    listing = made.server.pg_restore(made.path, "-l")
    assert re.search(r"Compression: (zstd|-1|6)", listing)
    assert ("Compression: zstd" in listing) == (wanted == "zstd")


def test_no_compression_is_none(made: Made, lean: Made) -> None:
    assert "üser499@例え.jp".encode() in lean.path.read_bytes()
    assert "üser499@例え.jp".encode() not in made.path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("compress", ["zstd", "lz4:1"])
def test_a_compression_that_the_server_does_not_know_is_refused_in_words(
    postgres: Postgres, database: str, sets: Path, compress: str
) -> None:
    if postgres.major >= 16:
        Made(postgres, database, sets, compress=compress, evidence="none", globals=False)
        return
    with pytest.raises(ConfigError, match=f"PostgreSQL {postgres.major}.*gzip"):
        postgres.backup(sets, database, compress=compress)
    assert not sets.exists()


@pytest.mark.slow
@pytest.mark.parametrize("compress", ["brotli", "gzip:best", "zstd:", "gzip:99", "--jobs"])
def test_an_unknown_compression_is_refused_and_nothing_is_written(
    postgres: Postgres, database: str, sets: Path, compress: str
) -> None:
    with pytest.raises(FiredrillError, match="compress"):
        postgres.backup(sets, database, compress=compress)
    assert not sets.exists() or not list(sets.iterdir())
    assert not own_containers()


# -- one snapshot ----------------------------------------------------------------------------------

_TRANSFERS = """
CREATE TABLE debit (id bigserial PRIMARY KEY, amount int);
CREATE TABLE credit (id bigserial PRIMARY KEY, amount int);
CREATE TABLE account (id int PRIMARY KEY, amount bigint);
INSERT INTO account SELECT g, 0 FROM generate_series(1, 20) g;
"""
#: Each transaction keeps the tables in balance, so that only one snapshot of all of them is in balance.
_WRITER = """
SET application_name = 'test writer';
DO $$
BEGIN
  LOOP
    INSERT INTO debit (amount) VALUES (7);
    UPDATE account SET amount = amount - 7 WHERE id = {this};
    PERFORM pg_sleep(0.001);
    INSERT INTO credit (amount) VALUES (7);
    UPDATE account SET amount = amount + 7 WHERE id = {that};
    COMMIT;
  END LOOP;
END $$;
"""


@contextmanager
def writers(server: Postgres, database: str) -> Iterator[None]:
    """Two sessions that write all the time."""
    processes = [server.sql_beside(_WRITER.format(this=n, that=n + 10), database) for n in (1, 2)]
    try:
        await_that(
            lambda: int(server.sql("SELECT count(*) FROM credit", database)) > 10, "writers write"
        )
        yield
    finally:
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE application_name = 'test writer' AND datname = '{database}'"
        )
        for process in processes:
            process.communicate(timeout=120)


@pytest.mark.slow
def test_evidence_and_archive_are_one_snapshot_while_others_write(
    postgres: Postgres, sets: Path
) -> None:
    name = postgres.create(content=_TRANSFERS)
    count = "SELECT count(*) FROM credit"
    with writers(postgres, name):
        before = int(postgres.sql(count, name))
        made = Made(postgres, name, sets, globals=False)
        after = int(postgres.sql(count, name))
    counts = made.manifest.evidence.counts()
    assert before < counts["public.credit"] < after
    assert counts["public.credit"] == counts["public.debit"]
    copy = f"{name}_copy"
    restored = postgres.restore(sets, copy, source=str(made.path), force=True, jobs=1)
    assert restored.details["differences"] == []
    for table in made.manifest.evidence.tables:
        asked = postgres.sql(f"{FINGERPRINT} FROM {table.label} x", copy)
        assert asked == f"{table.rows} {table.fingerprint}"
    assert postgres.sql("SELECT sum(amount) FROM account", copy) == "0"
    for sequence in made.manifest.evidence.sequences:
        value = int(postgres.sql(f"SELECT last_value FROM {sequence.label}", copy))
        assert sequence.first <= value <= sequence.last
        # The application would fail at its first insert otherwise.
        assert value >= counts[sequence.label.replace("_id_seq", "")]


@pytest.mark.slow
def test_a_truncate_that_races_the_dump_leaves_no_empty_table_in_it(
    postgres: Postgres, sets: Path
) -> None:
    """A snapshot from before a TRUNCATE sees no row of the table, neither the old ones nor the new ones."""
    name = postgres.create(
        content="CREATE TABLE t (x int); INSERT INTO t SELECT generate_series(1, 100)"
    )
    racer = postgres.sql_beside(
        """
BEGIN;
TRUNCATE t;
INSERT INTO t SELECT generate_series(1, 7);
DO $$
BEGIN
  FOR attempt IN 1..18000 LOOP
    PERFORM FROM pg_locks WHERE relation = 't'::regclass AND NOT granted;
    IF FOUND THEN RETURN; END IF;
    PERFORM pg_sleep(0.01);
  END LOOP;
  RAISE 'the dump did not wait for the table';
END $$;
COMMIT;
""",
        name,
    )
    locked = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode ~ 'AccessExcl'"
    await_that(lambda: postgres.sql(locked, name) == "1", "the TRUNCATE has its lock")
    made = Made(postgres, name, sets, globals=False)
    assert racer.communicate(timeout=120) == ("", "")
    assert made.manifest.evidence.counts() == {"public.t": 7}
    assert "COPY public.t (x) FROM stdin;\n1\n2\n3\n4\n5\n6\n7\n\\.\n" in postgres.pg_restore(
        made.path, "-f", "-"
    )


def test_a_dump_without_evidence_knows_all_the_same_that_there_is_no_row(
    postgres: Postgres, sets: Path
) -> None:
    database = postgres.create(content="CREATE TABLE a (n int); CREATE TABLE b (n int)")
    report = postgres.backup(sets, database, evidence="none")
    assert report.details["total_rows"] == 0
    assert "no evidence taken and no row found" in report.msg
    postgres.sql("INSERT INTO b VALUES (1)", database)
    report = postgres.backup(sets, database, evidence="none")
    assert report.details["total_rows"] is None
    assert "no row" not in report.msg
