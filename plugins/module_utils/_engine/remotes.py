# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which program reaches which offsite target."""

from __future__ import annotations

from .rclone import RcloneStore
from .rsync import RsyncStore
from .stores import Store
from .targets import OffsiteTarget, RcloneTarget


def store_of(target: OffsiteTarget, folder: str) -> Store:
    """The store of a target, for the sets in its directory `folder`. Nothing is asked of it yet."""
    if isinstance(target, RcloneTarget):
        return RcloneStore(target, folder)
    return RsyncStore(target, folder)
