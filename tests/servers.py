# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real PostgreSQL servers in containers for the tests, and what tests ask of them."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from docker import APIClient, from_env

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import (
    BackupRequest,
    backup,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report, Target
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.restore import (
    RestoreRequest,
    restore,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import (
    RUNTIME_DIRECTORY,
    Progress,
    owner_lives,
    owner_mark,
)

ROOT = Path(__file__).resolve().parents[1]
ENGINE_PARENT = ROOT / "plugins" / "module_utils"
LABEL = "firedrill.test=1"
DEFAULT_IMAGES = "firedrill-test/postgres:15 firedrill-test/postgres:17"
IMAGES = os.environ.get("FIREDRILL_TEST_IMAGES", DEFAULT_IMAGES).split()


def docker(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    """Runs the docker client; returns what it printed."""
    done = subprocess.run(
        ["docker", *arguments], input=stdin, check=False, capture_output=True, text=True
    )
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments[:3])}: {done.stderr.strip()}")
    return done.stdout.strip()


@functools.cache
def _engine() -> APIClient:
    return from_env().api


@dataclass
class Postgres:
    """A running PostgreSQL container of the tests."""

    name: str
    image: str
    databases: list[str] = field(default_factory=list)

    @property
    def major(self) -> int:
        return int(self.sql("SHOW server_version_num")) // 10000

    def sql(
        self, text: str, database: str = "postgres", user: str = "postgres", options: str = ""
    ) -> str:
        """Plays SQL with the container's psql; returns unaligned rows.

        :param options: startup options, which outrank what was set for the database or the role.
        """
        command, environment = self._psql(database, user)
        done = subprocess.run(
            command,
            input=text,
            check=False,
            capture_output=True,
            text=True,
            env={**environment, "PGOPTIONS": options},
        )
        if done.returncode:
            raise AssertionError(f"psql in {self.name}: {done.stderr.strip()}")
        return done.stdout.strip()

    def sql_beside(
        self, text: str, database: str = "postgres", user: str = "postgres"
    ) -> subprocess.Popen[str]:
        """Plays SQL in a session of its own while the test goes on; whoever calls waits for its end."""
        command, environment = self._psql(database, user)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdin
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
        return process

    def _psql(self, database: str, user: str) -> tuple[list[str], dict[str, str]]:
        """The command line of psql in the container's files, and the container's environment.

        It takes a fifth of the time of `docker exec`, and tests ask a server hundreds of times.
        """
        shown = _engine().inspect_container(self.name)
        if not shown["State"]["Running"]:
            raise AssertionError(f"{self.name} does not run")
        environment = dict(entry.split("=", 1) for entry in shown["Config"]["Env"])
        # Before Debian's wrapper of the same name.
        own = f"/usr/lib/postgresql/{environment.get('PG_MAJOR')}/bin"
        environment["PATH"] = f"{own}:{environment['PATH']}"
        command = ["chroot", f"/proc/{shown['State']['Pid']}/root", "psql", "-XqAt"]
        command += ["-v", "ON_ERROR_STOP=1", "-U", user, "-d", _conninfo(database)]
        return command, environment

    def pg_restore(self, archive: Path, *arguments: str) -> str:
        """What pg_restore prints of an archive; as a script (`-f -`) it reads all of it."""
        command = ["docker", "exec", "-i", self.name, "pg_restore", *arguments]
        with archive.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def create(self, database: str | None = None, content: str = "") -> str:
        """Creates a database, by default of a name of its own, and plays `content` in it."""
        name = database or f"db_{uuid.uuid4().hex[:8]}"
        quoted = name.replace('"', '""')
        self.sql(f'CREATE DATABASE "{quoted}"')
        self.databases.append(name)
        if content:
            self.sql(content, name)
        return name

    def target(self, database: str, **more: object) -> Target:
        return Target(database=database, container=self.name, **more)  # type: ignore[arg-type]

    def names(self) -> list[str]:
        """The names of all databases."""
        return self.sql("SELECT datname FROM pg_database ORDER BY 1").splitlines()

    def started(self) -> str:
        """When the postmaster started, so that a restart of production is seen."""
        return self.sql("SELECT pg_postmaster_start_time()")

    def backup(
        self, directory: Path, database: str, progress: Progress | None = None, **options: object
    ) -> Report:
        return backup(BackupRequest(self.target(database), directory, **options), progress)  # type: ignore[arg-type]

    def restore(
        self, directory: Path, database: str, progress: Progress | None = None, **options: object
    ) -> Report:
        return restore(RestoreRequest(self.target(database), directory, **options), progress)  # type: ignore[arg-type]


def _conninfo(database: str) -> str:
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


def start_postgres(
    image: str, *arguments: str, command: tuple[str, ...] = (), wait: bool = True
) -> Postgres:
    """Starts a container; `arguments` go to `docker run`, `command` to the server."""
    name = f"fdt-{uuid.uuid4().hex[:10]}"
    settings = ["--network", "none"] if "--network" not in arguments else []
    if not any("POSTGRES_PASSWORD" in argument for argument in arguments):
        settings += ["-e", "POSTGRES_PASSWORD=not-a-secret"]
    docker("run", "-d", "--name", name, "--label", LABEL, *settings, *arguments, image, *command)
    server = Postgres(name, image)
    if wait:
        await_final_server(server)
    return server


def await_final_server(server: Postgres, timeout_s: float = 240) -> None:
    """The entrypoint's temporary server is not the one; the final one is process 1 of the container."""
    limit = time.monotonic() + timeout_s
    probe = 'test "$(head -n1 /var/lib/postgresql/data/postmaster.pid 2>/dev/null)" = 1 && pg_isready -q'
    probe = probe.replace("/var/lib/postgresql/data", "$PGDATA")
    while subprocess.run(
        ["docker", "exec", server.name, "sh", "-c", probe], check=False, capture_output=True
    ).returncode:
        if time.monotonic() > limit:
            raise AssertionError(
                f"{server.name} did not come up: {docker('logs', server.name)[-500:]}"
            )
        time.sleep(0.1)


def remove(name: str) -> None:
    docker("rm", "-f", "-v", name, check=False)


def own_containers(pid: int | None = None) -> list[str]:
    """Containers that the engine in process `pid` made, running or not; by default in this process.

    Other tests run beside this one, so those of other processes say nothing about it.
    """
    return _owned(pid, "ps", "-a", "--no-trunc", "--format", "{{.ID}}")


def own_volumes(pid: int | None = None) -> list[str]:
    return _owned(pid, "volume", "ls", "--format", "{{.Name}}")


def own_directories(pid: int | None = None) -> list[Path]:
    """The private directories that runs of process `pid` have; by default of this process."""
    return [path for path, mark in _directories() if mark.split("/")[1] == str(pid or os.getpid())]


def own_and_dead_directories() -> list[Path]:
    """The private directories of runs of this process, and of processes that were killed."""
    return [path for path, mark in _directories() if mark == owner_mark() or not owner_lives(mark)]


def _directories() -> Iterator[tuple[Path, str]]:
    """The private directories of runs, each with its owner's mark."""
    for mark in RUNTIME_DIRECTORY.glob("*/owner"):
        # Another run may be removing its own at this moment.
        with contextlib.suppress(FileNotFoundError):
            yield mark.parent, mark.read_text()


def _owned(pid: int | None, *listing: str) -> list[str]:
    label = '{{.Label "firedrill.owner"}}'
    printed = docker(*listing[:-1], f"{listing[-1]} {label}", "--filter", "label=firedrill.owner")
    marks = [line.split() for line in printed.splitlines()]
    # The mark is boot/pid/start.
    return [name for name, mark in marks if mark.split("/")[1] == str(pid or os.getpid())]


def await_that(condition: Callable[[], object], what: str, timeout_s: float = 180) -> None:
    """Asks until `condition` holds; `what` is for the message when it never does."""
    limit = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > limit:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)


