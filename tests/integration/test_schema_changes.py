# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup while somebody changes the schema: neither waits for the other for ever, and the set is of one moment."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import Postgres, await_that, docker, own_containers

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    dump as dump_room,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    evidence as evidence_room,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    programs as programs_room,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    InterruptedRun,
    OvertakenError,
    TargetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Report,
    TableEvidence,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    load_set,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Progress
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.server import Session

pytestmark = [pytest.mark.integration, pytest.mark.slow]

_TABLES = """
CREATE SEQUENCE loose START 40;
CREATE TABLE a (x int); INSERT INTO a SELECT generate_series(1, 10);
CREATE TABLE z (x int); INSERT INTO z SELECT generate_series(1, 20);
"""
_CHANGE = "ALTER TABLE z ADD COLUMN y int DEFAULT 7"
#: A backup that waits for ever ends here, long after any that does not.
_FOR_EVER_S = 300


@pytest.fixture
def database(postgres: Postgres) -> str:
    return postgres.create(content=_TABLES)


def start_change(server: Postgres, database: str) -> subprocess.Popen[str]:
    """The change of the schema in a session of its own, waiting for the table already."""
    process = server.sql_beside(_CHANGE, database)
    # Asked from another database: no lock in this one is in the way.
    waiting = f"""SELECT count(*) FROM pg_stat_activity
                   WHERE datname = '{database}' AND query ~ '^ALTER' AND wait_event_type = 'Lock'"""
    await_that(lambda: server.sql(waiting) == "1", "the change waits for its lock")
    return process


def at_the_dump(action: Callable[[], None], *, bytes_seen: bool = False) -> Progress:
    """A watcher that acts once: before pg_dump is started, or when its first bytes are here."""
    over = threading.Event()

    def progress(phase: str, done: int, unused_total: int) -> None:
        if phase == "dump" and bool(done) == bytes_seen and not over.is_set():
            over.set()
            action()

    return progress


def rows(report: Report) -> dict[str, int]:
    return load_set(Path(report.details["path"])).require_manifest().evidence.counts()


