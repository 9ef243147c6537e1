# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The witness: pg_restore reads an archive while it passes by, so that no copy of it has to lie anywhere."""

from __future__ import annotations

import contextlib
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from .errors import FiredrillError, ToolError
from .programs import LIST, WHOLE, Contents, Programs, parse_contents
from .recovery_set import RecoverySet
from .sealed import archive_of
from .sidecar import Finished, Sidecar


class Witness:
    """Reads what is written to it twice at once: to its last block, and its table of contents. A context."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._stack = ExitStack()

    def __enter__(self) -> Witness:
        with ExitStack() as stack:
            self._whole = stack.enter_context(_Reader(self._programs, WHOLE))
            self._list = stack.enter_context(_Reader(self._programs, LIST))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def write(self, chunk: bytes) -> None:
        self._whole.write(chunk)
        self._list.write(chunk)

    def contents(self) -> Contents:
        """After the last piece: what is in the archive.

        :raises SetError: it does not read to its end.
        """
        for reader in (self._whole, self._list):
            reader.end()
        self._whole.check()
        self._list.check()
        return parse_contents(self._list.output.decode(errors="replace"))


def read_archive(programs: Programs, recovery_set: RecoverySet) -> Contents:
    """Reads the dump of a set to its last block, decrypted where it is encrypted; returns what is in it.

    :raises LockedError: it is encrypted, and the set was not unsealed.
    :raises SetError: it does not read to its end.
    """
    with archive_of(recovery_set) as archive:
        if isinstance(archive, Path):
            with archive.open("rb") as file:
                contents = programs.contents(file)
                programs.read_whole(file)
                return contents
        with Witness(programs) as witness:
            while chunk := archive.read():
                witness.write(chunk)
            return witness.contents()


class _Reader:
    """A program that reads the archive, with a thread that listens to it."""

    def __init__(self, programs: Programs, command: tuple[str, ...]) -> None:
        self._programs = programs
        self._stack = ExitStack()
        self._command = command
        self._writer = -1
        self._ended: Finished | None = None
        self._error: FiredrillError | None = None
        self.output = b""

    def __enter__(self) -> _Reader:
        reader, self._writer = os.pipe()
        with ExitStack() as stack:
            stack.callback(self._hang_up)
            archive = stack.enter_context(os.fdopen(reader, "rb", buffering=0))
            sidecar = stack.enter_context(self._programs.reading(self._command, archive))
            self._listener = threading.Thread(target=self._listen, args=(sidecar,), daemon=True)
            self._listener.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hang_up()
        self._stack.close()
        self._listener.join()

    def _hang_up(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def _listen(self, sidecar: Sidecar) -> None:
        try:
            self.output = b"".join(sidecar)
            self._ended = sidecar.finish()
        except FiredrillError as error:
            self._error = error
        except (OSError, ValueError):
            # The sidecar was closed: the run has ended otherwise.
            pass

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        with contextlib.suppress(BrokenPipeError):
            while rest and self._writer >= 0:
                rest = rest[os.write(self._writer, rest) :]
            return
        # It has seen enough, or has failed; how it ended tells.
        self._hang_up()

    def end(self) -> None:
        self._hang_up()
        self._listener.join()

    def check(self) -> None:
        if self._error:
            raise self._error
        if self._ended is None:
            raise ToolError("What pg_restore said of the archive was lost")
        self._programs.check_archive(self._ended)
