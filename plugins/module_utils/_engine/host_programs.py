# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs of the host: run to their end with their status looked at, and never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Callable, cast

from .errors import HostError

#: The Debian package of a program that is not called like its package.
_PACKAGES = {
    "age-keygen": "age",
    "gpg": "gnupg",
    "gpg-connect-agent": "gnupg",
    "gpgconf": "gnupg",
}
_CHUNK_BYTES = 1 << 20
_KEPT_BYTES = 1 << 16
_LAST_WORDS_S = 5.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status (negative: the signal), what it printed, and the end of its messages."""

    status: int
    stdout: bytes
    stderr: str
    out_of_time: bool = False

    @property
    def told(self) -> str:
        """The last line of its messages."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1][:400] if lines else ""


def run_program(
    command: Sequence[str],
    *,
    environment: Mapping[str, str | None] | None = None,
    feed: bytes = b"",
    consume: Callable[[bytes], object] | None = None,
    timeout_s: float = 0,
) -> Ended:
    """Runs a program and waits for its end, whatever that is, in the environment of this process.

    :param environment: what is added to the environment of this program only, or left out of it (None).
    :param feed: what it reads from its standard input.
    :param consume: takes its output piece by piece; without it the output is collected.
    :param timeout_s: seconds after which it is ended; 0 means never.
    :raises HostError: it is not installed, or cannot be started.
    """
    given = os.memfd_create("feed")
    try:
        with open(given, "wb", closefd=False) as file:
            file.write(feed)
        os.lseek(given, 0, os.SEEK_SET)
        process = start(command, environment=environment_with(environment or {}), stdin=given)
    finally:
        os.close(given)
    return _attend(process, consume, timeout_s)


def environment_with(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of this process for a program, whose messages are then in English.

    :param changes: what is added to it, or left out of it (None).
    """
    changes = {"LC_ALL": "C.UTF-8", **changes}
    inherited = {key: value for key, value in os.environ.items() if key not in changes}
    return {**inherited, **{key: value for key, value in changes.items() if value is not None}}


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdin: int = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """A child without a terminal, so that it can never ask, whose output and messages are pipes; end() is for its end.

    It leads a process group of its own; should this process be killed, the kernel ends the program (PR_SET_PDEATHSIG of
    prctl(2), which goes by the thread that calls this).

    :param environment: all of it.
    :raises HostError: it is not installed, or cannot be started.
    """
    try:
        return subprocess.Popen(
            list(command),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(environment),
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 -- nothing but one system call
        )
    except FileNotFoundError as error:
        raise missing_program(command[0]) from error
    except OSError as error:
        raise HostError(f"{command[0]} cannot be started: {error.strerror}") from error


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """A stream of a program that start() made a pipe of, which its type does not say."""
    return cast("IO[bytes]", stream)


def end(process: subprocess.Popen[bytes], messages: Tail | None = None) -> None:
    """Ends a program that still runs, with what it started, and closes the pipes to it, after the last of its messages."""
    # The number of one that has ended may be another's by now.
    if process.poll() is None:
        _kill(process)
    process.wait()
    if messages:
        # What it started may outlive it, and hold them open.
        messages.join(_LAST_WORDS_S)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()


def missing_program(name: str) -> HostError:
    """The error in words for a program that is not installed."""
    return HostError(
        f"The program {name} is missing on this host",
        todo=f"Install the package {_PACKAGES.get(name, name)}",
    )


def _attend(
    process: subprocess.Popen[bytes],
    consume: Callable[[bytes], object] | None,
    timeout_s: float,
) -> Ended:
    output, errors = pipe(process.stdout), pipe(process.stderr)
    messages = Tail(errors)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    collected: list[bytes] = []
    take = consume or collected.append
    messages.start()
    try:
        if timeout_s:
            timer.start()
        while chunk := os.read(output.fileno(), _CHUNK_BYTES):
            take(chunk)
        status = process.wait()
    finally:
        timer.cancel()
        # What it started may outlive it, and would hold the pipes open.
        _kill(process)
        end(process, messages)
    return Ended(status, b"".join(collected), messages.text, late.is_set())


class Tail(threading.Thread):
    """Reads the messages of a program to their end and keeps the last of them.

    :param awaited: what wait() waits for.
    """

    def __init__(self, stream: IO[bytes], awaited: re.Pattern[bytes] | None = None) -> None:
        super().__init__(daemon=True)
        self._descriptor = stream.fileno()
        self._awaited = awaited
        self._kept = b""
        self._match: re.Match[bytes] | None = None
        self._waited = threading.Event()

    def run(self) -> None:
        while chunk := os.read(self._descriptor, 8192):
            self._kept = (self._kept + chunk)[-_KEPT_BYTES:]
            if self._awaited and not self._match:
                self._match = self._awaited.search(self._kept)
                if self._match:
                    self._waited.set()
        self._waited.set()

    def wait(self, timeout_s: float) -> re.Match[bytes] | None:
        """What was awaited; None when it was not said in that time, or till the end."""
        self._waited.wait(timeout_s)
        return self._match

    @property
    def text(self) -> str:
        return self._kept.decode(errors="replace")


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
