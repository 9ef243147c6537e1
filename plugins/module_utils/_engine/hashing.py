# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files and what they hash to: read, or hashed while they are written."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from .errors import HostError
from .manifest import FileEntry

_CHUNK_BYTES = 1 << 20
#: ENOTSUPP of Linux, which NFS lets through and no C library names.
_ENOTSUPP = 524
#: Where a second name of a file is not to be had: FAT, exFAT and many shares; see link(2).
_NO_LINK = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, _ENOTSUPP)


def digest_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces.

    :raises OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The same as digest_of().

    :raises HostError: it cannot be read.
    """
    try:
        return digest_of(path)
    except OSError as error:
        raise HostError(
            f"{path} cannot be read: {error.strerror}", todo="Is the disk failing? See `dmesg`"
        ) from error


class HashingFile:
    """A file without a name that hashes what is written to it and gets its name at the end."""

    def __init__(self, file: BinaryIO, directory: int, hidden: str) -> None:
        self.file = file
        self.bytes = 0
        self._digest = hashlib.sha256()
        self._directory = directory
        self._hidden = hidden

    def write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.file.write(chunk)
        self.bytes += len(chunk)

    def restart(self) -> None:
        """Forgets what was written so far."""
        self.file.seek(0)
        self.file.truncate()
        self.bytes = 0
        self._digest = hashlib.sha256()

    def finish(self) -> None:
        """Everything is on the disk afterwards."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def entry(self, name: str) -> FileEntry:
        return FileEntry(name, self.bytes, self._digest.hexdigest())

    def publish(self, name: str) -> None:
        """Gives the file its name; never replaces another. Whoever calls holds the directory's lock."""
        here = self._directory
        if self._hidden:
            try:
                os.link(self._hidden, name, src_dir_fd=here, dst_dir_fd=here)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                if name in os.listdir(here):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from error
                os.rename(self._hidden, name, src_dir_fd=here, dst_dir_fd=here)
        else:
            # With a directory descriptor Python calls linkat(AT_SYMLINK_FOLLOW), as open(2) shows for O_TMPFILE.
            os.link(
                f"/proc/self/fd/{self.file.fileno()}",
                name,
                src_dir_fd=here,
                dst_dir_fd=here,
            )

    def withdraw(self, name: str) -> bool:
        """Takes the name away again, if it is this file's: another host may have had it first. Whether that is done."""
        try:
            named = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
            if os.path.samestat(named, os.fstat(self.file.fileno())):
                os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def require_place(self, directory: Path) -> None:
        """Refuses to name the file unless that path still leads to where it was begun.

        :raises HostError: it leads to another disk.
        :raises OSError: it leads nowhere.
        """
        if not os.path.samestat(os.fstat(self._directory), os.stat(directory)):
            raise HostError(
                f"The disk at {directory} is not the one any more on which the dump was begun",
                todo="See to it that the right one is mounted there and stays so, then run this again",
            )
