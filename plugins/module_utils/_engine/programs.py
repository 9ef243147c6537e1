# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's own programs, taken from the database's image and run in a sidecar."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .containers import Containers
from .errors import HostError, OvertakenError, SetError, TargetError, ToolError
from .model import Compression
from .relay import Relay
from .run import Run
from .server import Server
from .sidecar import Finished, Readable, Sidecar, run_beside

_RELAY_INSIDE = "/run/firedrill"
_ARCHIVE_INSIDE = "/firedrill.dump"
_PASSFILE = "passfile"
#: We hold the same locks, so only a change of the schema that waits for us can be in the way: it will not go by itself.
_LOCK_WAIT = "10s"
#: What reads an archive from its standard input: to its last block, or its table of contents.
WHOLE = ("pg_restore", "--file=/dev/null")
LIST = ("pg_restore", "--list")
#: 128 + SIGKILL, as a shell would say it.
_KILLED = 137
#: What the leader of a parallel pg_restore says of it, and then ends with status 1.
_WORKER_KILLED = "worker process died unexpectedly"
MAGIC = b"PGDMP"

#: Minor releases of November 2026 that close holes which corrupt or hostile archives could use.
_SAFE_MINOR = {14: 25, 15: 20, 16: 16, 17: 12, 18: 6}


@dataclass(frozen=True)
class Contents:
    """The table of contents of an archive: relations and data by the OID they had when dumped.

    The data of a materialized view is that it will be refreshed. `sequence_sets` are the values of sequences, each as
    `schema name owner`.
    """

    database: str
    server_version: str
    relations: frozenset[int]
    data: frozenset[int]
    sequence_sets: tuple[str, ...] = ()

    def sets_sequence(self, schema: str, name: str) -> bool:
        """Whether the archive has a value for a sequence."""
        shown = re.sub(r"[\r\n]", " ", f"{schema} {name} ")
        return any(entry.startswith(shown) for entry in self.sequence_sets)


def parse_contents(listing: str) -> Contents:
    """Reads what `pg_restore --list` prints (app-pgrestore.html of the manual).

    Names in it may hold blanks, so entries are told apart by OID; the values of sequences have none.
    """
    header = dict(
        re.findall(r"^;\s+(dbname|Dumped from database version): (.*)$", listing, re.MULTILINE)
    )
    # The number before the OID tells a table (1259, of pg_class) from its data (0): a schema may be called DATA.
    relations = re.findall(
        r"^\d+; 1259 (\d+) (?:TABLE|MATERIALIZED VIEW|FOREIGN TABLE) ", listing, re.MULTILINE
    )
    data = re.findall(r"^\d+; 0 (\d+) (?:TABLE|MATERIALIZED VIEW) DATA ", listing, re.MULTILINE)
    sequence_sets = re.findall(r"^\d+; 0 0 SEQUENCE SET (.*)$", listing, re.MULTILINE)
    return Contents(
        header.get("dbname", ""),
        header.get("Dumped from database version", ""),
        frozenset(map(int, relations)),
        frozenset(map(int, data)),
        tuple(sequence_sets),
    )


def connection_string(database: str) -> str:
    """A conninfo that names a database whatever characters it has (libpq-connect.html of the manual)."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


def _write_passfile(path: Path, password: str) -> None:
    """A password file for any server (libpq-pgpass.html of the manual), in a directory of the run's own in memory."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"*:*:*:*:{escaped}\n")


def _again(archive: IO[bytes]) -> IO[bytes]:
    """An open file, opened once more at its beginning: it may have no name."""
    return open(f"/proc/self/fd/{archive.fileno()}", "rb", buffering=0)


def _needs_capability(path: Path) -> bool:
    """Whether root may read a file by its capabilities only, of which a sidecar has none: that of another user, for instance
    on a stick or a share that is mounted for one (`uid=`, `umask=`)."""
    try:
        found = path.stat()
    except OSError:
        # Whoever mounts it says why.
        return False
    bit = stat.S_IRUSR if found.st_uid == 0 else stat.S_IRGRP if found.st_gid == 0 else stat.S_IROTH
    return not found.st_mode & bit


