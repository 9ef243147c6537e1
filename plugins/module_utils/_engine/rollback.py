# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rollback: the database from before the last swap comes back; the restored one is kept aside."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from . import catalog, services
from .access import Access, open_access
from .cutover import cut_over
from .errors import FiredrillError, RefusedError, SetError
from .journal import Entry, Journal
from .killed import current_name, found_database, settle
from .model import Report, human_seconds
from .restoration import RestoreRequest
from .run import Progress, Run
from .server import Session
from .swap import beside


def roll_back(request: RestoreRequest, progress: Progress | None = None) -> Report:
    """Swaps back to what was live before the last restore; unchanged when that was done already.

    :raises SetError: there is no restore to go back from, or what was before is gone.
    :raises FiredrillError: it failed; the text says in what state things are.
    """
    with Run("rollback", timeout_s=request.timeout_s, progress=progress) as run:
        access = open_access(run, request.target)
        with run.lock(*access.lock_identity):
            return _roll_back(access, request)


def _roll_back(access: Access, request: RestoreRequest) -> Report:
    run, database = access.run, request.target.database
    journal = Journal(request.directory, access.container.name, database)
    notes = settle(access, journal) if not request.check else []
    last = journal.last()
    if last and last.action == "rollback":
        return _report(
            access,
            last,
            f"The restore of {last.set_name} was rolled back at {last.at} already",
            notes,
        )
    last = _undoable(last, request.directory, database)
    with access.server.maintenance(database) as session:
        with run.phase("preflight"):
            previous, live_oid = _examine(access, session, last)
            project = request.target.project or access.container.project
            named = services.running(access.containers, project, request.stop_services)
            stopped = tuple(dict.fromkeys([*named, *_still_running(access, last.stopped)]))
        if request.check:
            msg = f'Would swap "{previous}" back in and keep the present one'
            return _report(access, last, msg, notes, True)
        aside = beside(session, database, "undone")
        entry = journal.write(
            Entry(
                run=run.id,
                action="rollback",
                method="swap",
                container=access.container.name,
                database=database,
                step="stopping",
                set_name=last.set_name,
                live_oid=live_oid,
                new_oid=last.live_oid,
                new_name=previous,
                stopped=stopped,
            )
        )
        try:
            entry, troubles = cut_over(access, journal, entry, session, aside=aside)
        except BaseException as error:
            _close(journal, run.id, type(error).__name__)
            raise
    entry = journal.write(entry, step="done")
    with run.phase("application"):
        troubles += services.await_health(access.containers, entry.stopped)
    downtime = human_seconds(run.phases.get("downtime", 0.0))
    msg = (
        f'What was live before {last.set_name} is back; the restored database is kept as "{aside}"; '
        f"the application was stopped for {downtime}"
    )
    return _report(access, entry, msg, [*notes, *troubles], True)


def _examine(access: Access, session: Session, last: Entry) -> tuple[str, int]:
    """The name that the database from before has now, and the OID of the live one.

    :raises RefusedError: they cannot be exchanged.
    """
    previous = current_name(session, last.live_oid)
    live_oid, unused_one = found_database(session, last.database)
    findings = catalog.obstacles(session, last.database)
    for name in filter(None, (last.database, previous)):
        if found_database(session, name)[1]:
            findings.append(
                f'a DROP of database "{name}" was cut short, it cannot be used any more'
            )
    if not previous:
        findings.append(f'the database from before the restore, "{last.previous_name}", is gone')
    if live_oid is None or live_oid != last.new_oid:
        findings.append(f"the live database is not the one that was restored from {last.set_name}")
    if findings:
        raise RefusedError(
            "The rollback was refused",
            findings,
            state="Nothing was changed",
            todo="Restore a set instead",
        )
    return previous, live_oid or 0


def _close(journal: Journal, run_id: str, reason: str) -> None:
    """Ends a rollback that swapped nothing in the journal; one that did is closed already."""
    with suppress(FiredrillError):
        left = journal.unfinished()
        if left and left.run == run_id:
            journal.write(left, step="failed", reason=reason)


def _undoable(last: Entry | None, directory: Path, database: str) -> Entry:
    if last is None:
        raise SetError(
            f'The journal in {directory} knows no restore of database "{database}"',
            state="Nothing was changed",
            todo="Is it the right directory?",
        )
    if not last.previous_name:
        hint = (
            f"restore its safety dump {last.safety_set}"
            if last.safety_set not in ("", last.set_name)
            else "restore an older set"
        )
        raise SetError(
            f"The restore of {last.set_name} at {last.at} kept no database to swap back",
            state="Nothing was changed",
            todo=f"To go back, {hint}",
        )
    return last


def _still_running(access: Access, idents: tuple[str, ...]) -> list[str]:
    """Those of the containers that the restore stopped which exist and run now."""
    return [ident for ident in idents if access.containers.runs(ident)]


def _report(
    access: Access, entry: Entry, msg: str, notes: list[str], changed: bool = False
) -> Report:
    return Report(
        action="rollback",
        changed=changed,
        msg=msg,
        database=entry.database,
        container=access.container.name,
        set_name=entry.set_name,
        phases=dict(access.run.phases),
        warnings=notes,
        details={
            "previous": entry.previous_name,
            "downtime_s": access.run.phases.get("downtime", 0.0),
        },
    )
