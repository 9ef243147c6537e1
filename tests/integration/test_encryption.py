# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted sets on a real server: made without plaintext on the disk, restored, drilled and verified with the key."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from keys import MAKERS, KeyPair, age_key, gpg_key, shows
from servers import (
    Postgres,
    bulk,
    docker,
    engine_process,
    own_and_dead_directories,
    own_containers,
    remove,
    start_postgres,
)

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    drill as drill_module,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.drill import (
    DrillRequest,
    drill,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import (
    BackupRequest,
    backup,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    ConfigError,
    HostError,
    LockedError,
    SetError,
    TargetError,
    ToolError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.keyproofs import (
    check_key,
    key_problems,
    last_proof,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.keyring import (
    Identity,
    open_key,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.listing import list_sets
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import FileEntry
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Assertion,
    Encryption,
    Report,
    SqlScript,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    RecoverySet,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.restore import (
    RestoreRequest,
    restore,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import (
    RUNTIME_DIRECTORY,
    Run,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.sealed import decrypting
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.verify import (
    VerifyRequest,
    verify,
)

pytestmark = pytest.mark.integration

#: How sets are encrypted; what one of them shows is enough where time matters.
KINDS = ["age", *(pytest.param(kind, marks=pytest.mark.slow) for kind in MAKERS if kind != "age")]

#: Words of the content that nothing may show.
MARKER = "Mrs-Hidden-of-Secret-Lane"
TABLE = "clandestine_patients"
ROLE = "clandestine_clerk"
CONTENT = f"""
CREATE TABLE {TABLE} (id serial PRIMARY KEY, name text);
INSERT INTO {TABLE} (name) SELECT '{MARKER} ' || g FROM generate_series(1, 300) g;
SELECT lo_from_bytea(0, '{MARKER}');
ALTER TABLE {TABLE} OWNER TO {ROLE};
"""
ROWS = f"SELECT count(*), md5(string_agg(name, '|' ORDER BY id)) FROM {TABLE}"


@pytest.fixture(scope="module")
def server(image: str) -> Iterator[Postgres]:
    server = start_postgres(image)
    server.sql(f"CREATE ROLE {ROLE}")
    yield server
    remove(server.name)


@pytest.fixture
def database(server: Postgres) -> str:
    return server.create(content=CONTENT)


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return age_key()


def hidden_everywhere(sets: Path) -> None:
    # What other tests have there at the moment may hold passwords of roles.
    places = (sets, *own_and_dead_directories(), Path("/dev/shm"))
    for word in (MARKER, TABLE, ROLE, "SCRAM-SHA-256"):
        assert shows(word, *places) == []


def request(server: Postgres, database: str, sets: Path, **more: object) -> VerifyRequest:
    return VerifyRequest(server.target(database), sets, **more)  # type: ignore[arg-type]


# -- round trips -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_encrypted_set_shows_nothing_and_comes_back_equal_with_the_key(
    server: Postgres, database: str, sets: Path, kind: str
) -> None:
    pair, other = MAKERS[kind](), MAKERS[kind]()
    before = server.sql(ROWS, database)
    encryption = Encryption(pair.method, (pair.public, other.public))
    made = server.backup(sets, database, encryption=encryption)
    hidden_everywhere(sets)
    ends = sorted(path.name[len(made.set_name) :] for path in sets.glob(f"{made.set_name}*"))
    end = f".{pair.method}"
    assert ends == sorted([f".dump{end}", f".globals.sql{end}", ".json", f".sealed.json{end}"])
    server.sql(f"DELETE FROM {TABLE} WHERE id > 5", database)
    report = server.restore(sets, database, identity=other.private)
    assert report.changed
    assert "1 tables equal to the manifest" in report.msg
    assert server.sql(ROWS, database) == before
    verified = verify(request(server, database, sets, identity=pair.private))
    assert verified.verdict == "intact"
    again = server.restore(sets, database)
    assert not again.changed
    assert "without its private key" in again.msg
    hidden_everywhere(sets)


@pytest.mark.newest_only
@pytest.mark.slow
def test_a_password_of_the_server_and_a_private_key_go_together(image: str, sets: Path) -> None:
    server = start_postgres(image, "-e", "POSTGRES_INITDB_ARGS=--auth-local=scram-sha-256")
    try:
        pair = gpg_key()
        target = server.target("shop", login_password="not-a-secret")
        words = ["-U", "postgres", "-c", "CREATE DATABASE shop"]
        docker("exec", "-e", "PGPASSWORD=not-a-secret", server.name, "psql", *words)
        made = backup(BackupRequest(target, sets, encryption=pair.encryption))
        report = restore(RestoreRequest(target, sets, identity=pair.private))
        assert report.set_name == made.set_name
        assert shows("not-a-secret", sets, RUNTIME_DIRECTORY) == []
    finally:
        remove(server.name)


# -- without the key, or with another ----------------------------------------------------------------


@pytest.mark.newest_only
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_key_is_one_sentence_and_nothing_was_touched(
    server: Postgres, database: str, sets: Path, kind: str
) -> None:
    pair, stranger = MAKERS[kind](), MAKERS[kind]()
    server.backup(sets, database, encryption=pair.encryption)
    server.sql(f"DELETE FROM {TABLE} WHERE id > 5", database)
    before, files = server.sql(ROWS, database), sorted(sets.iterdir())
    for identity, words in ((stranger.private, "does not open"), ("", "no private key was given")):
        with pytest.raises(LockedError, match=words) as refusal:
            server.restore(sets, database, identity=identity)
        assert "Nothing was changed" in str(refusal.value)
        assert stranger.secret not in str(refusal.value)
    assert server.sql(ROWS, database) == before
    assert sorted(sets.iterdir()) == files
    with pytest.raises(LockedError, match="does not open"):
        verify(request(server, database, sets, identity=stranger.private))


@pytest.mark.newest_only
def test_a_file_of_the_key_that_is_missing_is_told_where_a_key_is_needed(
    server: Postgres, database: str, sets: Path, tmp_path: Path, pair: KeyPair
) -> None:
    lost = {"identity_file": tmp_path / "lost.key"}
    words = r"lost\.key cannot be read: No such file"
    before = server.sql(ROWS, database)
    server.backup(sets, database)
    server.sql(f"DELETE FROM {TABLE} WHERE id > 5", database)
    assert server.restore(sets, database, **lost).changed
    assert server.sql(ROWS, database) == before
    assert verify(request(server, database, sets, **lost)).verdict == "intact"
    assert drill(DrillRequest(server.target(database), sets, **lost)).verdict == "pass"
    server.backup(sets, database, encryption=pair.encryption)
    with pytest.raises(LockedError, match=words) as refusal:
        server.restore(sets, database, **lost)
    assert "Nothing was changed" in str(refusal.value)
    looked = verify(request(server, database, sets, **lost))
    assert looked.verdict == "partial"
    assert re.search(words, looked.msg)
    drilled = drill(DrillRequest(server.target(database), sets, **lost))
    assert drilled.verdict == "not_tested"
    assert re.search(words, drilled.msg)
    with pytest.raises(ConfigError, match=words):
        check_key(request(server, database, sets, **lost))


@pytest.mark.slow
def test_what_cannot_be_opened_is_not_tested_and_says_what_was_checked(
    server: Postgres, database: str, sets: Path, pair: KeyPair
) -> None:
    server.backup(sets, database, encryption=pair.encryption)
    report = drill(DrillRequest(server.target(database), sets))
    assert report.verdict == "not_tested"
    assert "no private key was given" in report.msg
    looked = verify(request(server, database, sets))
    assert looked.verdict == "partial"
    assert "was not checked" in looked.msg
    (dump,) = sets.glob("*.dump.age")
    content = bytearray(dump.read_bytes())
    content[-100] ^= 1
    dump.write_bytes(content)
    assert drill(DrillRequest(server.target(database), sets)).verdict == "backup_bad"
    assert verify(request(server, database, sets)).verdict == "backup_bad"


@pytest.mark.newest_only
@pytest.mark.slow
def test_a_drill_with_the_key_passes_and_its_records_hide_what_the_set_hides(
    server: Postgres, database: str, sets: Path, tmp_path: Path
) -> None:
    pair = gpg_key()
    server.backup(sets, database, encryption=pair.encryption)
    drill(DrillRequest(server.target(database), sets))
    assert last_proof(sets, database) is None
    report = drill(
        DrillRequest(
            server.target(database),
            sets,
            identity=pair.private,
            record_file=tmp_path / "DRILLS.md",
        )
    )
    assert key_problems(sets, database, list_sets(sets, database)[0], utc_now()) == []
    assert report.verdict == "pass", report.msg
    assert report.details["rows"] == {f"public.{TABLE}": 300}
    assert '"pass"' in (sets / "drills.jsonl").read_text()
    hidden_everywhere(sets)
    assert shows(TABLE, tmp_path) == []


#: Its constraint finds no table while it is loaded: whoever wrote it relied on search_path.
FUSSY = f"""
CREATE FUNCTION fussy(int) RETURNS bool LANGUAGE plpgsql
  AS 'BEGIN RETURN $1 <= (SELECT count(*) FROM {TABLE}) + 1; END';
ALTER TABLE {TABLE} ADD CHECK (fussy(id));
"""


#: It finds the disk full, in the throwaway server only.
FULL = f"""
CREATE FUNCTION is_full(int) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
  IF pg_catalog.current_setting('fsync') = 'off' THEN
    RAISE 'could not extend file' USING ERRCODE = '53100';
  END IF;
  RETURN true;
END $$;
ALTER TABLE {TABLE} ADD CHECK (is_full(id));
"""


@pytest.mark.parametrize(
    ("content", "verdict", "told"),
    [
        (FUSSY, "backup_bad", "does not give back what was dumped"),
        (FULL, "environment", "this host could not restore it"),
    ],
    ids=["data", "disk"],
)
def test_a_drill_that_fails_names_no_table_to_others_and_tells_who_holds_the_key(
    server: Postgres,
    database: str,
    sets: Path,
    tmp_path: Path,
    pair: KeyPair,
    content: str,
    verdict: str,
    told: str,
) -> None:
    server.sql(content, database)
    server.backup(sets, database, encryption=pair.encryption)
    record = tmp_path / "DRILLS.md"
    report = drill(
        DrillRequest(server.target(database), sets, identity=pair.private, record_file=record)
    )
    assert report.verdict == verdict
    assert TABLE in report.msg
    assert TABLE not in str(report.public)
    assert told in report.public.msg
    assert told in record.read_text()
    hidden_everywhere(sets)
    assert shows(TABLE, tmp_path) == []


# -- damage ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_parts_of_two_sets_do_not_make_one(
    server: Postgres, database: str, sets: Path, pair: KeyPair
) -> None:
    first = server.backup(sets, database, encryption=pair.encryption, globals=False)
    second = server.backup(sets, database, encryption=pair.encryption, globals=False)
    older, newer = (sets / f"{one.set_name}.sealed.json.age" for one in (first, second))
    manifest = Vault(sets).resolve(second.set_name, database).require_manifest()
    assert manifest.sealed
    content = older.read_bytes()
    sealed = FileEntry(newer.name, len(content), hashlib.sha256(content).hexdigest())
    newer.write_bytes(content)
    (sets / f"{second.set_name}.json").write_text(replace(manifest, sealed=sealed).to_json())
    with pytest.raises(SetError, match="do not belong together"):
        server.restore(sets, database, source=second.set_name, identity=pair.private)


# -- interruptions -----------------------------------------------------------------------------------


def children(name: str, parent: int) -> list[int]:
    """Processes of a name that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            words = stat.rpartition(")")[2].split()
            if f"({name})" in stat and int(words[1]) == parent and words[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_age_killed_in_the_middle_of_a_dump_leaves_no_set(
    server: Postgres, database: str, sets: Path, pair: KeyPair
) -> None:
    server.sql(bulk(20), database)
    killed: list[int] = []

    def progress(phase: str, done: int, unused_total: int) -> None:
        if phase == "dump" and done and not killed:
            killed.extend(children("age", os.getpid()))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(ToolError, match="age was killed by SIGKILL"):
        server.backup(sets, database, progress, encryption=pair.encryption, compress="none")
    assert killed
    assert list(sets.iterdir()) == []
    assert own_containers() == []


@pytest.mark.slow
def test_a_backup_to_a_key_that_has_expired_is_a_failed_one_for_the_retention(
    server: Postgres, database: str, sets: Path, pair: KeyPair
) -> None:
    server.backup(sets, database, encryption=pair.encryption)
    with pytest.raises(ConfigError, match="has expired"):
        server.backup(sets, database, encryption=gpg_key(expired=True).encryption)
    failed = Attempts(sets, database).latest("dump")
    assert failed
    assert failed.failed
    assert "has expired" in failed.msg


@pytest.mark.slow
def test_a_killed_decryption_does_not_blame_the_file(tmp_path: Path, pair: KeyPair) -> None:
    path = tmp_path / "x.dump.age"
    command = ("age", "--encrypt", "--recipient", pair.public, "--output", str(path))
    # More than a pipe holds, so that it cannot have ended before.
    subprocess.run(command, input=bytes(1 << 20), check=True)

    def decrypt_and_kill() -> None:
        with (
            Run("drill") as run,
            open_key(run, Identity(pair.private)) as key,
            decrypting(path, key, None) as stream,
        ):
            assert stream.read()
            (pid,) = children("age", os.getpid())
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(HostError, match="age was killed by SIGKILL"):
        decrypt_and_kill()


_KILLED = """
import os, signal
from pathlib import Path
from _engine.dump import BackupRequest, backup
from _engine.restore import RestoreRequest, restore
from _engine.model import Encryption, Target

def progress(phase, done, total):
    if phase == {phase!r} and (done or phase == "load"):
        {wait}
        os.kill(os.getpid(), signal.SIGKILL)

target = Target(database={database!r}, container={container!r})
{call}
"""
_BACKUP = "backup(BackupRequest(target, Path({sets!r}), encryption=Encryption('age', ({public!r},)), compress='none'), progress)"
_RESTORE = "restore(RestoreRequest(target, Path({sets!r}), identity={private!r}), progress)"


@pytest.mark.newest_only
@pytest.mark.parametrize("what", ["dump", pytest.param("load", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("clean_up_after")
def test_a_kill_leaves_no_plaintext_anywhere(
    server: Postgres, database: str, sets: Path, pair: KeyPair, what: str
) -> None:
    server.sql(bulk(5), database)
    if what == "load":
        server.backup(sets, database, encryption=pair.encryption)
    # While it is loaded the kill must come when something has been decrypted.
    wait = (
        "pass"
        if what == "dump"
        else "import threading; threading.Timer(0.5, lambda: os.kill(os.getpid(), 9)).start(); return"
    )
    values = {"sets": str(sets), "public": pair.public, "private": pair.private}
    process = engine_process(
        _KILLED.format(
            phase=what,
            wait=wait,
            database=database,
            container=server.name,
            call=(_BACKUP if what == "dump" else _RESTORE).format(**values),
        )
    )
    unused_out, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors
    hidden_everywhere(sets)
    assert shows(pair.secret, sets, RUNTIME_DIRECTORY, Path("/dev/shm")) == []
    assert len(list_sets(sets) if sets.exists() else []) == (what == "load")


@pytest.mark.newest_only
@pytest.mark.parametrize("kind", ["age", pytest.param("gpg", marks=pytest.mark.slow)])
def test_the_private_key_is_in_no_list_of_processes_and_in_no_report(
    server: Postgres, database: str, sets: Path, kind: str
) -> None:
    pair = MAKERS[kind]()
    server.sql(bulk(5), database)
    server.backup(sets, database, encryption=pair.encryption)
    seen: set[bytes] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                for path in (entry, entry.with_name("environ")):
                    with contextlib.suppress(OSError):
                        seen.add(path.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = server.restore(sets, database, identity=pair.private)
    finally:
        ended.set()
        watcher.join()
    assert any(b"--decrypt" in one for one in seen)
    secret = pair.secret.encode()
    assert [one for one in seen if secret in one] == []
    assert pair.secret not in json.dumps(report.as_dict())
    assert pair.secret not in repr(request(server, database, sets, identity=pair.private))


# -- the safety dump ---------------------------------------------------------------------------------


@pytest.mark.newest_only
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["age", "gpg"])
def test_a_replace_goes_back_by_a_safety_dump_that_only_its_recipients_can_open_later(
    server: Postgres, database: str, sets: Path, kind: str
) -> None:
    pair, keeper = MAKERS[kind](), MAKERS[kind]()
    server.backup(sets, database, encryption=pair.encryption)
    server.sql(f"DELETE FROM {TABLE} WHERE id > 5", database)
    before = server.sql(ROWS, database)
    with pytest.raises(ToolError, match="was put back from the set"):
        server.restore(
            sets,
            database,
            method="replace",
            identity=pair.private,
            encryption=keeper.encryption,
            post_sql=(SqlScript(sql="SELECT 1 / 0"),),
        )
    assert server.sql(ROWS, database) == before
    hidden_everywhere(sets)
    safety = next(
        one.recovery_set for one in list_sets(sets) if one.recovery_set.manifest.purpose == "safety"
    )  # type: ignore[union-attr]
    assert safety.locked
    with pytest.raises(LockedError):
        verify(request(server, database, sets, source=safety.name, identity=pair.private))
    kept = verify(request(server, database, sets, source=safety.name, identity=keeper.private))
    assert kept.verdict == "intact"


@pytest.mark.newest_only
def test_a_run_without_public_keys_lays_no_plaintext_among_encrypted_sets_unsaid(
    server: Postgres, database: str, sets: Path, pair: KeyPair
) -> None:
    made = server.backup(sets, database, encryption=pair.encryption)
    files = sorted(sets.iterdir())
    for method, keep in (("replace", True), ("swap", False)):
        options = {"method": method, "keep_previous": keep, "identity": pair.private}
        for check in (True, False):
            with pytest.raises(ConfigError, match="no public key was given for the safety dump"):
                server.restore(sets, database, check=check, **options)
        server.restore(sets, database, check=True, safety_dump=False, **options)
    # Not even the journal: nothing was begun.
    assert sorted(sets.iterdir()) == files
    words = f"NOT encrypted, {made.set_name} before it is"
    for check in (True, False):
        assert any(words in said for said in server.backup(sets, database, check=check).warnings)
    assert not any(words in said for said in server.backup(sets, database).warnings)


@pytest.mark.newest_only
def test_a_public_key_that_cannot_be_used_is_found_before_a_replace_begins(
    server: Postgres, database: str, sets: Path
) -> None:
    server.backup(sets, database)
    files = sorted(sets.iterdir())
    for check in (True, False):
        with pytest.raises(ConfigError, match="malformed recipient") as refusal:
            server.restore(
                sets,
                database,
                method="replace",
                encryption=Encryption("age", ("age1notakey",)),
                check=check,
            )
        assert "Nothing was changed" in str(refusal.value)
    assert sorted(sets.iterdir()) == files


# -- what others hear --------------------------------------------------------------------------------


@pytest.mark.newest_only
def test_a_backup_that_fails_names_no_table_to_others(
    server: Postgres, database: str, sets: Path, pair: KeyPair
) -> None:
    server.sql("CREATE ROLE stranger LOGIN")
    server.backup(sets, database, encryption=pair.encryption)
    target = server.target(database, user="stranger")
    with pytest.raises(TargetError, match=TABLE) as failed:
        backup(BackupRequest(target, sets, globals=False, encryption=pair.encryption))
    noted = Attempts(sets, database).latest("dump")
    assert noted
    assert (
        noted.msg
        == failed.value.told
        == ("It failed; what it said is told to whoever made the backup")
    )
    hidden_everywhere(sets)


@pytest.mark.newest_only
def test_a_drill_of_the_live_database_writes_nothing_of_it_beside_encrypted_sets(
    server: Postgres, database: str, sets: Path, tmp_path: Path, pair: KeyPair
) -> None:
    server.backup(sets, database, encryption=pair.encryption)
    report = drill(
        DrillRequest(
            server.target(database),
            sets,
            live=True,
            assertions=(Assertion(f"SELECT count(*) = 1 FROM {TABLE}"),),
            record_file=tmp_path / "DRILLS.md",
        )
    )
    assert report.verdict == "backup_bad"
    assert TABLE in report.msg
    assert "number 1" in (sets / "drills.jsonl").read_text()
    hidden_everywhere(sets)
    assert shows(TABLE, tmp_path) == []


@pytest.mark.newest_only
def test_a_drill_reads_the_roles_too_before_it_proves_a_key(
    server: Postgres, database: str, sets: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.backup(sets, database, encryption=pair.encryption)

    def damaged(unused_set: RecoverySet) -> None:
        raise SetError("The roles are damaged")

    monkeypatch.setattr(drill_module, "check_globals", damaged)
    report = drill(DrillRequest(server.target(database), sets, identity=pair.private))
    assert report.verdict == "backup_bad"
    assert last_proof(sets, database) is None


# -- proofs of keys ----------------------------------------------------------------------------------


@pytest.mark.newest_only
@pytest.mark.slow
def test_a_key_is_proved_by_opening_the_newest_set_and_the_proof_grows_old(
    server: Postgres, database: str, sets: Path
) -> None:
    pair, other, stranger = age_key(), age_key(), age_key()

    def prove(identity: str) -> Report:
        return check_key(request(server, database, sets, identity=identity))

    def problems(days: float = 0) -> list[str]:
        newest = next(iter(list_sets(sets, database)), None)
        found = key_problems(sets, database, newest, utc_now() + timedelta(days=days))
        return [problem.words for problem in found]

    server.backup(sets, database)
    assert problems() == []
    with pytest.raises(SetError, match="is not encrypted"):
        prove(pair.private)
    server.backup(sets, database, encryption=pair.encryption)
    assert "nobody has proved" in problems()[0]
    with pytest.raises(LockedError):
        prove(stranger.private)
    assert last_proof(sets, database) is None
    foretold = check_key(request(server, database, sets, identity=pair.private), note=False)
    assert (foretold.verdict, foretold.changed) == ("intact", True)
    assert last_proof(sets, database) is None
    report = prove(pair.private)
    assert (report.verdict, report.changed) == ("intact", True)
    proof = last_proof(sets, database)
    assert proof
    assert proof.keys == (pair.public,)
    (noted,) = sets.glob("*.keyproof")
    assert noted.stat().st_mode & 0o777 == 0o600
    assert pair.secret not in noted.read_text()
    assert problems(89) == []
    assert "since" in problems(91)[0]
    assert "the clock was wrong" in problems(-1)[0]
    server.backup(sets, database, encryption=other.encryption)
    assert "present recipients" in problems()[0]
    noted.write_text("{")
    assert "nobody has proved" in problems()[0]
