# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command on the host against real servers: every command, as a process, by its launcher."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from servers import ROOT, Postgres, docker, own_containers, remove

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.access import open_access
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.hashing import sha256_of
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import (
    FileEntry,
    Manifest,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    TableEvidence,
    iso,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run

pytestmark = pytest.mark.integration

LAUNCHER = str(ROOT / "firedrill")
SMALL = "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 3000) g;"


def firedrill(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """One call of the command; whatever happens, there is no traceback."""
    done = subprocess.run([LAUNCHER, *map(str, words)], check=False, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def documents(*words: str | Path, status: int = 0) -> Any:
    """The JSON of a call, which is all that it prints."""
    done = firedrill("--json", *words)
    assert (done.returncode, done.stderr) == (status, ""), done.stdout
    return json.loads(done.stdout)


def until(probe: Callable[[], bool], timeout_s: float = 180) -> None:
    limit = time.monotonic() + timeout_s
    while not probe():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def small(postgres: Postgres) -> str:
    """A database that these tests only read."""
    return postgres.create(content=SMALL)


@pytest.fixture(scope="module")
def pristine(postgres: Postgres, small: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one set of it, made by the command; tests work on copies."""
    sets = tmp_path_factory.mktemp("pristine") / "sets"
    documents("backup", "--container", postgres.name, "--database", small, "--backup-dir", sets)
    return sets


@pytest.fixture
def settings(tmp_path: Path, postgres: Postgres, sets: Path, small: str) -> Path:
    """A file of settings for that database."""
    return write_settings(tmp_path, sets, {small: {"container": postgres.name}})


def write_settings(tmp_path: Path, sets: Path, databases: dict[str, Any]) -> Path:
    path = tmp_path / "config.yml"
    # JSON is YAML.
    path.write_text(json.dumps({"backup_dir": str(sets), "databases": databases}))
    return path


@pytest.fixture
def made(pristine: Path, sets: Path) -> Path:
    """The dump file of a set in the backup directory of the settings."""
    shutil.copytree(pristine, sets)
    (dump,) = sets.glob("*.dump")
    return dump


def manifest_of(dump: Path) -> Manifest:
    beside = dump.with_suffix(".json")
    return Manifest.from_json(beside.read_text(), str(beside))


def rewrite(path: Path, /, **changes: Any) -> None:
    """Changes a manifest as somebody would who can compute its checksum."""
    path.with_suffix(".json").write_text(replace(manifest_of(path), **changes).to_json())


def resealed(dump: Path) -> FileEntry:
    return FileEntry(dump.name, dump.stat().st_size, sha256_of(dump))


def copy_of(dump: Path, days: float) -> Path:
    """Another set with the same content, so many days old."""
    moment = utc_now() - timedelta(days=days)
    manifest = manifest_of(dump)
    assert manifest.globals
    name = f"{manifest.name[:-16]}_{moment:%Y%m%d_%H%M%S}"
    for suffix in (".dump", ".globals.sql"):
        shutil.copy(dump.with_suffix(suffix), dump.with_name(name + suffix))
    manifest = replace(
        manifest,
        name=name,
        created_at=iso(moment),
        dump=replace(manifest.dump, name=f"{name}.dump"),
        globals=replace(manifest.globals, name=f"{name}.globals.sql"),
    )
    dump.with_name(f"{name}.json").write_text(manifest.to_json())
    return dump.with_name(f"{name}.dump")


# -- backup and list ---------------------------------------------------------------------------------


def test_a_backup_by_the_command_is_a_complete_set_and_is_listed(
    settings: Path, sets: Path, small: str
) -> None:
    done = firedrill("--config", settings, "backup")
    assert done.returncode == 0, done.stderr
    (dump,) = sets.glob("*.dump")
    assert str(dump) in done.stdout
    assert "backup: dump ..." in done.stderr
    (row,) = documents("--config", settings, "list")
    assert (row["name"], row["database"], row["problems"]) == (dump.stem, small, [])
    assert row["evidence"] == {"level": "full", "tables": 1, "rows": 3000}
    assert row["bytes"] == sum(path.stat().st_size for path in sets.glob(f"{dump.stem}.*"))
    assert (row["age_s"] < 600, row["last_drill"]) == (True, None)
    shown = firedrill("--config", settings, "list").stdout
    assert "full, 1 table, 3000 rows" in shown
    assert "never" in shown


def test_a_dry_run_of_a_backup_writes_nothing(settings: Path, sets: Path) -> None:
    document = documents("--config", settings, "backup", "--dry-run")
    assert document["msg"].startswith("Would dump ")
    assert not sets.exists()


@pytest.mark.slow
def test_all_databases_get_their_turn_and_the_worst_status_is_the_commands(
    tmp_path: Path, postgres: Postgres, sets: Path, small: str
) -> None:
    here = {"container": postgres.name}
    settings = write_settings(
        tmp_path, sets, {"absent db": here, small: {**here, "evidence": "none"}}
    )
    bad, good = documents("--config", settings, "backup", status=1)
    assert (bad["failed"], bad["error"]) == (True, "TargetError")
    assert 'There is no database "absent db"' in bad["msg"]
    assert (good["changed"], good["evidence_level"]) == (True, "none")
    assert len(list(sets.glob("*.dump"))) == 1


@pytest.mark.slow
def test_it_works_without_settings(postgres: Postgres, sets: Path, small: str) -> None:
    where = ("--container", postgres.name, f"--database={small}", "--backup-dir", sets)
    document = documents("backup", "--compress", "gzip:1", *where)
    assert (document["changed"], document["compress"]) == (True, "gzip:1")


def test_a_container_that_is_not_there_is_one_message(sets: Path) -> None:
    done = firedrill(
        *("--quiet", "backup", "--container", "fdt-absent", "--database", "x"),
        *("--backup-dir", sets),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('firedrill: There is no container "fdt-absent"')
    assert done.stderr.count("\n") == 1
    assert not sets.exists()


def test_a_database_that_another_run_works_on_is_busy(
    postgres: Postgres, settings: Path, sets: Path, small: str
) -> None:
    with Run("test") as run:
        access = open_access(run, postgres.target(small))
        with run.lock(*access.lock_identity):
            done = firedrill("--config", settings, "--quiet", "backup")
    assert done.returncode == 7
    assert "Another run is working on" in done.stderr
    assert not sets.exists()


@pytest.mark.slow
def test_a_backup_that_is_told_to_end_says_so_and_leaves_nothing(
    postgres: Postgres, tmp_path: Path, sets: Path
) -> None:
    small = postgres.create(content=SMALL)
    settings = write_settings(tmp_path, sets, {small: {"container": postgres.name}})
    holder = subprocess.Popen(
        ["docker", "exec", postgres.name, "psql", "-U", "postgres", "-d", small, "-c"]
        + ["BEGIN; LOCK TABLE t; SELECT pg_sleep(600)"],
        stdout=subprocess.DEVNULL,
    )
    try:
        locks = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND"
        locked, waiting = f"{locks} granted", f"{locks} NOT granted"
        until(lambda: postgres.sql(locked, small) == "1")
        backup = subprocess.Popen(
            [LAUNCHER, "--config", str(settings), "backup"], stderr=subprocess.PIPE, text=True
        )
        until(lambda: postgres.sql(waiting, small) != "0")
        backup.send_signal(signal.SIGTERM)
        said = backup.communicate(timeout=120)[1]
    finally:
        postgres.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{small}'"
        )
        holder.wait(timeout=120)
    assert backup.returncode == 8
    assert "was ended by the signal SIGTERM" in said
    assert "Traceback" not in said
    assert list(sets.glob("*")) == []
    assert own_containers(backup.pid) == []


# -- verify ------------------------------------------------------------------------------------------


def test_verify_reads_an_intact_set_and_changes_nothing(settings: Path, made: Path) -> None:
    before = {path: path.stat() for path in made.parent.iterdir()}
    document = documents("--config", settings, "verify")
    assert (document["verdict"], document["changed"]) == ("intact", False)
    assert document["set_name"] == made.stem
    assert {"sha256", "read"} <= document["phases"].keys()
    assert {path: path.stat().st_mtime_ns for path in made.parent.iterdir()} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }
    for source in (made, made.name, made.stem, made.stem[-15:], "latest"):
        assert firedrill("--config", settings, "verify", source).returncode == 0


def flip_a_bit(dump: Path) -> None:
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)


def cut(dump: Path) -> None:
    os.truncate(dump, dump.stat().st_size - 1)


def edit_the_manifest(dump: Path) -> None:
    beside = dump.with_suffix(".json")
    beside.write_text(beside.read_text().replace('"rows": 3000', '"rows": 2999'))


def edit_the_roles(dump: Path) -> None:
    with dump.with_suffix(".globals.sql").open("a") as file:
        file.write("ALTER ROLE postgres PASSWORD 'x';\n")


def seal_a_torn_archive(dump: Path) -> None:
    """Sizes and checksums right, and the archive broken: what a dump that failed unnoticed looks like."""
    os.truncate(dump, dump.stat().st_size * 9 // 10)
    rewrite(dump, dump=resealed(dump))


def seal_something_else(dump: Path) -> None:
    dump.write_text("-- PostgreSQL database dump\nCREATE TABLE t ();\n")
    rewrite(dump, dump=resealed(dump))


def name_a_table_that_is_not_in_it(dump: Path) -> None:
    evidence = manifest_of(dump).evidence
    lost = TableEvidence("public", "lost", 4_000_000, "table", 7)
    rewrite(dump, evidence=replace(evidence, tables=(*evidence.tables, lost)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_bit, "is damaged: its SHA-256 is not the one of its manifest"),
        (cut, "it was truncated or replaced"),
        (edit_the_manifest, "was edited or damaged: its checksum is wrong"),
        (edit_the_roles, "globals.sql has"),
        (seal_a_torn_archive, "The archive is damaged"),
        (seal_something_else, "The archive is damaged"),
        (name_a_table_that_is_not_in_it, "lacks what its manifest names: public.lost"),
    ],
)
def test_verify_finds_what_is_wrong_with_a_set(
    settings: Path, made: Path, damage: Any, said: str
) -> None:
    damage(made)
    document = documents("--config", settings, "verify", made, status=3)
    assert document["verdict"] == "backup_bad"
    assert said in document["msg"]
    assert str(made.parent) in document["msg"]


@pytest.mark.slow
def test_verify_of_a_dump_without_manifest_is_partial(settings: Path, made: Path) -> None:
    made.with_suffix(".json").unlink()
    document = documents("--config", settings, "verify", made, status=5)
    assert document["verdict"] == "partial"
    assert "it has no manifest beside it" in document["msg"]


def test_verify_of_a_set_that_is_not_there_is_no_verdict(settings: Path, made: Path) -> None:
    document = documents("--config", settings, "verify", "20200101_000000", status=1)
    assert document["error"] == "SetError"
    assert made.stem in document["msg"]


@pytest.mark.slow
def test_latest_says_which_newer_dumps_it_does_not_mean(settings: Path, made: Path) -> None:
    older = copy_of(made, 1)
    edit_the_manifest(made)
    document = documents("--config", settings, "verify")
    assert (document["verdict"], document["set_name"]) == ("intact", older.stem)
    assert any(
        made.name in warning and "edited or damaged" in warning for warning in document["warnings"]
    )


@pytest.mark.slow
def test_verify_all_goes_through_every_set(settings: Path, made: Path) -> None:
    second, third = copy_of(made, 1), copy_of(made, 2)
    flip_a_bit(made)
    second.with_suffix(".json").unlink()
    (made.parent / "lone.dump").write_bytes(b"")
    found = documents("--config", settings, "verify", "--all", status=3)
    assert {document["set_name"]: document["verdict"] for document in found} == {
        made.stem: "backup_bad",
        second.stem: "partial",
        third.stem: "intact",
        "lone": "backup_bad",
    }


@pytest.mark.slow
def test_verify_needs_no_running_server(own_postgres: Postgres, sets: Path) -> None:
    database = own_postgres.create(content=SMALL)
    where = ("--container", own_postgres.name, "--database", database, "--backup-dir", sets)
    made = Path(documents("backup", *where)["path"])
    docker("stop", "-t", "1", own_postgres.name)
    document = documents("verify", *where)
    assert document["verdict"] == "intact"
    assert any("is exited" in text for text in document["warnings"])
    remove(own_postgres.name)
    assert documents("verify", made, "--backup-dir", sets)["verdict"] == "intact"
    seal_a_torn_archive(made)
    document = documents("verify", *where, status=3)
    assert (document["verdict"], "The archive is damaged" in document["msg"]) == (
        "backup_bad",
        True,
    )


# -- prune -------------------------------------------------------------------------------------------


@pytest.fixture
def history(made: Path, sets: Path) -> dict[float, Path]:
    """Sets of five ages in days. A drill passed the one of 20 days, and one of 40 days before."""
    found = {days: copy_of(made, days) for days in (5, 10, 20, 30, 40)}
    for suffix in (".dump", ".globals.sql", ".json"):
        made.with_suffix(suffix).unlink()
    with (sets / "drills.jsonl").open("w") as log:
        for days in (40, 20):
            entry = {"action": "drill", "set_name": found[days].stem, "verdict": "pass"}
            log.write(
                json.dumps({**entry, "at": "2026-11-01T00:00:00Z", "target": "scratch"}) + "\n"
            )
    return found


def test_a_dry_run_of_prune_says_which_and_why_and_removes_nothing(
    settings: Path, sets: Path, history: dict[float, Path]
) -> None:
    before = sorted(sets.iterdir())
    document = documents("--config", settings, "prune", "--days", "9.5", "--dry-run")
    assert document["changed"] is True
    reasons = {entry["name"]: entry["reason"] for entry in document["kept"]}
    assert reasons == {
        history[5].stem: "it is the newest complete set",
        history[20].stem: "it is the newest set that passed a drill",
    }
    removed = {entry["name"]: entry["reason"] for entry in document["removed"]}
    assert removed.keys() == {history[days].stem for days in (10, 30, 40)}
    assert "older than 9.5 days" in removed[history[30].stem]
    assert sorted(sets.iterdir()) == before
    shown = firedrill("--config", settings, "prune", "--days", "9.5", "--dry-run").stdout
    assert "Would remove 3 sets" in shown
    assert f"remove {history[30].stem}" in shown
    assert f"keep {history[20].stem}" in shown


def test_prune_removes_whole_sets_and_nothing_else(
    settings: Path, sets: Path, history: dict[float, Path]
) -> None:
    history[30].with_suffix(".json").unlink()
    cut(history[10])
    (sets / "notes.txt").write_text("mine")
    document = documents("--config", settings, "prune", "--days", "9.5")
    assert [entry["name"] for entry in document["removed"]] == [history[40].stem]
    assert {entry["name"] for entry in document["skipped"]} == {history[d].stem for d in (10, 30)}
    assert not list(sets.glob(f"{history[40].stem}.*"))
    for days in (5, 20):
        assert len(list(sets.glob(f"{history[days].stem}.*"))) == 3
    assert (sets / "notes.txt").exists()
    assert history[30].exists()
    assert documents("--config", settings, "prune", "--days", "9.5")["changed"] is False


def test_a_newest_set_that_is_damaged_does_not_cost_the_one_before(
    settings: Path, history: dict[float, Path]
) -> None:
    cut(history[5])
    document = documents("--config", settings, "prune", "--dry-run")
    reasons = {entry["name"]: entry["reason"] for entry in document["kept"]}
    assert reasons[history[10].stem] == "it is the newest complete set"


# -- restore, rollback, drill ------------------------------------------------------------------------


def test_the_night_of_an_accident_by_the_command_alone(
    postgres: Postgres, tmp_path: Path, sets: Path
) -> None:
    small = postgres.create(content=SMALL)
    settings = write_settings(tmp_path, sets, {small: {"container": postgres.name}})
    assert firedrill("--config", settings, "backup").returncode == 0
    postgres.sql("DELETE FROM t", small)
    dry = documents("--config", settings, "restore", "latest", "--dry-run")
    assert (dry["changed"], postgres.sql("SELECT count(*) FROM t", small)) == (True, "0")
    done = firedrill("--config", settings, "restore", "latest")
    assert done.returncode == 0, done.stderr
    assert postgres.sql("SELECT count(*) FROM t", small) == "3000"
    assert documents("--config", settings, "restore", "latest")["changed"] is False
    assert documents("--config", settings, "rollback", "--dry-run")["changed"] is True
    assert postgres.sql("SELECT count(*) FROM t", small) == "3000"
    assert documents("--config", settings, "rollback")["changed"] is True
    assert postgres.sql("SELECT count(*) FROM t", small) == "0"


def test_a_drill_by_the_command_passes_and_the_list_knows_it(
    tmp_path: Path, postgres: Postgres, small: str, sets: Path, made: Path
) -> None:
    # No application is there to be asked, and no body that it could be sent.
    login = {"name": "login", "service": "web", "port": 80, "body_file": "/nowhere/body"}
    database = {"container": postgres.name, "http_checks": [login]}
    settings = write_settings(tmp_path, sets, {small: database})
    done = firedrill("--config", settings, "drill")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pass: ")
    assert "skipped  http login: the throwaway server has no network" in done.stdout
    (row,) = documents("--config", settings, "list")
    assert row["last_drill"]["verdict"] == "pass"
    assert "pass, " in firedrill("--config", settings, "list").stdout
    kept = documents("--config", settings, "prune")["kept"]
    assert [entry["name"] for entry in kept] == [made.stem]


def test_a_drill_of_a_bad_set_is_status_3(settings: Path, made: Path) -> None:
    flip_a_bit(made)
    document = documents("--config", settings, "drill", status=3)
    assert document["verdict"] == "backup_bad"
