# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A database, its set and its application, set up again for each test, whose restore can be held in the middle."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from restoring import start_app
from servers import Postgres, await_that, docker, engine_process, remove

WAIT_S = 180.0

#: What the set holds. Its load stands still in the COPY of `gated` for as long as a role named {hold} exists.
CONTENT = """
CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO people SELECT g, 'p' || g FROM generate_series(1, 300) g;
CREATE INDEX ON people (name);
CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  WHILE EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{hold}') LOOP
    PERFORM pg_catalog.pg_sleep(0.05);
  END LOOP;
  RETURN true;
END $$;
CREATE TABLE gated (id int CONSTRAINT held CHECK (gate()));
INSERT INTO gated SELECT generate_series(1, 3);
"""
#: What was written after the set was made. A safety dump of the live database has no gate.
SINCE = """
ALTER TABLE gated DROP CONSTRAINT held;
INSERT INTO people VALUES (1000, 'written after the backup');
"""
LIVE, RESTORED = "301|1000", "300|300"


@dataclass
class Scene:
    """The database `database` of `server` as it is live, a set of it, and two containers of its application."""

    server: Postgres
    database: str
    directory: Path
    services: tuple[str, ...]
    set_name: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    # -- what is the case --------------------------------------------------------------------------

    def data(self, database: str = "") -> str:
        return self.server.sql("SELECT count(*), max(id) FROM people", database or self.database)

    def oid(self) -> str:
        return self.server.sql(f"SELECT oid FROM pg_database WHERE datname = '{self.database}'")

    def beside(self) -> list[str]:
        """The other databases that were made from this one."""
        return [name for name in self.server.names() if name.startswith(f"{self.database}_")]

    def running(self) -> list[bool]:
        """Whether each container of the application runs."""
        states = docker("inspect", "-f", "{{.State.Running}}", *self.services)
        return [state == "true" for state in states.split()]

    def app_starts(self) -> str:
        """When the application's containers were started last, so that a stop is seen."""
        return docker("inspect", "-f", "{{.State.StartedAt}}", *self.services)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def journal(self) -> list[dict[str, Any]]:
        """The lines of the journal, oldest first."""
        (path,) = self.directory.glob("*.journal")
        return [json.loads(line) for line in path.read_text().splitlines()]

    # -- holding a load ----------------------------------------------------------------------------

    def hold(self) -> None:
        """From now on a load of the set stands still in the middle of a COPY."""
        self.server.sql(f"CREATE ROLE hold_{self.database}")

    def release(self) -> None:
        self.server.sql(f"DROP ROLE IF EXISTS hold_{self.database}")

    def loaders(self) -> list[str]:
        """Process ids of the sessions that stand still in a COPY."""
        return self.server.sql(
            "SELECT pid FROM pg_stat_activity WHERE query LIKE 'COPY%' AND wait_event = 'PgSleep'"
            f" AND starts_with(datname, '{self.database}')"
        ).split()

    def sessions(self) -> int:
        """How many sessions there are in the database and in those beside it."""
        return int(
            self.server.sql(
                f"SELECT count(*) FROM pg_stat_activity WHERE starts_with(datname, '{self.database}')"
            )
        )

    def start_restore(self, patch: str = "", **options: Any) -> subprocess.Popen[str]:
        """A restore in a process of its own; `patch` is code that it runs before."""
        return self.start("restore.restore", patch, stop_services=self.services, **options)

    def start(self, function: str, patch: str = "", **options: Any) -> subprocess.Popen[str]:
        """`_engine.<function>` in a process of its own; its message, or error, is what it prints."""
        module, name = function.split(".")
        process = engine_process(f"""
import os, signal
from pathlib import Path
from _engine import cutover, errors, model, restore, rollback, services
{patch}
target = model.Target(database={self.database!r}, container={self.server.name!r})
request = restore.RestoreRequest(target, Path({str(self.directory)!r}), **{options!r})
try:
    print({module}.{name}(request).msg)
except errors.FiredrillError as error:
    raise SystemExit(str(error))
""")
        self.processes.append(process)
        return process

    def start_held_restore(self, **options: Any) -> subprocess.Popen[str]:
        """A restore in a process of its own that stands still in the middle of its load."""
        self.hold()
        process = self.start_restore(**options)
        await_that(
            lambda: process.poll() is not None or self.loaders(), "the load arrives at the gate"
        )
        if process.poll() is not None:
            raise AssertionError(f"the restore ended before its load: {process.communicate()[1]}")
        return process


@contextmanager
def staged(server: Postgres, directory: Path) -> Iterator[Callable[[Path], Scene]]:
    """Makes the set and the application once; gives a function that sets the scene in a new directory."""
    database = f"scene_{uuid.uuid4().hex[:8]}"
    hold = f"hold_{database}"
    server.create(database, CONTENT.format(hold=hold))
    set_name = server.backup(directory, database).set_name
    server.sql(SINCE, database)
    pristine = f"pristine_{database}"
    server.sql(f"ALTER DATABASE {database} RENAME TO {pristine}")
    services = (start_app(server.image), start_app(server.image))
    clear = f"""
SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database
 WHERE datname = '{database}' OR starts_with(datname, '{database}_')
\\gexec
DROP ROLE IF EXISTS {hold};
"""

    def scene(new_directory: Path) -> Scene:
        server.sql(f"{clear}CREATE DATABASE {database} TEMPLATE {pristine};")
        shutil.copytree(directory, new_directory)
        docker("start", *services)
        return Scene(server, database, new_directory, services, set_name)

    try:
        yield scene
    finally:
        server.sql(f"{clear}DROP DATABASE {pristine} WITH (FORCE);")
        for name in services:
            remove(name)


def end(scene: Scene) -> None:
    """Ends what a test left running: its processes, a load that is held."""
    for process in scene.processes:
        process.kill()
        process.communicate()
    scene.release()


def words(process: subprocess.Popen[str]) -> str:
    """What an engine process that failed said, which is no traceback."""
    unused_out, text = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, f"status {process.returncode}: {text}"
    assert "Traceback" not in text
    return text
