# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run of the engine: its private directory, its lock, its signals and its clock."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Callable

from .errors import BusyError, FiredrillError, HostError, InterruptedRun
from .model import parse_time

RUNTIME_DIRECTORY = Path("/run/firedrill")

#: Called with the phase, the bytes done and the bytes expected (0: unknown).
Progress = Callable[[str, int, int], None]

_LOCK_PAUSE_S = 0.1
#: What takes longer hangs, or has been so for a whole day of the schedule.
_LONGEST_S = 86400.0
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Signalled(BaseException):
    """Raised where a signal or the time limit found us; no library's `except Exception` swallows it."""


def _start_ticks(pid: int) -> str:
    """When a process started, in clock ticks since boot; "" when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def owner_mark() -> str:
    """A mark that tells later whether the process that left something behind still lives."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.getpid()}/{_start_ticks(os.getpid())}"


def owner_lives(mark: str) -> bool:
    """Whether the process that made `mark` with owner_mark() is still running."""
    boot, unused_sep, rest = mark.partition("/")
    pid, unused_sep, ticks = rest.partition("/")
    if boot != Path("/proc/sys/kernel/random/boot_id").read_text().strip() or not pid.isdigit():
        return False
    return bool(ticks) and _start_ticks(int(pid)) == ticks


def is_at_it(mark: str, since: str, now: datetime) -> bool:
    """Whether the process that made `mark` is still running, and has been at its work since then for less than a day."""
    if not owner_lives(mark):
        return False
    try:
        return (now - parse_time(since)).total_seconds() < _LONGEST_S
    except ValueError:
        return False


