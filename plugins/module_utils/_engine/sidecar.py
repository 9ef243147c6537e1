# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sidecar: one program of an image in a container of our own, fed and read while it runs."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .containers import OOM_SCORE_ADJ, Containers, asking, cpu_shares
from .errors import HostError
from .frames import MESSAGES, read_frames
from .run import Run

# That the library may be missing is said when the engine is looked for: see Containers.
with contextlib.suppress(ImportError):
    from docker.types import LogConfig, Mount

_CHUNK_BYTES = 256 * 1024
_KEEP_STDERR_BYTES = 64 * 1024


@dataclass
class Finished:
    """How a program in a sidecar ended."""

    status: int
    stderr: str
    out_of_memory: bool = False


class Readable(Protocol):
    """What a program may be fed from."""

    def read(self, size: int) -> bytes: ...

    def close(self) -> None: ...


class Sidecar:
    """A program of an image in a container of our own, attached before it starts; it closes what it is fed from.

    Iterating gives its standard output in chunks; `finish()` then gives its exit status, which alone
    tells whether the output is complete: a killed container ends the stream cleanly.
    """

    def __init__(self, api: Any, ident: str, program: str, stdin: Readable | bytes | None) -> None:
        self._api = api
        self._id = ident
        self._program = program
        self._stderr = bytearray()
        self._unreadable: OSError | None = None
        wanted = {"stdout": 1, "stderr": 1, "stream": 1, "stdin": int(stdin is not None)}
        with asking(f"Starting {program}"):
            self._socket = api.attach_socket(ident, params=wanted)
            raw = self._raw = getattr(self._socket, "_sock", self._socket)
            raw.settimeout(None)
            # One for all who iterate: it may hold the beginning of a frame.
            self._frames = read_frames(raw)
            api.start(ident)
        self._feeder: threading.Thread | None = None
        if stdin is not None:
            file = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin
            self._feeder = threading.Thread(target=self._feed, args=(file, raw), daemon=True)
            self._feeder.start()

    def _feed(self, file: Readable, raw: Any) -> None:
        try:
            while True:
                try:
                    chunk = file.read(_CHUNK_BYTES)
                except OSError as error:
                    self._unreadable = error
                    chunk = b""
                try:
                    if not chunk:
                        raw.shutdown(socket.SHUT_WR)
                        return
                    raw.sendall(chunk)
                except OSError:
                    # A reader that has seen enough, as `pg_restore --list` has, closes early.
                    return
        finally:
            file.close()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            # What the caller does with a chunk is none of this block's business.
            with asking(f"Reading from {self._program}"):
                stream, chunk = next(self._frames, (0, b""))
            if not stream:
                return
            if stream == MESSAGES:
                self._stderr += chunk
                del self._stderr[:-_KEEP_STDERR_BYTES]
            else:
                yield chunk

    def finish(self) -> Finished:
        """Waits for the end; what is left of the output is dropped.

        :raises HostError: its input could not be read.
        """
        for unused_chunk in self:
            pass
        with asking(f"Waiting for {self._program}"):
            ended = self._api.wait(self._id, timeout=None)
            state = self._api.inspect_container(self._id)["State"]
        if self._feeder:
            # What was not read by now never will be.
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)
            self._feeder.join()
        if self._unreadable:
            raise HostError(
                f"The file that {self._program} was reading cannot be read: {self._unreadable.strerror}",
                todo="Is the disk failing? See `dmesg`",
            )
        return Finished(
            int(ended["StatusCode"]),
            self._stderr.decode(errors="replace").strip(),
            bool(state.get("OOMKilled")),
        )

    def close(self) -> None:
        # The library keeps references, so that close() alone leaves the connection open; the engine would then
        # wait for somebody to read the output before it removes the container: for ever.
        with contextlib.suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)
        # The response first: on Python 3.13 it complains on standard error when its socket is closed below it.
        for one in (getattr(self._socket, "_response", None), self._socket):
            if one is not None:
                with contextlib.suppress(OSError, ValueError):
                    one.close()


@contextlib.contextmanager
def run_beside(
    containers: Containers,
    run: Run,
    image_id: str,
    command: Sequence[str],
    *,
    environment: dict[str, str] | None = None,
    mounts: dict[Path, str] | None = None,
    stdin: Readable | bytes | None = None,
) -> Iterator[Sidecar]:
    """Runs a program of an image with no network, no capability and a read-only root; its container is gone afterwards.

    :param mounts: host path -> path inside, always read-only (a socket in it still works).
    :param stdin: what the program reads, and closes; None leaves it without a standard input.
    """
    api = containers.api
    with asking(f"Preparing {command[0]}"):
        image = api.inspect_image(image_id)
        # A tmpfs there keeps the engine from making an anonymous volume for each sidecar.
        volumes = dict.fromkeys(image["Config"].get("Volumes") or {}, "")
        host = api.create_host_config(
            network_mode="none",
            cpu_shares=cpu_shares(),
            oom_score_adj=OOM_SCORE_ADJ,
            cap_drop=["ALL"],
            read_only=True,
            security_opt=["no-new-privileges"],
            log_config=LogConfig(type="none"),
            userns_mode="host",
            tmpfs=volumes,
            mounts=[
                Mount(target=inside, source=str(source), type="bind", read_only=True)
                for source, inside in (mounts or {}).items()
            ],
        )
    ident = ""
    sidecar = None
    try:
        # The engine makes it whether or not anybody is left to hear its id.
        with asking(f"Preparing {command[0]}"), run.undisturbed():
            ident = api.create_container(
                image_id,
                entrypoint=[command[0]],
                command=list(command[1:]),
                user="0:0",
                working_dir="/",
                environment={"LC_ALL": "C.UTF-8", **(environment or {})},
                labels=containers.labels(run, "sidecar", image["Config"].get("Labels")),
                stdin_open=stdin is not None,
                host_config=host,
                healthcheck={"test": ["NONE"]},
            )["Id"]
        sidecar = Sidecar(api, ident, command[0], stdin)
        yield sidecar
    finally:
        if sidecar:
            sidecar.close()
        if ident:
            containers.remove(ident)
