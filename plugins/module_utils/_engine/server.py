# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQL on one server, in sessions that nothing in the database can bend. The only file that imports psycopg2."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, Callable

from .containers import Container, Containers
from .errors import HostError, ServerError, TargetError
from .model import LOWEST_MAJOR, Target
from .relay import ContainerSocket, Tcp, read_inside
from .run import Run

try:
    import psycopg2
    import psycopg2.errors
    import psycopg2.extensions
    import psycopg2.extras

    # libpq's own waiting cannot be interrupted by a signal; this one can.
    psycopg2.extensions.set_wait_callback(psycopg2.extras.wait_select)
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
#: Left out, one after the other, where a server does not know them or does not let this role set them.
_EXTRA: tuple[dict[str, str], ...] = (
    {"transaction_timeout": "0", "event_triggers": "off"},
    {"transaction_timeout": "0"},
    {},
)
_CONNECT_TIMEOUT_S = 15


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
        self._extra = 0
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
        settings = {**_SESSION, **_EXTRA[self._extra]}
        return " ".join(f"-c {name}={value}" for name, value in settings.items())

    def program_options(self) -> str:
        """Startup options for PostgreSQL's programs: no time-outs and no read-only default, else its own."""
        settings = {name: value for name, value in _SESSION.items() if "timeout" in name}
        settings.update({"default_transaction_read_only": "off"}, **_EXTRA[self._extra])
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
                extra = self._extra
                options = self.options()
            try:
                return self._connect_with(database, options)
            except psycopg2.OperationalError as error:
                text = first_line(error)
                unknown = re.search(
                    r"(unrecognized configuration parameter|permission denied to set)", text
                )
                if not unknown or extra + 1 >= len(_EXTRA):
                    raise self._refusal(database, str(error)) from error
            with self._guard:
                self._extra = max(self._extra, extra + 1)

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
                connect_timeout=_CONNECT_TIMEOUT_S,
                # One that is not there: root's own ~/.pgpass is none of this database's business.
                passfile=str(self.run.directory / "no-password-file"),
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
            if "no database" not in error.what:
                raise
            session = self.connect(second)
        try:
            yield session
        finally:
            session.close()


def wait_until(probe: Callable[[], bool], timeout_s: float, pause_s: float = 0.1) -> bool:
    """Asks `probe` until it says yes; False when `timeout_s` seconds were not enough."""
    gate = threading.Event()
    waited = 0.0
    while not probe():
        if waited >= timeout_s:
            return False
        gate.wait(pause_s)
        waited += pause_s
    return True


def composed(statement: str, *names: str) -> str:
    """A statement with `{}` replaced by quoted identifiers."""
    return statement.format(*(quote_identifier(name) for name in names))
