# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which program reaches which offsite target."""

from __future__ import annotations

from .rclone import RcloneStore
from .rclone_server import RcloneServer
from .rsync import RsyncStore
from .run import Run
from .ssh import Ssh
from .stores import Store
from .targets import OffsiteTarget, RcloneTarget


def store_of(target: OffsiteTarget, folder: str, run: Run) -> Store:
    """The store of a target, for the sets in its directory `folder`. Nothing is asked of it yet. What it keeps open is
    ended with the run.
    """
    scratch = run.private_directory("store")
    if isinstance(target, RcloneTarget):
        return _kept(RcloneStore(target, folder, scratch, RcloneServer(target)), run)
    return _kept(RsyncStore(target, folder, scratch, Ssh(target, scratch)), run)


def _kept(store: Store, run: Run) -> Store:
    run.resources.callback(store.close)
    return store
