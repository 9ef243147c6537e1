# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQL on one server, in sessions that nothing in the database can bend. The only file that imports psycopg2."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

from .containers import Container, Containers
from .errors import HostError, ServerError, TargetError
from .model import LOWEST_MAJOR, Target
from .relay import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_INTERVAL_S,
    ContainerSocket,
    Tcp,
    answers,
    read_inside,
)
from .run import Run

try:
    import psycopg2
    import psycopg2.errors
    import psycopg2.extensions

    class _Connection(psycopg2.extensions.connection):
        """A connection that knows whose it is, so that nobody waits for ever for a server that hangs."""

        def __init__(self, server: Server, dsn: str) -> None:
            self._server = server
            #: When it has to be there; None once it is.
            self._connect_by: float | None = time.monotonic() + _CONNECT_TIMEOUT_S
            super().__init__(dsn)
            self._connect_by = None

        def waited(self, look_at: float) -> float:
            """Called while the server is silent; returns when to look again whether it hangs.

            :raises TargetError: it does.
            """
            if self._connect_by is not None:
                if time.monotonic() >= self._connect_by:
                    raise self._server.hangs()
            # A run that is over still cleans up. That may take long and is not hurried, but no signal ends it any more.
            elif self._server.run.cause and time.monotonic() >= look_at:
                if not answers(self._server.endpoint, _CONNECT_TIMEOUT_S):
                    raise self._server.hangs()
                return time.monotonic() + _PATIENCE_S
            return look_at

    def _wait(connection: _Connection) -> None:
        """Waits as psycopg2 wants it. A signal interrupts this, but not libpq's own waiting."""
        look_at = time.monotonic() + _PATIENCE_S
        while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
            wire = [connection.fileno()]
            if state == psycopg2.extensions.POLL_READ:
                reading, writing = wire, []
            elif state == psycopg2.extensions.POLL_WRITE:
                reading, writing = [], wire
            else:
                raise psycopg2.OperationalError(f"bad state from poll: {state}")
            while not any(select.select(reading, writing, [], _LOOK_S)):
                look_at = connection.waited(look_at)

    psycopg2.extensions.set_wait_callback(_wait)
    HAS_PSYCOPG2 = True
except ImportError:
    HAS_PSYCOPG2 = False

#: Startup options outrank ALTER ROLE SET and ALTER DATABASE SET (config-setting.html of the manual).
#: With an empty search_path only pg_catalog answers for a function or operator that is not qualified.
_SESSION = {
    "search_path": "",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read\\ committed",
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "row_security": "off",
    "client_min_messages": "error",
}
#: Left out, each by itself, where a server does not know it or does not let this role set it. With the first, what is
#: said of the others, and whatever else is searched for words, is English.
_EXTRA = {
    "lc_messages": "C",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "event_triggers": "off",
}
_CONNECT_TIMEOUT_S = 15.0
#: How often somebody who waits looks at the clock, and whether the run is over.
_LOOK_S = 1.0
#: After its end a run waits so long before it asks whether the server hangs.
_PATIENCE_S = 5.0


def quote_identifier(name: str) -> str:
    """`a"b` as `"a""b"` (sql-syntax-lexical.html of the manual)."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A string constant that means the same whatever standard_conforming_strings says."""
    quoted = text.replace("'", "''")
    if "\\" in quoted:
        doubled = quoted.replace("\\", "\\\\")
        return f" E'{doubled}'"
    return f"'{quoted}'"


