# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stream of an attached container that has no terminal, in which output and messages come in frames."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

OUTPUT = 1
MESSAGES = 2
#: The stream, three bytes of nothing, the size (Docker Engine API, "Attach to a container", stream format).
_HEADER = struct.Struct(">BxxxL")
_READ_BYTES = 256 * 1024
#: Less is waited for until more has come, or the other side hangs up.
_WORTHWHILE_BYTES = 64 * 1024


def read_frames(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """What arrives until the other side hangs up: the stream and its bytes, those of frames that arrived together joined.

    pg_dump writes 4 KiB at a time, and the library gives each such frame by itself: to pass them on one by one cost a
    quarter of our processor time in an encrypted dump. A frame that is cut off is dropped: how the program ended tells
    that its output is not whole.

    :raises OSError: the connection broke.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _WORTHWHILE_BYTES)
    pending = bytearray()
    while data := connection.recv(_READ_BYTES):
        pending += data
        yield from _joined(_take_frames(pending))


def _take_frames(pending: bytearray) -> list[tuple[int, bytes]]:
    """The whole frames at the beginning of what has arrived, which are removed from it."""
    found, start = [], 0
    with memoryview(pending) as view:
        while len(view) - start >= _HEADER.size:
            stream, size = _HEADER.unpack_from(view, start)
            end = start + _HEADER.size + size
            if end > len(view):
                break
            found.append((stream, bytes(view[start + _HEADER.size : end])))
            start = end
    del pending[:start]
    return found


def _joined(frames: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    for stream in (OUTPUT, MESSAGES):
        pieces = [piece for number, piece in frames if number == stream]
        if pieces:
            yield stream, b"".join(pieces)
