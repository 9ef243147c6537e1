# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small files that survive a power cut: replaced whole or not at all; and whose it is what lies unfinished in a directory."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from .errors import HostError
from .run import owner_lives, owner_mark

_HIDDEN = ".firedrill-"
_PARTIAL = ".partial"
#: What another host has left is known by its age only.
_LEFT_S = 7 * 86400.0
_KEEP_SIZE = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Puts a small file in the place of the one before; it is on the disk when this returns.

    :raises OSError: it could not be written; the one before is still there.
    """
    new = path.with_name(hidden_name())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    sync_directory(path.parent)


def hidden_name() -> str:
    """A name that no other file has, for one that is not whole yet; it tells who writes it."""
    return f"{_HIDDEN}{os.urandom(4).hex()}-{maker_mark()}{_PARTIAL}"


def mark_of(name: str) -> str:
    """The mark in a name of hidden_name(); "" for any other."""
    if not (name.startswith(_HIDDEN) and name.endswith(_PARTIAL)):
        return ""
    return name[len(_HIDDEN) : -len(_PARTIAL)].partition("-")[2]


def maker_mark() -> str:
    """This process and its host, for the name of something in a directory that several hosts may share."""
    return f"{_host()}_{owner_mark().replace('/', '_')}"


def is_left(path: Path, mark: str) -> bool:
    """Whether nobody works at it any more, by the mark in its name: its process has ended; or, where that was on another
    host and cannot be seen, nothing of it has changed for a week.

    :raises OSError: it cannot be looked at.
    """
    host, unused_sep, owner = mark.partition("_")
    if host == _host():
        return not owner_lives(owner.replace("_", "/"))
    changed = max(one.lstat().st_mtime for one in (path, *path.glob("*")))
    return time.time() - changed > _LEFT_S


def _host() -> str:
    """A host has this one to itself, unlike a name as of the factory; see machine-id(5), which wants it kept secret."""
    try:
        text = Path("/etc/machine-id").read_text(encoding="utf-8")
    except OSError:
        text = platform.node()
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12]


def is_present(path: Path) -> bool:
    """Whether there is something of that name; a link to what is not there is nothing.

    :raises OSError: nobody can tell, as of a disk that fails; Path.exists() of Python 3.14 calls that False.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def reserve(descriptor: int, size_bytes: int) -> None:
    """Keeps room free for that many bytes beyond the end of a file, as fallocate(2) does where the file system can.

    :raises OSError: there is not so much.
    """
    end = os.fstat(descriptor).st_size
    if _LIBC.fallocate(descriptor, _KEEP_SIZE, ctypes.c_long(end), ctypes.c_long(size_bytes)):
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise OSError(code, os.strerror(code))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one when there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_text(path: Path, what: str) -> str:
    """The text of a small file that somebody named; `what` it holds, for the message.

    :raises HostError: it cannot be read, or is no text.
    """
    try:
        # An editor of Windows may have put a byte order mark in front.
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise HostError(
            f"{what} in {path} cannot be read: {why}",
            state="Nothing was changed",
            todo="The path is looked up on the database's host; is it right?",
        ) from error


def sync_directory(directory: Path) -> None:
    """The names in a directory are on the disk afterwards."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Not every file system can do that for a directory; see fsync(2).
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)
