# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disk of a directory: whether it is mounted, for sets that are written below an empty mount point lie on the card, and
are hidden when the disk comes back; and in words, what keeps from reading it or writing to it."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from .durable import is_present
from .errors import HostError
from .model import human_bytes

FSTAB = Path("/etc/fstab")
MOUNTINFO = Path("/proc/self/mountinfo")

#: Where disks are mounted that come and go; Filesystem Hierarchy Standard 3.0, sections 3.11, 3.12 and 3.15.
_OF_DISKS = (Path("/media"), Path("/mnt"), Path("/run/media"))


def not_mounted(directory: Path) -> str:
    """Why the disk on which a directory is to lie seems not to be mounted, in words; "" when nothing speaks for that.

    A mount point of fstab(5) above it, or it, with nothing mounted there; or a directory that is not there yet, where
    disks are mounted that come and go, with none mounted on the way to it.
    """
    place = Path(os.path.realpath(directory))
    way = (place, *place.parents)
    mounted, wanted = _mount_points(MOUNTINFO, 4), _mount_points(FSTAB, 1)
    # What is mounted is not followed: a server of files that does not answer would hold us up.
    for point in wanted - mounted:
        real = Path(os.path.realpath(point))
        if real in way and real not in mounted:
            return f"{point} is in {FSTAB}, but nothing is mounted there"
    for root in _OF_DISKS:
        disks = [
            point
            for point in mounted.intersection(way)
            if root in point.parents or (point == root and root in wanted)
        ]
        if root in place.parents and not disks and not os.path.lexists(place):
            return f"nothing is mounted below {root} on the way to it"
    return ""


def _mount_points(table: Path, column: int) -> set[Path]:
    """The mount points of a table but /, each in that column of its line; of one that cannot be read, none."""
    try:
        text = table.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return set()
    # Nothing else ends a name: it may hold blanks of Unicode, of which split() knows many.
    lines = (line.strip(" \t") for line in text.split("\n"))
    rows = (re.split(r"[ \t]+", line) for line in lines if not line.startswith("#"))
    named = (row[column] for row in rows if len(row) > column)
    # Both tables write a space and the like as three octal digits.
    found = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), name) for name in named)
    return {Path(os.path.normpath(name)) for name in found if name.startswith("/")} - {Path("/")}


def lost_link(directory: Path) -> str:
    """In words: which link on the way to a directory leads to what is not there; "" for none.

    :raises OSError: nobody can tell.
    """
    for place in (directory, *directory.parents):
        if place.is_symlink() and not is_present(place):
            return f"{place} is a link to {os.readlink(place)}, which is not there"
    return ""


def unreadable(directory: Path, error: OSError) -> HostError:
    """In words: what keeps a backup directory from being read."""
    return HostError(
        f"The backup directory {directory} cannot be read: {error.strerror}",
        todo="Is the disk mounted and well (`dmesg`), is the path right, is this run as root?",
    )


def write_failure(directory: Path, error: OSError) -> HostError:
    """In words: what kept a file from being written in that directory."""
    if not _is_of(directory, error):
        named = f"{error.filename}: " if error.filename else ""
        return HostError(f"The backup broke off: {named}{error.strerror or type(error).__name__}")
    if error.errno == errno.EDQUOT:
        return HostError(
            f"The quota of the disk of {directory} is used up",
            todo="Raise it, or move older sets to another disk (`firedrill list` shows them)",
        )
    if error.errno == errno.EFBIG:
        return HostError(
            f"The file system of {directory} takes no file that large: {error.strerror}",
            todo="On FAT (vfat) 4 GiB are the most; put the sets on a disk with another file system, ext4 or exFAT for instance",
        )
    if error.errno != errno.ENOSPC:
        return HostError(
            f"{directory} cannot be written: {error.strerror}",
            todo="Is the disk failing, or mounted read-only since it did? See `dmesg`"
            if error.errno in (errno.EIO, errno.EROFS)
            else "",
        )
    try:
        room = os.statvfs(directory)
    except OSError:
        return HostError(f"The disk of {directory} is full")
    free = human_bytes(room.f_bavail * room.f_frsize)
    # Some file systems make inodes as they need them, and say that they have none.
    if room.f_files and not room.f_favail:
        return HostError(
            f"The disk of {directory} takes no further file: all its inodes are used ({free} free)",
            todo="Remove files from it that nobody needs, however small (`df -i` shows how many there are)",
        )
    return HostError(
        f"The disk of {directory} is full ({free} free)",
        todo="Free some space, or move older sets to another disk (`firedrill list` shows them)",
    )


def _is_of(directory: Path, error: OSError) -> bool:
    """Whether an error may be that disk's: of a write, which names no file, or of a file in the directory."""
    if error.errno is None or isinstance(error, (ConnectionError, TimeoutError)):
        return False
    named = (error.filename, error.filename2)
    paths = [Path(os.fsdecode(one)) for one in named if isinstance(one, (str, bytes, os.PathLike))]
    # Names that are relative are so to the directory.
    return not paths or any(not one.is_absolute() or one.is_relative_to(directory) for one in paths)