class Programs:
    """pg_dump, pg_dumpall, pg_restore and psql of one server's image."""

    def __init__(self, containers: Containers, run: Run, server: Server) -> None:
        self._containers = containers
        self._run = run
        self._server = server
        self._image = server.container.image_id

    # -- programs that talk to the server ----------------------------------------------------------

    @contextlib.contextmanager
    def _connected(
        self,
        command: Sequence[str],
        *,
        mounts: dict[Path, str] | None = None,
        stdin: bytes = b"",
        archive: Readable | None = None,
    ) -> Iterator[Sidecar]:
        password = self._server.password
        directory = self._run.private_directory("relay")
        # A prompt is the one way in that leaves the password in no file, argument or environment.
        asking = "--password" if password and archive is None else "--no-password"
        fed = (password.encode() + b"\n" if password else b"") + stdin
        if password and archive is not None:
            # pg_restore reads the archive where it would read the answer to a prompt, and before it.
            _write_passfile(directory / _PASSFILE, password)
        with (
            Relay(self._server.endpoint, directory) as relay,
            run_beside(
                self._containers,
                self._run,
                self._image,
                [command[0], asking, *command[1:]],
                environment={
                    "PGHOST": _RELAY_INSIDE,
                    "PGPORT": "5432",
                    "PGUSER": self._server.user,
                    "PGOPTIONS": self._server.program_options(),
                    "PGAPPNAME": "firedrill",
                    "PGPASSFILE": f"{_RELAY_INSIDE}/{_PASSFILE}",
                },
                mounts={directory: _RELAY_INSIDE, **(mounts or {})},
                stdin=archive if archive is not None else fed or None,
            ) as sidecar,
        ):
            try:
                yield sidecar
            except (ToolError, TargetError) as error:
                # Why the relay could not connect says more than that the program was hung up on.
                raise relay.error or error from None

    def dump(
        self,
        database: str,
        snapshot: str,
        compress: Compression,
        exclude_table_data: Sequence[str],
    ) -> AbstractContextManager[Sidecar]:
        """pg_dump in custom format; the archive is the sidecar's output."""
        return self._connected(
            [
                "pg_dump",
                "--format=custom",
                f"--compress={compress.argument}",
                f"--snapshot={snapshot}",
                f"--lock-wait-timeout={_LOCK_WAIT}",
                *(f"--exclude-table-data={pattern}" for pattern in exclude_table_data),
                f"--dbname={connection_string(database)}",
            ]
        )

    def dump_globals(self, database: str, *, passwords: bool) -> AbstractContextManager[Sidecar]:
        """pg_dumpall of the cluster's roles and tablespaces, as SQL text for people."""
        command = [
            "pg_dumpall",
            "--globals-only",
            f"--database={connection_string(database)}",
        ]
        if not passwords:
            command.append("--no-role-passwords")
        return self._connected(command)

    def restore(
        self,
        archive: Path | Readable,
        database: str,
        *,
        jobs: int,
        no_owner: bool,
        no_privileges: bool,
    ) -> None:
        """Loads an archive into an empty database; ends at the first error.

        :param archive: a file, or what it streams from: then it is loaded by one job, as is a file that belongs to another
            user than root and is for nobody else.
        :raises ToolError: with the first error of pg_restore.
        """
        command = ["pg_restore", "--exit-on-error", "--no-subscriptions"]
        if no_owner:
            command.append("--no-owner")
        if no_privileges:
            command.append("--no-privileges")
        command += ["--no-tablespaces", f"--dbname={connection_string(database)}"]
        with contextlib.ExitStack() as stack:
            if not isinstance(archive, Path):
                connected = self._connected(command, archive=archive)
            elif _needs_capability(archive):
                file = stack.enter_context(archive.open("rb", buffering=0))
                connected = self._connected(command, archive=file)
            else:
                command += [f"--jobs={jobs}", _ARCHIVE_INSIDE]
                connected = self._connected(command, mounts={archive.resolve(): _ARCHIVE_INSIDE})
            sidecar = stack.enter_context(connected)
            self.check(sidecar.finish(), "pg_restore")

    def run_sql(self, database: str, text: bytes, label: str) -> None:
        """Plays a script of the operator with psql, in one transaction.

        :raises ToolError: at its first error.
        """
        command = [
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--single-transaction",
            "--set=ON_ERROR_STOP=1",
        ]
        command += ["--output=/dev/null", f"--dbname={connection_string(database)}", "--file=-"]
        with self._connected(command, stdin=text) as sidecar:
            self.check(sidecar.finish(), f"psql with {label}")

    # -- programs that read an archive only --------------------------------------------------------

    def reading(self, command: Sequence[str], archive: Readable) -> AbstractContextManager[Sidecar]:
        """One of the commands below on an archive that streams; check_archive() judges how it ended."""
        return run_beside(self._containers, self._run, self._image, command, stdin=archive)

    def read_whole(self, archive: IO[bytes]) -> None:
        """Reads every block of an archive; `--list` alone is content with its first tenth.

        :raises SetError: it does not read to its end.
        """
        with self.reading(WHOLE, _again(archive)) as sidecar:
            ended = sidecar.finish()
        self.check_archive(ended)

    def contents(self, archive: IO[bytes]) -> Contents:
        """The table of contents of an archive.

        :raises SetError: it is none, or one that this version cannot read.
        """
        with self.reading(LIST, _again(archive)) as sidecar:
            listing = b"".join(sidecar)
            ended = sidecar.finish()
        self.check_archive(ended)
        return parse_contents(listing.decode(errors="replace"))

    def version(self) -> str:
        """The version of pg_restore in the image, e.g. `17.12`."""
        with run_beside(
            self._containers, self._run, self._image, ["pg_restore", "--version"]
        ) as sidecar:
            text = b"".join(sidecar).decode(errors="replace")
            ended = sidecar.finish()
        if ended.status:
            raise ToolError(_described(ended, "pg_restore --version"))
        found = re.search(r"\b(\d+)(?:\.(\d+))?", text)
        return found.group(0) if found else text.strip()

    # -- how they ended ----------------------------------------------------------------------------

    def check_archive(self, ended: Finished) -> None:
        """No server is asked here: that one is down is no excuse for an archive that does not read."""
        if ended.status == 0:
            return
        what = _described(ended, "pg_restore")
        if ended.out_of_memory or ended.status == _KILLED:
            raise HostError(f"pg_restore was killed while it read the archive: {what}")
        # Noise in the place of the version is not a newer version: all so far are 1.x.
        if re.search(r"unsupported version \(1\.", ended.stderr):
            raise SetError(
                "The archive is from a newer major version of PostgreSQL than this image's "
                f"({self.version()}): {what}",
                todo="Restore it on a server of that version or newer",
            )
        raise SetError(f"The archive is damaged, it does not read to its end: {what}")

    def check(self, ended: Finished, program: str) -> None:
        """Turns an exit status and the program's words into an error.

        :raises HostError: disk or memory was not enough, or the program was killed.
        :raises TargetError: the server went away.
        :raises OvertakenError: pg_dump had to wait for a table that others want to change.
        :raises ToolError: anything else.
        """
        if ended.status == 0:
            return
        what = _described(ended, program)
        if "No space left on device" in ended.stderr or "could not extend file" in ended.stderr:
            raise HostError(
                f"The disk of the database is full: {what}",
                todo="Free some disk space, then run this again",
            )
        if ended.out_of_memory or "out of memory" in ended.stderr:
            raise HostError(f"There was not enough memory: {what}")
        gone = "server closed the connection|terminating connection|shutting down|starting up|connection to server"
        if re.search(gone, ended.stderr) or not self._server_lives():
            raise TargetError(
                f"The server in container {self._server.container.name} went away: {what}",
                todo=f"See `docker logs {self._server.container.name}`; run this again when it is up",
            )
        # The statement that pg_dump could not play; the server's own words may be in any language.
        if program == "pg_dump" and "LOCK TABLE" in ended.stderr:
            raise OvertakenError(what)
        # Where the memory cgroup is off, as on Raspberry Pi OS, the engine does not know what the kernel killed.
        if ended.status == _KILLED or _WORKER_KILLED in ended.stderr:
            raise HostError(
                f"{program} was killed: {what}",
                todo="Was there memory enough? `dmesg` says what the kernel killed; run this again",
            )
        raise ToolError(what)

    def _server_lives(self) -> bool:
        try:
            self._server.endpoint.connect().close()
        except TargetError:
            return False
        return True


