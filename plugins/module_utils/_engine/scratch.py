# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The throwaway server of a drill: the same image, no network, tuned for data that is going to be thrown away."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from .access import Access, access_to
from .errors import HostError
from .manifest import Manifest
from .model import human_bytes
from .preflight import room_for
from .relay import free_bytes_inside
from .startup import trouble_at_start

_READY_WAIT_S = 180.0
#: With so much WAL between two checkpoints; without fsync and full pages they cost little, and small hosts have little room.
_WAL_MB = 512
#: So much stays free on the disk that the live servers of the host write to as well.
_RESERVE_BYTES = 256_000_000
_SETTINGS = {
    "listen_addresses": "localhost",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "archive_mode": "off",
    "autovacuum": "off",
    "max_wal_size": f"{_WAL_MB}MB",
    "maintenance_work_mem": "128MB",
}


@contextmanager
def scratch(access: Access, manifest: Manifest) -> Iterator[Access]:
    """A fresh server of the image of `access`, as the cluster of `manifest` was; gone after the block.

    :raises HostError: there is no room for it, or it does not come up here.
    """
    _require_room(access, manifest)
    settings = dict(_SETTINGS)
    if manifest.source.preload_libraries:
        settings["shared_preload_libraries"] = manifest.source.preload_libraries
    command = ["postgres"]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with access.containers.throwaway(
        access.run,
        access.container.image_id,
        command,
        environment={
            "POSTGRES_USER": manifest.source.superuser,
            "POSTGRES_DB": "postgres",
            "POSTGRES_HOST_AUTH_METHOD": "trust",
            "POSTGRES_INITDB_ARGS": "--no-sync",
        },
        masked=["/docker-entrypoint-initdb.d"],
        shm_bytes=access.container.shm_bytes,
    ) as container:
        target = replace(
            access.target,
            container=container.name,
            user=manifest.source.superuser,
            login_password="",
            login_host="",
        )
        inside = access_to(access.run, access.containers, container, target)
        trouble = trouble_at_start(inside, _READY_WAIT_S)
        if trouble:
            lines = access.containers.logs(container.id, 50).splitlines()
            # The entrypoint's own last words do not say why.
            last = [
                line for line in lines if re.search(r"\b(FATAL|PANIC|[Ee]rror):", line)
            ] or lines
            raise HostError(
                f"The throwaway server of the drill {trouble}: {' | '.join(last[-3:]) or 'it logged nothing'}",
                state="Production was not touched",
                todo="Is there memory and disk enough for a second server?",
            )
        yield inside


def _require_room(access: Access, manifest: Manifest) -> None:
    """:raises HostError: with the database in a second server the disk would be full, or nearly."""
    if not manifest.source.database_bytes:
        return
    directory = access.containers.volumes_directory()
    try:
        free = free_bytes_inside(os.getpid(), directory)
    except OSError:
        # An engine in a virtual machine has its directories there.
        return
    needed = room_for(manifest.source.database_bytes) + (_WAL_MB << 20)
    if free < needed + _RESERVE_BYTES:
        raise HostError(
            f"The disk of {directory} has {human_bytes(free)} free, the throwaway server of the drill needs about "
            f"{human_bytes(needed)}, and {human_bytes(_RESERVE_BYTES)} have to stay free for the live ones",
            state="Production was not touched",
            todo="Free some space, or drill on another host",
        )
