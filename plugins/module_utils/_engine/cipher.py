# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cipher: age and gpg as child processes, through which files are encrypted and decrypted while they stream."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from . import host_programs
from .errors import FiredrillError, HostError, ToolError
from .host_programs import Ended, end, pipe

_CHUNK_BYTES = 256 * 1024


class Output(Protocol):
    """Where an encrypted file goes."""

    def write(self, chunk: bytes) -> None: ...


@dataclass(frozen=True)
class Plaintext:
    """What passed through: its size in bytes and its SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


def start(command: Sequence[str], passphrase: str = "") -> subprocess.Popen[bytes]:
    """A child that has hardly an environment.

    :param passphrase: for gpg, which reads it from a pipe.
    :raises HostError: the program is not there.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "HOME": "/"}
    words, reader = list(command), -1
    if passphrase:
        reader, writer = os.pipe()
        os.write(writer, passphrase.encode())
        os.close(writer)
        words[1:1] = ["--pinentry-mode", "loopback", "--passphrase-fd", str(reader)]
    try:
        return host_programs.start(
            words, environment=environment, pass_fds=(reader,) if passphrase else ()
        )
    finally:
        if passphrase:
            os.close(reader)


def call(command: Sequence[str], stdin: bytes = b"") -> Ended:
    """Runs a program to its end.

    :raises HostError: it is not there.
    """
    process = start(command)
    try:
        output, messages = process.communicate(stdin)
    finally:
        end(process)
    return Ended(process.returncode, output, messages.decode(errors="replace"))


def told(messages: str) -> str:
    """What a program of these says went wrong, on one line without its own name."""
    lines = [line.strip() for line in messages.splitlines()]
    lines = [
        line.partition(": ")[2] or line
        for line in lines
        if line and "report unexpected or unhelpful" not in line and not line.startswith("[GNUPG:]")
    ]
    return "; ".join(dict.fromkeys(lines))[:400] or "it said nothing"


def described(program: str, status: int, messages: str) -> str:
    """An ending other than success, in words."""
    if status < 0:
        return f"{program} was killed by {signal.Signals(-status).name}"
    return f"{program} ended with status {status}: {told(messages)}"


class Encrypting:
    """A file while it is encrypted: what is written goes to the program, what that gives to `output`.

    A context; after an error, or without finish(), the program is ended and the output is good for nothing.
    """

    def __init__(self, command: Sequence[str], output: Output, passphrase: str = "") -> None:
        self._program = command[0]
        self._output = output
        self._digest = hashlib.sha256()
        self._problem: OSError | None = None
        self.bytes = 0
        self._process = start(command, passphrase)
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()

    def __enter__(self) -> Encrypting:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._collector.join()
        end(self._process)

    def _collect(self) -> None:
        descriptor = pipe(self._process.stdout).fileno()
        try:
            while chunk := os.read(descriptor, _CHUNK_BYTES):
                self._output.write(chunk)
        except OSError as error:
            self._problem = error
            # Nobody would read on, and the program, and then we, would wait for ever.
            self._process.kill()

    def write(self, chunk: bytes) -> None:
        """:raises ToolError: the program is gone.
        :raises OSError: the output could not be written.
        """
        self._digest.update(chunk)
        self.bytes += len(chunk)
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[os.write(pipe(self._process.stdin).fileno(), rest) :]
        except BrokenPipeError:
            self._conclude()
            raise ToolError(f"{self._program} stopped reading") from None

    def finish(self) -> Plaintext:
        """Waits for the end; the output is complete then.

        :raises ToolError: the program failed.
        :raises OSError: the output could not be written.
        """
        self._conclude()
        return Plaintext(self.bytes, self._digest.hexdigest())

    def _conclude(self) -> None:
        process = self._process
        with contextlib.suppress(OSError):
            pipe(process.stdin).close()
        self._collector.join()
        messages = pipe(process.stderr).read().decode(errors="replace")
        status = process.wait()
        if self._problem:
            raise self._problem
        if status:
            raise ToolError(f"The encryption failed: {described(self._program, status, messages)}")


class Decrypting:
    """A file while it is decrypted, to read from; a context.

    What it gives counts only when finish() has returned: age and gpg notice damage where it is, not before.
    """

    def __init__(
        self, command: Sequence[str], label: str, *, secret: str = "", passphrase: str = ""
    ) -> None:
        """:param label: the file's name, for messages.
        :param secret: a private key, which the program reads from its standard input.
        :param passphrase: or what gpg needs without one.
        """
        self._program = command[0]
        self._label = label
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._process = start(command, passphrase)
        # A private key is far smaller than a pipe; a program that does not read it says why itself.
        with contextlib.suppress(OSError):
            pipe(self._process.stdin).write(secret.encode())
        with contextlib.suppress(OSError):
            pipe(self._process.stdin).close()

    def __enter__(self) -> Decrypting:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end(self._process)

    def read(self, size: int = _CHUNK_BYTES) -> bytes:
        """The next piece of the plaintext, b"" at its end."""
        chunk = os.read(pipe(self._process.stdout).fileno(), size)
        self._digest.update(chunk)
        self._bytes += len(chunk)
        return chunk

    def close(self) -> None:
        """For whoever was given this as a file to read from; the program is ended by the context."""

    def finish(self) -> Plaintext:
        """Reads what is left, and waits for the end.

        :raises UndecryptedError: the program failed.
        :raises HostError: it was killed, which says nothing about the file.
        """
        while self.read():
            pass
        messages = pipe(self._process.stderr).read().decode(errors="replace")
        status = self._process.wait()
        if status < 0:
            raise HostError(
                f"{self._label} was not decrypted: {described(self._program, status, messages)}",
                todo="Was there memory enough? `dmesg` says what the kernel killed; run this again",
            )
        if status:
            raise UndecryptedError(self._label, self._program, status, messages)
        return Plaintext(self._bytes, self._digest.hexdigest())


class UndecryptedError(FiredrillError):
    """A program could not decrypt a file; whoever knows the key and the file says what that means."""

    def __init__(self, label: str, program: str, status: int, messages: str) -> None:
        self.messages = messages
        super().__init__(f"{label} was not decrypted: {described(program, status, messages)}")