class Run:
    """Context of one run. Leaving it removes the private directory and puts the signal handlers back.

    :param action: the word for messages: backup, restore, drill, ...
    :param timeout_s: seconds after which the run ends itself; 0 means never.
    :raises InterruptedRun: at the end of the block, when a signal or the time limit ended it.
    """

    def __init__(
        self, action: str, *, timeout_s: float = 0, progress: Progress | None = None
    ) -> None:
        self.action = action
        self.id = f"{time.strftime('%Y%m%d%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        self.mark = owner_mark()
        self.directory = RUNTIME_DIRECTORY / self.id
        self.phases: dict[str, float] = {}
        self.state = "Nothing was changed"
        self._began = time.monotonic()
        self._timeout_s = timeout_s
        self._progress = progress
        self._phase = ""
        self._cause = ""
        self._by_signal = False
        self._shields = 0
        self.found: list[str] = []
        #: What lives as long as the run does, and is ended with it.
        self.resources = contextlib.ExitStack()
        self._handlers: dict[int, object] = {}
        self._counter = 0

    def __enter__(self) -> Run:
        _require_root()
        try:
            RUNTIME_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
            self._sweep_directories()
            self.directory.mkdir(mode=0o700)
            # Another run must never see it half written: it would take the directory for a leftover.
            (self.directory / "mark").write_text(self.mark)
            (self.directory / "mark").rename(self.directory / "owner")
        except OSError as error:
            raise HostError(f"{RUNTIME_DIRECTORY} cannot be used: {error.strerror}") from error
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._handlers[number] = signal.signal(number, self._on_signal)
            self._handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_signal)
            if self._timeout_s > 0:
                signal.setitimer(signal.ITIMER_REAL, self._timeout_s)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handlers:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self.resources.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        if isinstance(error, FiredrillError):
            error.state = error.state or self.state
            if self.found:
                error.what = f"First of all, {'; '.join(self.found)}. Then: {error.what}"
        if isinstance(error, Signalled):
            raise InterruptedRun(
                f"The {self.action} was ended by {self._cause}",
                by_signal=self._by_signal,
                state=self.state,
                todo="Run it again",
            ) from None

    def _on_signal(self, number: int, unused_frame: FrameType | None) -> None:
        # Only once: what runs after the first signal is the clean-up, which has to finish.
        if self._cause:
            return
        if number == signal.SIGALRM:
            self._cause = f"its time limit of {self._timeout_s:g} s"
        else:
            self._by_signal = True
            self._cause = f"the signal {signal.Signals(number).name}"
        if not self._shields:
            raise Signalled

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A signal that arrives inside the block ends the run at its end, not in the middle of it."""
        before = self._cause
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if self._cause != before and not self._shields:
            raise Signalled

    @property
    def cause(self) -> str:
        """What ended it, in words; "" as long as nothing has."""
        return self._cause

    @staticmethod
    def _sweep_directories() -> None:
        for entry in RUNTIME_DIRECTORY.iterdir():
            # One that another run is making or removing at this moment has none.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if not owner_lives((entry / "owner").read_text()):
                    shutil.rmtree(entry, ignore_errors=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run was made; phases may lie inside one another, this does not add up twice."""
        return time.monotonic() - self._began

    def private_directory(self, kind: str) -> Path:
        """A new empty directory of mode 0700 that goes away with the run."""
        self._counter += 1
        path = self.directory / f"{kind}-{self._counter}"
        path.mkdir(mode=0o700)
        return path

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times what happens inside, in seconds, under `name` in `phases`."""
        outer, self._phase = self._phase, name
        self.advance(0, 0)
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(self.phases.get(name, 0.0) + time.monotonic() - began, 3)
            self._phase = outer

    def advance(self, done_bytes: int, total_bytes: int = 0) -> None:
        """Tells whoever watches how far the present phase is."""
        if self._progress:
            self._progress(self._phase, done_bytes, total_bytes)

    @contextlib.contextmanager
    def lock(self, *identity: str) -> Iterator[None]:
        """Holds the lock of one database on this host.

        :param identity: what makes the database unique, e.g. container id and database name.
        :raises BusyError: at once, when another run holds it.
        """
        digest = hashlib.sha256("\0".join(identity).encode(errors="surrogateescape")).hexdigest()[
            :24
        ]
        with _hold(digest, f'working on database "{identity[-1]}"', f"a {self.action}"):
            yield


@contextlib.contextmanager
def only_one(name: str) -> Iterator[None]:
    """Keeps a second process on this host out that does the same.

    :raises BusyError: at once, when there is one.
    """
    _require_root()
    RUNTIME_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    with _hold(name, "doing the same", f"`firedrill {name}`"):
        yield


@contextlib.contextmanager
def telling(wait_s: float) -> Iterator[None]:
    """The turn to tell others, which one process on this host has at a time.

    :param wait_s: how long to wait for it.
    :raises BusyError: it was not to be had in that time.
    :raises HostError: the directory of the runs cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            RUNTIME_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
            stack.enter_context(_hold("tell", "telling others", "`firedrill`", wait_s))
        except OSError as error:
            raise HostError(f"{RUNTIME_DIRECTORY} cannot be used: {error.strerror}") from error
        yield


def _require_root() -> None:
    if os.geteuid() != 0:
        raise HostError(
            "Firedrill must run as root: it reads the server's socket below /proc and files of mode 0600",
            todo="Use sudo, or `become: true` in the play",
        )


@contextlib.contextmanager
def _hold(name: str, doing: str, holder: str, wait_s: float = 0) -> Iterator[None]:
    path = RUNTIME_DIRECTORY / f"{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    try:
        while not _locks(descriptor):
            if time.monotonic() >= deadline:
                other = os.pread(descriptor, 200, 0).decode(errors="replace")
                raise BusyError(
                    f"Another run is {doing}: {other or 'an unknown process'}",
                    state="Nothing was changed",
                    todo="Wait until it has ended, then run this again",
                )
            time.sleep(_LOCK_PAUSE_S)
        os.ftruncate(descriptor, 0)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        os.pwrite(descriptor, f"{holder}, process {os.getpid()}, since {since}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
