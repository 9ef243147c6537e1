# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the disk of a directory is mounted: sets that are written below an empty mount point lie on the card, and are
hidden when the disk comes back."""

from __future__ import annotations

import os
import re
from pathlib import Path

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
    mounted = _mount_points(MOUNTINFO, 4)
    for point in _mount_points(FSTAB, 1):
        if point in way and point not in mounted:
            return f"{point} is in {FSTAB}, but nothing is mounted there"
    for root in _OF_DISKS:
        disks = [point for point in mounted if point in way and root in point.parents]
        if root in place.parents and not disks and not os.path.lexists(place):
            return f"nothing is mounted below {root} on the way to it"
    return ""


def _mount_points(table: Path, column: int) -> set[Path]:
    """The mount points of a table but /, each in that column of its line; of one that cannot be read, none."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    rows = (line.split() for line in lines if not line.lstrip().startswith("#"))
    named = (row[column] for row in rows if len(row) > column)
    # Both tables write a space and the like as three octal digits.
    found = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), name) for name in named)
    return {Path(os.path.normpath(name)) for name in found if name.startswith("/")} - {Path("/")}
