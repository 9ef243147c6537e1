# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions on servers that end who is idle, that speak another language, or that hang."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import (
    Postgres,
    await_final_server,
    await_that,
    docker,
    own_containers,
    own_directories,
)

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.access import (
    Access,
    open_access,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    InterruptedRun,
    TargetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@contextlib.contextmanager
def reaching(server: Postgres, database: str, **more: object) -> Iterator[Access]:
    with Run("test") as run:
        yield open_access(run, server.target(database, **more))


# -- servers that end who is idle ------------------------------------------------------------------


@contextlib.contextmanager
def idle_beside(server: Postgres) -> Iterator[str]:
    """A session of psql's that does nothing; gives its process in the server."""
    command = ["docker", "exec", "-i", server.name, "psql", "-U", "postgres", "-d", "app", "-qAt"]
    asked = "SELECT pid FROM pg_stat_activity WHERE application_name = 'psql' AND datname = 'app'"
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        try:
            # It is there for a second only.
            seen: list[str] = []
            await_that(
                lambda: seen.append(server.sql(asked)) or seen[-1], "the other session is there"
            )
            yield seen[-1]
        finally:
            other.kill()


def test_a_session_may_be_idle_for_longer_than_the_server_lets_others(
    own_postgres: Postgres,
) -> None:
    """As the one that waits for hours while pg_restore loads."""
    server = own_postgres
    server.create("app")
    server.sql("ALTER SYSTEM SET idle_session_timeout = '1s'")
    server.sql("SELECT pg_reload_conf()")
    with reaching(server, "app") as access, access.server.maintenance("app") as session:
        with idle_beside(server) as pid:
            # It began to be idle after ours did, and it is ended for it.
            alive = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"
            await_that(lambda: server.sql(alive) == "0", "another idle session was ended")
        assert session.value("SELECT 1") == 1
        assert "idle_session_timeout=0" in access.server.program_options()


# -- servers that speak another language -----------------------------------------------------------

#: As in PostgreSQL's own src/backend/po/de.po, which the images of the tests leave out.
_GERMAN = {
    "": "Content-Type: text/plain; charset=UTF-8\n",
    'unrecognized configuration parameter "%s"': "unbekannter Konfigurationsparameter »%s«",
    'permission denied to set parameter "%s"': "keine Berechtigung, um Parameter »%s« zu setzen",
    'database "%s" does not exist': "Datenbank »%s« existiert nicht",
    "division by zero": "Division durch Null",
}


def catalogue(texts: dict[str, str]) -> bytes:
    """A file of translations as gettext reads it (its manual: The Format of GNU MO Files)."""
    pairs = sorted((key.encode(), value.encode()) for key, value in texts.items())
    place = 28 + 16 * len(pairs)
    tables, strings = [b"", b""], b""
    for column in (0, 1):
        for pair in pairs:
            tables[column] += struct.pack("<II", len(pair[column]), place + len(strings))
            strings += pair[column] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return head + b"".join(tables) + strings


@pytest.fixture
def german(own_postgres: Postgres, tmp_path: Path) -> Postgres:
    """A server with German messages; the locale of its images is an English one, so that is where they lie."""
    server = own_postgres
    server.create("app", "CREATE ROLE reader LOGIN")
    file = tmp_path / "messages.mo"
    file.write_bytes(catalogue(_GERMAN))
    directory = "/usr/share/locale/en/LC_MESSAGES"
    docker("exec", "-u", "root", server.name, "mkdir", "-p", directory)
    docker("cp", str(file), f"{server.name}:{directory}/postgres-{server.major}.mo")
    # The old process knows that there are none.
    docker("restart", server.name)
    await_final_server(server)
    with pytest.raises(AssertionError, match="Division durch Null"):
        server.sql("SELECT 1 / 0")
    return server


@pytest.mark.parametrize("user", ["postgres", "reader"])
def test_a_server_in_another_language_is_reached(german: Postgres, user: str) -> None:
    """What it does not know or does not let a role set, it says in its own words."""
    with reaching(german, "app", user=user) as access:
        with access.server.session("app") as session:
            assert session.value("SELECT current_user") == user
            assert session.value("SELECT current_setting('search_path')") in ("", '""')
            assert session.value("SELECT current_setting('idle_session_timeout')") == "0"
            assert session.value("SHOW lc_messages") == (
                "C" if user == "postgres" else "en_US.utf8"
            )
        options = access.server.program_options()
        assert ("event_triggers=off" in options) == (german.major >= 17 and user == "postgres")
        assert ("transaction_timeout=0" in options) == (german.major >= 17)
        assert ("lc_messages=C" in options) == (user == "postgres")


@pytest.mark.newest_only
def test_the_other_database_serves_where_the_usual_one_is_gone_in_any_language(
    german: Postgres,
) -> None:
    german.sql("DROP DATABASE postgres", "app")
    with reaching(german, "app") as access, access.server.maintenance("app") as session:
        assert session.value("SELECT current_database()") == "template1"


# -- servers that hang -----------------------------------------------------------------------------


@contextlib.contextmanager
def freed_after(seconds: float, *command: str) -> Iterator[threading.Event]:
    """Lets go what hangs at the end of the block, or when that takes so long that the test has failed."""
    late = threading.Event()

    def let_go() -> None:
        late.set()
        docker(*command, check=False)

    timer = threading.Timer(seconds, let_go)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        timer.join()
        docker(*command, check=False)


@pytest.mark.newest_only
def test_a_backup_ends_in_time_although_its_server_hangs(
    own_postgres: Postgres, sets: Path
) -> None:
    server = own_postgres
    server.create("app", "CREATE TABLE t AS SELECT generate_series(1, 5) AS x")
    paused = []

    def pause(phase: str, *unused_numbers: int) -> None:
        if phase == "dump" and not paused:
            paused.append(docker("pause", server.name))

    with freed_after(150, "unpause", server.name) as late:
        with pytest.raises(InterruptedRun, match="The backup was ended by its time limit of 5 s"):
            server.backup(sets, "app", pause, timeout_s=5)
        assert paused
        assert not late.is_set()
    assert list(sets.iterdir()) == []
    assert not own_containers()
    assert not own_directories()
    assert server.backup(sets, "app").changed


@pytest.mark.newest_only
def test_a_server_that_hangs_when_it_is_connected_to_is_said(
    own_postgres: Postgres, sets: Path
) -> None:
    server = own_postgres
    server.create("app", "CREATE TABLE t (x int)")
    # A container that is paused is seen as that before.
    stop, go_on = (("kill", "--signal", name, server.name) for name in ("STOP", "CONT"))
    with freed_after(150, *go_on) as late:
        docker(*stop)
        with pytest.raises(TargetError) as caught:
            server.backup(sets, "app")
        assert not late.is_set()
    text = str(caught.value)
    assert f"The server in container {server.name} does not answer" in text
    assert f"docker logs {server.name}" in text
    assert not own_directories()
    assert server.backup(sets, "app").changed


@pytest.mark.newest_only
def test_what_a_run_cleans_up_after_its_end_may_take_long_where_the_server_answers(
    own_postgres: Postgres,
) -> None:
    server = own_postgres
    server.create("app")
    said: list[object] = []

    def clean_up_long() -> None:
        with Run("test") as run:
            access = open_access(run, server.target("app"))
            with access.server.session("app") as session:
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                finally:
                    # More than the time after which it is asked whether it hangs.
                    said.append(session.value("SELECT 'slept' FROM pg_sleep(8)"))

    with pytest.raises(InterruptedRun):
        clean_up_long()
    assert said == ["slept"]
