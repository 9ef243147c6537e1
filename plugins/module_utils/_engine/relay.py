# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way to the server's socket in a container that nobody may change.

The socket file is resolved below /proc/<pid>/root without leaving it, pinned by a descriptor, and believed
only when the process that listens on it belongs to that container.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from .errors import FiredrillError, HostError, TargetError

_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_SOCKET_DIRECTORIES = ("/run/postgresql", "/var/run/postgresql")
_BUFFER_BYTES = 256 * 1024
_CONNECT_TIMEOUT_S = 10.0
#: For connections by TCP, in seconds and tries: a peer that is gone without a word is found in two minutes. The
#: system's own settings take more than two hours.
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 60, 10, 6

#: SSLRequest of the frontend/backend protocol: the one question that a server answers before it knows who asks.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class _OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)


def open_inside(pid: int, path: str, flags: int) -> int:
    """A descriptor for `path` as the process `pid` sees it; no link leads out of its root (openat2(2)).

    :raises OSError: as open(2) does, and ELOOP for a magic link.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        descriptor = _libc.syscall(
            _SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
        )
        if descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return int(descriptor)
    finally:
        os.close(root)


def read_inside(pid: int, path: str, limit_bytes: int = 1 << 20) -> bytes:
    """The content of a file as the process `pid` sees it.

    :raises OSError: as open(2) and read(2) do.
    """
    with os.fdopen(open_inside(pid, path, os.O_RDONLY), "rb") as file:
        return file.read(limit_bytes)


def free_bytes_inside(pid: int, path: str) -> int:
    """Free space in bytes of the file system that `path` in the container of `pid` lies on."""
    descriptor = open_inside(pid, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        room = os.fstatvfs(descriptor)
        return room.f_bavail * room.f_frsize
    finally:
        os.close(descriptor)


def on_one_disk_inside(pid: int, *paths: str) -> bool:
    """Whether directories in the container of `pid` lie on the same file system.

    :raises OSError: as open(2) does.
    """
    found = set()
    for path in paths:
        descriptor = open_inside(pid, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found.add(os.fstat(descriptor).st_dev)
        finally:
            os.close(descriptor)
    return len(found) == 1


@dataclass(frozen=True)
class Tcp:
    """An explicit address instead of the container's socket."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def connect(self) -> socket.socket:
        try:
            connection = socket.create_connection((self.host, self.port), _CONNECT_TIMEOUT_S)
        except OSError as error:
            raise TargetError(f"{self} does not answer: {error.strerror or error}") from error
        # That was for connecting: a server is silent for as long as an index or a foreign key takes it.
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
        return connection

    @contextlib.contextmanager
    def address(self, unused_directory: Callable[[], Path]) -> Iterator[tuple[str, int]]:
        """Host and port for libpq."""
        yield self.host, self.port


