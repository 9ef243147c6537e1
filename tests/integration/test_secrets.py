# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server whose socket wants a password: it is used, and shown to nobody."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import RICH, Postgres, await_that, docker, own_containers, remove, start_postgres

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import (
    BackupRequest,
    backup,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import TargetError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import (
    RUNTIME_DIRECTORY,
)

pytestmark = [pytest.mark.integration, pytest.mark.newest_only]

#: Every character that means something to a shell, a connection string or a .pgpass file.
PASSWORD = r"""p' w"$(touch x)`id`;&|<>*?[]{}!#~%41^()\n\\=+,.:@/é $HOME -W dbname=x"""
OTHER_PASSWORD = "rotated $(since) then"


@pytest.fixture(scope="module")
def locked(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that asks for the password over its socket too, and writes every statement to its log."""
    directory = tmp_path_factory.mktemp("init")
    (directory / "rich.sql").write_text(RICH)
    server = start_postgres(
        image,
        *("-e", f"POSTGRES_PASSWORD={PASSWORD}", "-e", "POSTGRES_DB=app"),
        *("-e", "POSTGRES_INITDB_ARGS=--auth-local=scram-sha-256"),
        *("-v", f"{directory}/rich.sql:/docker-entrypoint-initdb.d/rich.sql:ro"),
        command=("-c", "log_statement=all", "-c", "log_connections=on", "-c", "autovacuum=off"),
    )
    # The first session of a database after a start opens all catalogs, also those that a test will have locked by then.
    docker(*administrator(server), stdin="SELECT 1")
    yield server
    remove(server.name)


def administrator(server: Postgres) -> list[str]:
    """The end of a docker command that plays SQL inside the container, where the password is known."""
    psql = 'PGPASSWORD="$POSTGRES_PASSWORD" exec psql -XAtq -U postgres -v ON_ERROR_STOP=1 -d app'
    return ["exec", "-i", server.name, "sh", "-c", psql]


class Sightings:
    """Where a secret was seen, and what was looked at.

    :param server: its own container was given the password when it was made, so that is left out.
    """

    def __init__(self, secret: str, server: Postgres) -> None:
        # As it is, and as it stands in JSON.
        self._forms = [secret.encode(), json.dumps(secret, ensure_ascii=False)[1:-1].encode()]
        self._before = self._processes()
        self._namespace = self._namespace_of(docker("inspect", "-f", "{{.State.Pid}}", server.name))
        self.places: list[str] = []
        self.programs: set[str] = set()
        self.files: set[str] = set()
        self.inspected = 0

    def look(self) -> None:
        """At private files, and at processes that were not there before the watch began."""
        for process, unused_start in self._processes() - self._before:
            if self._namespace_of(process.name) == self._namespace:
                continue
            arguments = self._read(process / "cmdline")
            self.programs.add(Path(arguments.split(b"\0")[0].decode(errors="replace")).name)
            self.hold_against(arguments, f"arguments of {process.name}")
            self.hold_against(self._read(process / "environ"), f"environment of {process.name}")
        # Path.rglob() fails where a directory vanishes meanwhile.
        for place, unused_directories, files in os.walk(RUNTIME_DIRECTORY):
            self.files.update(files)
            for name in files:
                if not name.startswith(".s."):
                    self.hold_against(self._read(Path(place, name)), f"{place}/{name}")

    def look_at_sidecars(self) -> None:
        for ident in own_containers():
            inspected = docker("inspect", ident, check=False)
            self.inspected += "PGUSER=" in inspected
            self.hold_against(inspected.encode(), f"docker inspect of {ident}")

    def hold_against(self, content: bytes, place: str) -> None:
        if any(form in content for form in self._forms):
            self.places.append(place)

    def _processes(self) -> set[tuple[Path, bytes]]:
        """Each process with the time when it was started: a number alone may be another's by now."""
        # Past its name there is no parenthesis (proc(5)).
        return {
            (process, b"".join(self._read(process / "stat").rpartition(b")")[2].split()[19:20]))
            for process in Path("/proc").glob("[0-9]*")
        }

    @staticmethod
    def _read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError:
            return b""

    @staticmethod
    def _namespace_of(pid: str) -> str:
        try:
            return os.readlink(f"/proc/{pid}/ns/pid")
        except OSError:
            return ""


@contextmanager
def watched(secret: str, server: Postgres) -> Iterator[Sightings]:
    """Looks for the secret again and again while the block runs."""
    sightings = Sightings(secret, server)
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            sightings.look()
            over.wait(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sightings
    finally:
        over.set()
        thread.join()


@contextmanager
def held_until_seen(
    program: str, catalog: str, seen: Sightings, server: Postgres
) -> Iterator[None]:
    """Lets a program wait for a catalog that it alone reads: it may be over too soon to be seen for certain."""
    lock = f"LOCK TABLE pg_catalog.{catalog} IN ACCESS EXCLUSIVE MODE"
    holder = subprocess.Popen(
        ["docker", *administrator(server)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdin
    holder.stdin.write(f"BEGIN; {lock}; SELECT pg_sleep(600);\n")
    holder.stdin.close()
    holders = (
        f"FROM pg_locks WHERE relation = 'pg_catalog.{catalog}'::regclass"
        " AND mode = 'AccessExclusiveLock' AND granted"
    )

    def ask(text: str) -> str:
        return docker(*administrator(server), stdin=text)

    await_that(lambda: ask(f"SELECT count(*) {holders}") == "1", f"{catalog} is locked")

    def release() -> None:
        try:
            await_that(lambda: program in seen.programs, f"the watch has seen {program}")
        finally:
            ask(f"SELECT pg_terminate_backend(pid) {holders}")
            holder.wait()

    with ThreadPoolExecutor(1) as beside:
        released = beside.submit(release)
        yield
        released.result()


#: A row of it can be restored only once there is a file in the server's container.
RESTORED_WHEN_TOLD = """
CREATE FUNCTION public.told() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    WHILE pg_catalog.pg_stat_file('/tmp/told', true) IS NULL LOOP
        PERFORM pg_catalog.pg_sleep(0.05);
    END LOOP;
    RETURN true;
END
$$;
CREATE TABLE public.waiting (id int PRIMARY KEY CHECK (public.told()));
INSERT INTO public.waiting VALUES (1);
"""


@contextmanager
def restore_held_until_seen(seen: Sightings, server: Postgres) -> Iterator[None]:
    """Lets pg_restore wait for a file that is there once the watch has seen it."""

    def told(does: str) -> None:
        docker("exec", server.name, *does.split(), "/tmp/told")

    told("touch")
    docker(*administrator(server), stdin=RESTORED_WHEN_TOLD)
    told("rm")

    def release() -> None:
        try:
            await_that(lambda: "pg_restore" in seen.programs, "the watch has seen pg_restore")
        finally:
            told("touch")

    with ThreadPoolExecutor(1) as beside:
        released = beside.submit(release)
        yield
        released.result()


def test_a_password_of_every_metacharacter_works_and_is_seen_nowhere(
    locked: Postgres, sets: Path
) -> None:
    with (
        watched(PASSWORD, locked) as seen,
        held_until_seen("pg_dump", "pg_ts_template", seen, locked),
        held_until_seen("pg_dumpall", "pg_parameter_acl", seen, locked),
        restore_held_until_seen(seen, locked),
    ):

        def progress(*unused: object) -> None:
            seen.look_at_sidecars()

        made = locked.backup(sets, "app", progress)
        restored = locked.restore(sets, "app", progress, jobs=2)
    assert made.changed
    assert restored.details["differences"] == []
    # What was looked at is what there was to look at.
    assert {"pg_dump", "pg_dumpall", "pg_restore"} <= seen.programs
    assert ".s.PGSQL.5432" in seen.files
    assert seen.inspected
    for report in (made, restored):
        text = json.dumps(report.as_dict(), ensure_ascii=False, default=str)
        seen.hold_against((repr(report) + text).encode(), f"report of the {report.action}")
    written = [path for path in sets.rglob("*") if path.is_file()]
    assert len(written) >= 4
    for path in written:
        seen.hold_against(path.read_bytes(), str(path))
    log = subprocess.run(["docker", "logs", locked.name], capture_output=True, check=True).stderr
    assert b"COPY public.jobs" in log
    seen.hold_against(log, "log of the container")
    assert seen.places == []
    assert not own_containers()


@pytest.mark.slow
def test_a_password_that_was_given_is_used_before_the_container_s_own(
    locked: Postgres, sets: Path
) -> None:
    role = f"CREATE ROLE rotated SUPERUSER LOGIN PASSWORD '{OTHER_PASSWORD}'"
    docker(*administrator(locked), stdin=role)
    target = locked.target("app", user="rotated", login_password=OTHER_PASSWORD)
    with (
        watched(OTHER_PASSWORD, locked) as seen,
        held_until_seen("pg_dump", "pg_ts_template", seen, locked),
    ):
        report = backup(BackupRequest(target, sets))
    assert report.changed
    assert "pg_dump" in seen.programs
    assert seen.places == []
    assert OTHER_PASSWORD not in repr(target) + repr(report)


def test_a_wrong_password_is_said_without_saying_it(locked: Postgres, sets: Path) -> None:
    target = locked.target("app", login_password=OTHER_PASSWORD)
    with pytest.raises(TargetError) as caught:
        backup(BackupRequest(target, sets))
    text = str(caught.value)
    assert locked.name in text
    assert 'role "postgres"' in text
    assert "Nothing was changed" in text
    assert "login_password" in text
    assert OTHER_PASSWORD not in text
    assert not sets.exists()


@pytest.mark.slow
def test_a_password_in_a_file_of_the_container_is_found(image: str, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    server = start_postgres(
        image,
        *("-e", "POSTGRES_PASSWORD_FILE=/run/secrets/password"),
        *("-v", f"{secret}:/run/secrets/password:ro"),
        *("-e", "POSTGRES_USER=Die Öwner -d x=41%", "-e", "POSTGRES_DB=app"),
        *("-e", "POSTGRES_INITDB_ARGS=--auth-local=scram-sha-256"),
    )
    try:
        report = server.backup(tmp_path / "sets", "app")
        assert report.changed
        assert "no table" in " ".join(report.warnings)
        secret.write_text("another")
        with pytest.raises(TargetError, match="login_password"):
            server.backup(tmp_path / "sets", "app")
        secret.chmod(0o644)
        os.truncate(secret, 0)
        with pytest.raises(TargetError, match=r"no password supplied.*login_password"):
            server.backup(tmp_path / "sets", "app")
    finally:
        remove(server.name)