def engine_process(code: str, **environment: str) -> subprocess.Popen[str]:
    """The engine in a process of its own, to be signalled; `code` finds its files imported as `_engine`."""
    prelude = f"import sys; sys.path.insert(0, {str(ENGINE_PARENT)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def bulk(megabytes: float, table: str = "bulk") -> str:
    """SQL for a table of about that many megabytes that hardly compress."""
    # 20 MD5 sums in text make 640 bytes a row.
    texts = ", ".join(f"md5(random()::text || '{n}')" for n in range(20))
    return f"""
CREATE UNLOGGED TABLE {table} (id serial, body text);
INSERT INTO {table} (body) SELECT concat({texts}) FROM generate_series(1, {int(megabytes * 1500)});
"""


#: A database with a little of everything that a dump can lose.
RICH = """
CREATE EXTENSION pgcrypto;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE users (id serial PRIMARY KEY, email text UNIQUE NOT NULL, mood mood DEFAULT 'glad', photo bytea);
CREATE TABLE jobs (id bigserial PRIMARY KEY, user_id int REFERENCES users, body jsonb, price numeric(10,2));
INSERT INTO users (email, photo) SELECT 'üser' || g || '@例え.jp', decode(md5(g::text), 'hex') FROM generate_series(1, 500) g;
INSERT INTO jobs (user_id, body, price) SELECT 1 + g % 500, jsonb_build_object('n', g, 'ß', '€'), g / 7.0
  FROM generate_series(1, 2000) g;
CREATE INDEX ON jobs (user_id);
CREATE VIEW rich AS SELECT u.email, sum(price) FROM users u JOIN jobs j ON j.user_id = u.id GROUP BY 1;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM jobs;
CREATE TABLE audit (at timestamptz, what text) PARTITION BY RANGE (at);
CREATE TABLE audit_2026 PARTITION OF audit FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO audit SELECT '2026-03-01'::timestamptz + g * '1 hour'::interval, 'event ' || g FROM generate_series(1, 100) g;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.audit VALUES ('2026-06-01', TG_OP); RETURN NEW; END $$;
CREATE TRIGGER noted AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON jobs USING (user_id::text = current_setting('app.user', true));
SELECT lo_from_bytea(0, 'a large object'::bytea);
"""