def first_line(error: BaseException) -> str:
    """The first line of a library's message without its `ERROR:`."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^(ERROR|FATAL|PANIC):\s+", "", lines[0])


def says(text: str, name: str) -> bool:
    """Whether a server's text speaks of `name`: its words and quotes are in the server's language, names are not."""
    return bool(re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", text))


class Session:
    """One connection, in autocommit; transactions are begun and ended by statements."""

    def __init__(self, connection: Any, database: str) -> None:
        self._connection = connection
        self.database = database
        #: The server's process.
        self.pid = int(connection.info.backend_pid)

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement; `%s` stands for each value.

        :raises ServerError: with the server's words and its SQLSTATE.
        """
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return list(cursor.fetchall()) if cursor.description else []
        except (UnicodeError, psycopg2.errors.CharacterNotInRepertoire) as error:
            # Possible in SQL_ASCII, and in what all databases share, such as their comments.
            raise ServerError(
                f'A name or comment that database "{self.database}" shows has bytes that are no UTF-8: '
                f"{first_line(error)}",
                todo="Rename it, or write it again from a database in UTF8",
            ) from error
        except psycopg2.Error as error:
            if self._connection.closed or not error.pgcode:
                raise TargetError(
                    f'The connection to database "{self.database}" was lost: {first_line(error)}',
                    todo="See the log of its container; run this again when the server is up",
                ) from error
            raise ServerError(first_line(error), sqlstate=error.pgcode) from error

    def execute(self, statement: str, *values: Any) -> None:
        """A statement whose rows nobody wants."""
        self.query(statement, *values)

    def value(self, statement: str, *values: Any) -> Any:
        """The first column of the only row; None when there is no row."""
        rows = self.query(statement, *values)
        return rows[0][0] if rows else None

    @contextlib.contextmanager
    def transaction(self, begin: str = "BEGIN") -> Iterator[None]:
        """COMMIT at the end of the block, ROLLBACK when it is left by an exception."""
        self.execute(begin)
        try:
            yield
        except BaseException:
            with contextlib.suppress(ServerError, TargetError):
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def hang_up(self) -> None:
        """Ends the wait of another thread for an answer on this connection, whatever the server does.

        libpq's own way needs the address that it connected to, and that was good for connecting only.
        """
        with (
            contextlib.suppress(Exception),
            socket.socket(fileno=os.dup(self._connection.fileno())) as wire,
        ):
            wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.close()


