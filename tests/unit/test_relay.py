# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way between a sidecar and a server: who is silent for long on it is not hung up on."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import relay as relay_room
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.relay import Relay, Tcp

_LIMIT_S = 0.3


class Slow:
    """A server by TCP that answers a question when it is told to, and tells when a client is gone."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.may_answer = threading.Event()
        self.asked = threading.Event()
        self.left = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, unused_address = self._listener.accept()
        with connection:
            if connection.recv(100):
                self.asked.set()
            threading.Thread(target=self._watch, args=(connection,), daemon=True).start()
            self.may_answer.wait(60)
            connection.sendall(b"answer")
            self.left.wait(60)

    def _watch(self, connection: socket.socket) -> None:
        # At the end of the test it is closed under it.
        with contextlib.suppress(OSError):
            connection.recv(100)
        self.left.set()

    def end(self) -> None:
        self.may_answer.set()
        self.left.set()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def slow() -> Iterator[Slow]:
    server = Slow()
    yield server
    server.end()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    path = Path(f"/tmp/fdt-{uuid.uuid4().hex[:8]}")
    path.mkdir()
    yield path
    for entry in path.iterdir():
        entry.unlink()
    path.rmdir()


def test_a_server_may_be_silent_for_longer_than_connecting_may_take(
    slow: Slow, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it builds an index during a restore."""
    monkeypatch.setattr(relay_room, "_CONNECT_TIMEOUT_S", _LIMIT_S)
    with Relay(Tcp("127.0.0.1", slow.port), place), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place / ".s.PGSQL.5432"))
        client.sendall(b"question")
        assert slow.asked.wait(60)
        assert not slow.left.wait(4 * _LIMIT_S)
        slow.may_answer.set()
        client.settimeout(60)
        assert client.recv(100) == b"answer"


def test_a_peer_that_is_gone_without_a_word_is_looked_for(slow: Slow) -> None:
    with Tcp("127.0.0.1", slow.port).connect() as connection:
        assert connection.gettimeout() is None
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 6
