# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The outlet: what becomes a file of a set is written to it, and is encrypted on the way where recipients are named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from .cipher import Encrypting, Plaintext
from .hashing import HashingFile
from .recipients import Recipients


class Outlet(Protocol):
    """Takes a file's content; `written` counts its bytes. finish() leaves the file on the disk."""

    @property
    def written(self) -> int: ...

    def write(self, chunk: bytes) -> None: ...

    def finish(self) -> Plaintext | None:
        """What was encrypted, None where nothing was.

        :raises ToolError: the encryption failed.
        """


class _Plain:
    def __init__(self, file: HashingFile) -> None:
        self._file = file

    @property
    def written(self) -> int:
        return self._file.bytes

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)

    def finish(self) -> Plaintext | None:
        self._file.finish()
        return None


class _Encrypted:
    def __init__(self, file: HashingFile, encrypting: Encrypting) -> None:
        self._file = file
        self._encrypting = encrypting

    @property
    def written(self) -> int:
        return self._encrypting.bytes

    def write(self, chunk: bytes) -> None:
        self._encrypting.write(chunk)

    def finish(self) -> Plaintext | None:
        plaintext = self._encrypting.finish()
        self._file.finish()
        return plaintext


@contextlib.contextmanager
def outlet(file: HashingFile, recipients: Recipients | None) -> Iterator[Outlet]:
    """Opens the way into a file; the program that encrypts ends with the block.

    :raises HostError: the program is missing.
    """
    if recipients is None:
        yield _Plain(file)
        return
    with recipients.encrypt(file) as encrypting:
        yield _Encrypted(file, encrypting)
