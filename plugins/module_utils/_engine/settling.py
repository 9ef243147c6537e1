# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After a power cut or a kill: what a restore had stopped is started again, without anybody at the keyboard."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from .access import open_access
from .errors import BusyError, ConfigError, FiredrillError, HostError, InterruptedRun, SetError
from .journal import Entry, Journal
from .killed import half_replaced, settle
from .model import Report, Target
from .mounts import not_mounted
from .run import Progress, Run
from .server import wait_until
from .vault import Vault

_PAUSE_S = 3.0


@dataclass(frozen=True)
class SettleRequest:
    """Whose interrupted runs to settle, and how long to wait for the Docker engine and the server to come up."""

    target: Target
    directory: Path
    wait_s: float = 0


def interrupted(directory: Path, database: str) -> list[Entry]:
    """Runs of this host in the journal that have not ended, of whichever container; some may be under way right now."""
    entries = Journal(directory, "", database).entries()
    latest = {entry.container: entry for entry in entries if entry.ours}
    return [entry for entry in latest.values() if not entry.ended]


def settle_interrupted(request: SettleRequest, progress: Progress | None = None) -> Report:
    """Ends what was interrupted; without such a thing neither Docker nor the server is asked.

    :raises SetError: a `replace` was killed, so only another restore helps.
    :raises HostError: the disk with the journal is not mounted.
    :raises FiredrillError: it could not be done, or whatever has to be up for it is not.
    """
    database = request.target.database
    deadline = time.monotonic() + request.wait_s
    # At the boot the disk with the journal may come after us.
    wait_until(lambda: not not_mounted(request.directory), request.wait_s)
    Vault(request.directory).require_disk()
    if not interrupted(request.directory, database):
        return _report(database, "Nothing was interrupted")
    with Run("settle", progress=progress) as run:
        while True:
            try:
                with run.phase("wait for the server"):
                    return _settle(run, request)
            except BusyError as error:
                # Whoever holds the lock has settled it, or is what was taken for interrupted.
                return _report(database, f"Left alone: {error.what}")
            except (ConfigError, InterruptedRun, SetError):
                raise
            except FiredrillError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE_S)


def _settle(run: Run, request: SettleRequest) -> Report:
    access = open_access(run, request.target)
    database = request.target.database
    with run.lock(*access.lock_identity):
        journal = Journal(request.directory, access.container.name, database)
        if journal.unfinished() is None:
            return _report(
                database,
                f"Nothing was interrupted in container {access.container.name}, but something was in another: "
                f"see {journal.path}; when that one is gone, `firedrill acknowledge` ends it",
            )
        notes = settle(access, journal, patient=True)
        lost = half_replaced(access, journal)
    if lost:
        run.found.clear()
        raise SetError(
            "; ".join(notes),
            state=run.state,
            todo=f"Restore a set (`firedrill restore latest --database {database}`)",
        )
    if journal.unfinished():
        run.found.clear()
        raise HostError(
            "; ".join(notes),
            state="Not all of the application runs",
            todo="Make these containers start, or remove them (`docker rm`), then run this again",
        )
    return _report(database, "; ".join(notes), changed=True, container=access.container.name)


def _report(database: str, msg: str, *, changed: bool = False, container: str = "") -> Report:
    return Report(action="settle", changed=changed, msg=msg, database=database, container=container)