def _described(ended: Finished, program: str) -> str:
    said = telling_line(ended.stderr)
    return f"{program} ended with status {ended.status}" + (f": {said}" if said else "")


def telling_line(stderr: str) -> str:
    """The line of a program's messages that says what went wrong, with its detail."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [
        n for n, line in enumerate(lines) if re.search(r"(error|fatal):", line, re.IGNORECASE)
    ]
    if not errors:
        return lines[-1] if lines else ""
    first = errors[0]
    # pg_dump tells the server's own words in a line of its own.
    following = [re.sub(r"^\w+: detail: ", "", line) for line in lines[first + 1 : first + 4]]
    told = ("DETAIL:", "HINT:", "CONTEXT:", "Error message from server:")
    detail = [line for line in following if line.startswith(told)]
    return " ".join([re.sub(r"^\w+: (error|fatal): ", "", lines[first]), *detail])[:600]


def major_of(version: str) -> int:
    """17 of `17.12`; 0 of what is no version."""
    digits = version.partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def outdated(version: str) -> str:
    """A warning when the programs are older than the releases that fixed their holes; else ""."""
    major, unused_sep, minor = version.partition(".")
    if not major.isdigit() or not minor.isdigit():
        return ""
    safe = _SAFE_MINOR.get(int(major))
    if safe is None and int(major) > max(_SAFE_MINOR):
        return ""
    if safe is not None and int(minor) >= safe:
        return ""
    wanted = f"{major}.{safe}" if safe else "a supported major version"
    return (
        f"pg_restore in the image is {version}: holes that a corrupt or hostile archive can use are "
        f"fixed from {wanted} on; update the image"
    )