@dataclass(frozen=True)
class ContainerSocket:
    """The server's socket in a container.

    :param pid: the host's id of the container's first process.
    :param name: the container's name, for messages.
    :param current: says whether the container is still the one that was looked at (same start).
    """

    pid: int
    name: str
    current: Callable[[], bool]

    def connect(self) -> socket.socket:
        """A connection to the server.

        :raises TargetError: no server listens, or another container's does.
        """
        with self._pinned() as (descriptor, unused_port):
            return self._connect(descriptor)

    @contextlib.contextmanager
    def address(self, directory: Callable[[], Path]) -> Iterator[tuple[str, int]]:
        """Directory and port for libpq, good inside the block."""
        with self._pinned() as (descriptor, port):
            # A password must not go to a stranger, so the peer is looked at before libpq speaks.
            self._connect(descriptor).close()
            path = directory()
            link = path / f".s.PGSQL.{port}"
            link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
            try:
                yield str(path), port
            finally:
                link.unlink()
                path.rmdir()

    def _connect(self, descriptor: int) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}")
            self.check_peer(connection)
        except ConnectionRefusedError as error:
            connection.close()
            raise TargetError(
                f"The PostgreSQL server in container {self.name} is not running: its socket is left over",
                todo=f"Look at `docker logs {self.name}`",
            ) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def listener(self) -> int:
        """The host's id of the process that listens.

        :raises TargetError: as connect() does.
        """
        with contextlib.closing(self.connect()) as connection:
            return self.peer(connection)

    def peer(self, connection: socket.socket) -> int:
        """The host's id of the process that listens at the other end."""
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        return int(struct.unpack("3i", credentials)[0])

    def check_peer(self, connection: socket.socket) -> None:
        """:raises TargetError: when the listener is no process of this container."""
        peer = self.peer(connection)
        try:
            ours = all(
                os.readlink(f"/proc/{peer}/ns/{kind}") == os.readlink(f"/proc/{self.pid}/ns/{kind}")
                for kind in ("pid", "mnt")
            )
        except OSError:
            ours = False
        if not ours:
            # A listener that has just ended has no namespaces either.
            self._require_current()
            raise TargetError(
                f"The socket in container {self.name} belongs to a server outside that container",
                state="Nothing was sent to it",
                todo="Find out who mounted or linked it there; it may be an attack",
            )

    @contextlib.contextmanager
    def _pinned(self) -> Iterator[tuple[int, int]]:
        descriptor, port = self._resolve()
        try:
            yield descriptor, port
        finally:
            os.close(descriptor)

    def _require_current(self) -> None:
        if not self.current():
            raise TargetError(
                f"Container {self.name} was stopped or restarted while this run was using it",
                todo=f"See `docker logs {self.name}`; run this again when it is up",
            )

    def _resolve(self) -> tuple[int, int]:
        self._require_current()
        for path, port in self._candidates():
            try:
                descriptor = open_inside(self.pid, path, os.O_PATH)
            except PermissionError as error:
                raise HostError(
                    f"The files of container {self.name} cannot be reached: {error.strerror}",
                    todo="Run as root on the host whose Docker engine runs the container",
                ) from error
            except OSError:
                continue
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                return descriptor, port
            os.close(descriptor)
        raise TargetError(
            f"Container {self.name} has no socket of a PostgreSQL server",
            todo=f"Is it the database's container, and is its server up? See `docker logs {self.name}`",
        )

    def _candidates(self) -> Iterator[tuple[str, int]]:
        """Paths inside the container with their ports: the usual places, then what listens there."""
        for directory in _SOCKET_DIRECTORIES:
            yield f"{directory}/.s.PGSQL.5432", 5432
        try:
            listing = Path(f"/proc/{self.pid}/net/unix").read_text(errors="surrogateescape")
        except OSError:
            return
        for path, port in re.findall(r" (/.*/\.s\.PGSQL\.(\d+))$", listing, re.MULTILINE):
            yield path, int(port)


def answers(endpoint: ContainerSocket | Tcp, timeout_s: float) -> bool:
    """Whether a server still begins to talk to somebody new; one that is only busy does."""
    try:
        with contextlib.closing(endpoint.connect()) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(_SSL_REQUEST)
            return bool(connection.recv(1))
    except (OSError, FiredrillError):
        return False


class Relay:
    """A listener in a private directory that pumps bytes between a sidecar and the server.

    When this process dies, every connection through it dies too: no dump or restore outlives it.
    """

    def __init__(self, endpoint: ContainerSocket | Tcp, directory: Path) -> None:
        self.directory = directory
        self.error: Exception | None = None
        self._endpoint = endpoint
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Relay:
        self._listener.bind(str(self.directory / ".s.PGSQL.5432"))
        self._listener.listen(64)
        threading.Thread(target=self._accept, name="relay", daemon=True).start()
        return self

    def __exit__(self, *unused_exception: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, unused_address = self._listener.accept()
            except OSError:
                return
            try:
                server = self._endpoint.connect()
            except Exception as error:  # noqa: BLE001 - whoever runs the program raises it
                self.error = error
                client.close()
                continue
            with self._guard:
                self._open.update((client, server))
            pair = (client, server)
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            threading.Thread(target=self._serve, args=(pair, back), daemon=True).start()

    def _serve(self, pair: tuple[socket.socket, socket.socket], back: threading.Thread) -> None:
        self._pump(*pair)
        back.join()
        with self._guard:
            self._open.difference_update(pair)
        for connection in pair:
            connection.close()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        try:
            while count := source.recv_into(buffer):
                sink.sendall(buffer[:count])
        except OSError:
            pass
        for connection, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                connection.shutdown(how)