class Server:
    """The PostgreSQL server of one target.

    :param user: the role that every session and tool uses.
    :raises HostError: psycopg2 is missing.
    """

    def __init__(
        self, containers: Containers, run: Run, container: Container, target: Target
    ) -> None:
        if not HAS_PSYCOPG2:
            raise HostError(
                f"The psycopg2 library is missing for {sys.executable} on this host",
                todo="Install the package python3-psycopg2 (or `pip install psycopg2-binary`)",
            )
        self.container = container
        self.run = run
        self.endpoint: ContainerSocket | Tcp = (
            Tcp(target.login_host, target.login_port)
            if target.login_host
            else ContainerSocket(
                container.pid, container.name, lambda: containers.unchanged(container)
            )
        )
        environment = container.environment
        self.user = target.user or environment.get("POSTGRES_USER") or "postgres"
        self.password = target.login_password or self._container_password()
        self.version = 0
        self._extra = dict(_EXTRA)
        self._guard = threading.Lock()

    def _container_password(self) -> str:
        environment = self.container.environment
        if environment.get("POSTGRES_PASSWORD"):
            return environment["POSTGRES_PASSWORD"]
        file = environment.get("POSTGRES_PASSWORD_FILE")
        if not file:
            return ""
        try:
            return read_inside(self.container.pid, file).decode().rstrip("\n")
        except (OSError, UnicodeDecodeError):
            return ""

    @property
    def major(self) -> int:
        return self.version // 10000

    def options(self) -> str:
        """Startup options of our sessions, as PGOPTIONS takes them."""
        settings = {**self._extra, **_SESSION}
        return " ".join(f"-c {name}={value}" for name, value in settings.items())

    def program_options(self) -> str:
        """Startup options for PostgreSQL's programs: no time-outs and no read-only default, else its own."""
        timeouts = {name: value for name, value in _SESSION.items() if "timeout" in name}
        settings = {**self._extra, **timeouts, "default_transaction_read_only": "off"}
        return " ".join(f"-c {name}={value}" for name, value in settings.items())

    @contextlib.contextmanager
    def session(self, database: str) -> Iterator[Session]:
        """A new connection, closed at the end of the block.

        :raises TargetError: no server, no such database or role, or a password is needed and not known.
        """
        session = self.connect(database)
        try:
            yield session
        finally:
            session.close()

    def connect(self, database: str) -> Session:
        """As session(), for who closes it himself."""
        connection = self._connect(database)
        self.version = connection.server_version
        if self.major < LOWEST_MAJOR:
            connection.close()
            raise TargetError(
                f"The server in container {self.container.name} is PostgreSQL {self.major}; "
                f"{LOWEST_MAJOR} is the oldest that is supported",
                state="Nothing was changed",
                todo="Upgrade the server",
            )
        connection.autocommit = True
        return Session(connection, database)

    def _connect(self, database: str) -> Any:
        while True:
            with self._guard:
                options, extra = self.options(), self._extra
            try:
                return self._connect_with(database, options)
            except psycopg2.OperationalError as error:
                refused = {name for name in extra if says(str(error), name)}
                if not refused:
                    raise self._refusal(database, str(error)) from error
            with self._guard:
                self._extra = {n: v for n, v in self._extra.items() if n not in refused}

    def _connect_with(self, database: str, options: str) -> Any:
        with self.endpoint.address(lambda: self.run.private_directory("sql")) as (host, port):
            return psycopg2.connect(
                dbname=database,
                user=self.user,
                password=self.password or None,
                host=host,
                port=port,
                options=options,
                application_name="firedrill",
                client_encoding="UTF8",
                connection_factory=functools.partial(_Connection, self),
                keepalives_idle=KEEPALIVE_IDLE_S,
                keepalives_interval=KEEPALIVE_INTERVAL_S,
                keepalives_count=KEEPALIVE_COUNT,
                # One that is not there: root's own ~/.pgpass is none of this database's business.
                passfile=str(self.run.directory / "no-password-file"),
            )

    def hangs(self) -> TargetError:
        """What is said of a server that is there, but silent."""
        name = self.container.name
        where = f" at {self.endpoint}" if isinstance(self.endpoint, Tcp) else ""
        return TargetError(
            f"The server in container {name} does not answer{where}: it hangs",
            todo=f"Is the container paused, or its disk stalled? See `docker ps` and `docker logs {name}`; "
            "run this again when it answers",
        )

    def _refusal(self, database: str, text: str) -> TargetError:
        where = f"container {self.container.name}"
        explicit = isinstance(self.endpoint, Tcp)
        # A line that is indented only asks whether the server is running.
        lines = [line for line in text.splitlines() if line.strip() and not line[0].isspace()]
        line = lines[-1] if lines else "no answer"
        line = re.sub(r"^.*?(FATAL|ERROR):\s+", "", line)
        if f'database "{database}" does not exist' in text:
            return TargetError(
                f'There is no database "{database}" in {where}',
                state="Nothing was changed",
                todo=f"`docker exec {self.container.name} psql -U {self.user} -l` lists them",
            )
        if f'role "{self.user}" does not exist' in text:
            return TargetError(
                f'There is no role "{self.user}" in {where}',
                state="Nothing was changed",
                todo="Set `user` to a superuser of that server",
            )
        if re.search(
            r"no password supplied|password authentication failed|Peer authentication", text
        ):
            return TargetError(
                f'The server in {where} does not let role "{self.user}" in over '
                f"{self.endpoint if explicit else 'its local socket'}: {line}",
                state="Nothing was changed",
                todo="Set `login_password` (for peer authentication also `login_host` and `login_port`)",
            )
        if explicit:
            return TargetError(
                f'Database "{database}" of {where} cannot be reached at {self.endpoint}: {line}',
                state="Nothing was changed",
                todo="Correct `login_host` and `login_port`, or leave them out: the container's own socket is used then",
            )
        return TargetError(
            f'Database "{database}" in {where} cannot be reached: {line}',
            state="Nothing was changed",
            todo=f"See `docker logs {self.container.name}`",
        )

    @contextlib.contextmanager
    def maintenance(self, database: str) -> Iterator[Session]:
        """A session in a database that is not `database`, for what has to be done to it from outside."""
        first, second = (
            ("template1", "postgres") if database == "postgres" else ("postgres", "template1")
        )
        try:
            session = self.connect(first)
        except TargetError as error:
            # Only what the server itself says has such a cause, and of a database that is not there in any language.
            refused = isinstance(error.__cause__, psycopg2.OperationalError)
            if not refused or not says(str(error.__cause__), first):
                raise
            session = self.connect(second)
        try:
            yield session
        finally:
            session.close()


def wait_until(probe: Callable[[], bool], timeout_s: float, pause_s: float = 0.1) -> bool:
    """Asks `probe` until it says yes; False when `timeout_s` seconds were not enough."""
    gate = threading.Event()
    # A server that hangs takes its time for each answer.
    deadline = time.monotonic() + timeout_s
    while not probe():
        if time.monotonic() >= deadline:
            return False
        gate.wait(pause_s)
    return True


def composed(statement: str, *names: str) -> str:
    """A statement with `{}` replaced by quoted identifiers."""
    return statement.format(*(quote_identifier(name) for name in names))
