# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Frames of an attached container: nothing is lost or mixed, however they arrive."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.frames import (
    MESSAGES,
    OUTPUT,
    read_frames,
)


def frame(stream: int, content: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


class Arriving(socket.socket):
    """A connection on which each of these pieces arrives when the one before has been read."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__(socket.AF_UNIX)
        self._pieces = [piece for piece in pieces if piece]

    def recv(self, size: int, unused_flags: int = 0) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def unread(sender: socket.socket) -> int:
    """What the other side has not taken yet, in bytes of the kernel's buffers (SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def received(*sent: bytes) -> list[tuple[int, bytes]]:
    """What is read of the pieces from a real socket; each has been taken from it before the next is sent."""
    near, far = socket.socketpair()
    found: list[tuple[int, bytes]] = []
    with near, far:
        frames = read_frames(near)
        reader = threading.Thread(target=lambda: found.extend(frames))
        reader.start()
        for piece in sent:
            far.sendall(piece)
            while unread(far):
                time.sleep(0.001)
        far.shutdown(socket.SHUT_WR)
        reader.join()
    return found


def contents(found: list[tuple[int, bytes]]) -> dict[int, bytes]:
    return {
        stream: b"".join(piece for number, piece in found if number == stream)
        for stream in (OUTPUT, MESSAGES)
    }


@settings(deadline=None)
@given(
    frames=st.lists(st.tuples(st.sampled_from([OUTPUT, MESSAGES]), st.binary(max_size=50))),
    cuts=st.lists(st.integers(min_value=1, max_value=60)),
)
def test_every_byte_arrives_in_its_stream_and_in_order_wherever_the_stream_is_cut(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    rest = b"".join(frame(*one) for one in frames)
    pieces = []
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    with Arriving(*pieces, rest) as connection:
        assert contents(list(read_frames(connection))) == contents(frames)


def test_small_frames_are_waited_for_and_given_as_one_piece() -> None:
    several = [frame(OUTPUT, bytes([n]) * 4096) for n in range(15)]
    assert received(*several) == [(OUTPUT, b"".join(bytes([n]) * 4096 for n in range(15)))]


def test_a_frame_larger_than_what_is_read_at_once_is_whole() -> None:
    content = bytes(range(256)) * 4096
    assert received(frame(OUTPUT, content)) == [(OUTPUT, content)]


def test_a_frame_that_is_cut_off_is_dropped_and_what_was_before_it_is_not() -> None:
    whole = frame(OUTPUT, b"whole") + frame(MESSAGES, b"told")
    assert received(whole + frame(OUTPUT, b"cut off")[:-1]) == [
        (OUTPUT, b"whole"),
        (MESSAGES, b"told"),
    ]
    assert received(whole + frame(OUTPUT, b"cut off")[:5]) == [
        (OUTPUT, b"whole"),
        (MESSAGES, b"told"),
    ]