def test_a_change_that_waits_for_the_dump_does_not_stop_the_evidence(
    postgres: Postgres, database: str, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[subprocess.Popen[str]] = []
    waits = threading.Event()
    read_table = evidence_room.read_table

    def read_late(session: Session, table: TableEvidence, level: str) -> TableEvidence:
        assert table.name != "z" or waits.wait(_FOR_EVER_S)
        return read_table(session, table, level)

    def change() -> None:
        changes.append(start_change(postgres, database))
        waits.set()

    monkeypatch.setattr(evidence_room, "read_table", read_late)
    progress = at_the_dump(change, bytes_seen=True)
    report = postgres.backup(sets, database, progress, globals=False, timeout_s=_FOR_EVER_S)
    assert rows(report) == {"public.a": 10, "public.z": 20}
    assert changes[0].communicate(timeout=120) == ("", "")
    assert "CREATE TABLE public.z (\n    x integer\n);" in postgres.pg_restore(
        Path(report.details["path"]), "-f", "-"
    )


def test_a_signal_ends_a_backup_whose_evidence_takes_long_and_its_sessions(
    postgres: Postgres, database: str, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, was_read = threading.Event(), threading.Event()

    def read_for_ever(session: Session, table: TableEvidence, unused_level: str) -> TableEvidence:
        reading.set()
        session.execute(f"SELECT pg_sleep({_FOR_EVER_S})")
        was_read.set()
        return table

    def progress(phase: str, unused_done: int, unused_total: int) -> None:
        if phase == "evidence":
            assert reading.wait(_FOR_EVER_S)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(evidence_room, "read_table", read_for_ever)
    with pytest.raises(InterruptedRun, match="SIGTERM"):
        postgres.backup(sets, database, progress, globals=False)
    assert not was_read.is_set()
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
    await_that(lambda: postgres.sql(sessions) == "0", "no session of ours is left")
    assert list(sets.iterdir()) == []
    assert not own_containers()


def test_a_change_that_comes_before_the_locks_of_pg_dump_goes_first_and_is_in_the_set(
    postgres: Postgres, database: str, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs_room, "_LOCK_WAIT", "2s")
    changes: list[subprocess.Popen[str]] = []
    progress = at_the_dump(lambda: changes.append(start_change(postgres, database)))
    report = postgres.backup(sets, database, progress, globals=False, timeout_s=_FOR_EVER_S)
    assert changes[0].communicate(timeout=120) == ("", "")
    assert rows(report) == {"public.a": 10, "public.z": 20}
    path = Path(report.details["path"])
    assert "y integer DEFAULT 7" in postgres.pg_restore(path, "-f", "-")
    assert load_set(path).require_manifest().dump.bytes == path.stat().st_size
    assert not own_containers()


def test_changes_without_end_are_a_refusal_in_words_that_leaves_no_file_and_no_lock(
    postgres: Postgres, database: str, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs_room, "_LOCK_WAIT", "2s")
    monkeypatch.setattr(dump_room, "_ATTEMPTS", 1)
    changes: list[subprocess.Popen[str]] = []
    progress = at_the_dump(lambda: changes.append(start_change(postgres, database)))
    with pytest.raises(TargetError) as caught:
        postgres.backup(sets, database, progress, globals=False, timeout_s=_FOR_EVER_S)
    text = str(caught.value)
    assert f'"{database}"' in text
    assert "No file was written" in text
    assert "migrations" in text
    assert changes[0].communicate(timeout=120) == ("", "")
    assert list(sets.iterdir()) == []
    assert not own_containers()


def test_a_change_that_comes_before_the_locks_of_the_evidence_is_noticed_at_once(
    postgres: Postgres, database: str, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[subprocess.Popen[str]] = []
    sequence_values = evidence_room.sequence_values
    overtaken: list[OvertakenError] = []
    begin = evidence_room.Collector.__enter__

    def read_sequences(session: Session) -> dict[tuple[str, str], int]:
        found = sequence_values(session)
        if not changes:
            changes.append(start_change(postgres, database))
        return found

    def begin_noted(collector: evidence_room.Collector) -> evidence_room.Collector:
        try:
            return begin(collector)
        except OvertakenError as error:
            overtaken.append(error)
            raise

    # Called between the lock of the snapshot and those of the evidence.
    monkeypatch.setattr(dump_room, "sequence_values", read_sequences)
    monkeypatch.setattr(evidence_room.Collector, "__enter__", begin_noted)
    report = postgres.backup(sets, database, globals=False, timeout_s=_FOR_EVER_S)
    assert changes[0].communicate(timeout=120) == ("", "")
    assert len(overtaken) == 1
    assert "y integer DEFAULT 7" in postgres.pg_restore(Path(report.details["path"]), "-f", "-")


@pytest.mark.parametrize(
    "change", ["ALTER SEQUENCE loose OWNER TO CURRENT_USER", "VACUUM FULL pg_class"]
)
def test_what_is_only_glanced_at_is_not_locked_for_the_time_of_the_dump(
    postgres: Postgres, database: str, sets: Path, change: str
) -> None:
    def act() -> None:
        # It ends while our snapshot is there, or it fails.
        docker(
            *("exec", "-e", "PGOPTIONS=-c lock_timeout=60s", postgres.name),
            *("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database),
            *("-c", change),
        )

    report = postgres.backup(sets, database, at_the_dump(act), globals=False, timeout_s=_FOR_EVER_S)
    assert rows(report) == {"public.a": 10, "public.z": 20}
    manifest = load_set(Path(report.details["path"])).require_manifest()
    assert {s.label: (s.first, s.last) for s in manifest.evidence.sequences} == {
        "public.loose": (40, 40)
    }
