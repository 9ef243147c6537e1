# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a killed restore left: explained, and put in order before anything else happens to the database."""

from __future__ import annotations

from . import services
from .access import Access
from .catalog import database_oid, drop_database
from .errors import SetError
from .evidence import holds_data
from .journal import Entry, Journal
from .server import Session


def current_name(session: Session, oid: int) -> str:
    """The name that the database with this OID has now; "" when there is none."""
    found = session.value("SELECT datname FROM pg_database WHERE oid = %s", oid) if oid else None
    return str(found or "")


def found_database(session: Session, name: str) -> tuple[int | None, bool]:
    """The OID of a database, None when there is none; and whether a DROP that was cut short left it invalid."""
    rows = session.query(
        "SELECT oid::int8, datconnlimit = -2 FROM pg_database WHERE datname = %s", name
    )
    return (int(rows[0][0]), bool(rows[0][1])) if rows else (None, False)


def _may_have_dropped(entry: Entry) -> bool:
    return (
        entry.method == "replace"
        and entry.step in ("replacing", "swapping")
        and bool(entry.live_oid)
    )


def _is_half_replaced(access: Access, entry: Entry, session: Session) -> bool:
    """Whether a killed `replace` had dropped the live database, and nobody has made one with data in it since."""
    if not _may_have_dropped(entry):
        return False
    live_oid, invalid = found_database(session, entry.database)
    if live_oid is None or invalid:
        return True
    if live_oid == entry.live_oid:
        return False
    if live_oid == entry.new_oid:
        # What it fills gets the live name when it is complete, or from somebody's hand.
        return entry.step == "replacing"
    return not holds_data(access.server, entry.database)


def unfinished_copy(session: Session, entry: Entry) -> str:
    """The name of the database that a killed restore was filling; "" when there is none.

    A rollback's incoming database is the one to return to, never a copy to throw away.
    """
    if entry.action != "restore" or entry.new_name in ("", entry.database):
        return ""
    oid = database_oid(session, entry.new_name)
    return entry.new_name if oid and entry.new_oid in (0, oid) else ""


def half_replaced(access: Access, journal: Journal) -> Entry | None:
    """The killed `replace` that dropped the live database and brought none back; None when there is one."""
    entry = journal.unfinished()
    if entry is None:
        return None
    with access.server.maintenance(entry.database) as session:
        return entry if _is_half_replaced(access, entry, session) else None


def settle(access: Access, journal: Journal, *, patient: bool = False) -> list[str]:
    """Ends a run that was killed in the middle, from its journal; says what was found and done.

    Where a `replace` dropped the database and brought none back, only another restore can help, and the
    application stays stopped until then.

    :param patient: as long as a container that is to be started does not start, the run is not ended either, so that
        it is tried again later.
    :raises FiredrillError: it could not be put in order.
    """
    entry = journal.unfinished()
    if entry is None:
        return []
    notes = _settle(access, journal, entry, patient=patient)
    # Should the run fail later, whoever reads why has to know this too.
    access.run.found += notes
    return notes


def _settle(access: Access, journal: Journal, entry: Entry, *, patient: bool) -> list[str]:
    database = access.target.database
    with access.server.maintenance(database) as session:
        notes = []
        if copy := unfinished_copy(session, entry):
            drop_database(session, copy)
            notes.append(f'its unfinished copy "{copy}" was dropped')
        if _is_half_replaced(access, entry, session):
            return [
                f"a restore of {entry.set_name} by replace was killed at {entry.at}: database "
                f'"{database}" was dropped and is not back'
                + (
                    f"; what was there before is in the set {entry.safety_set}"
                    if entry.safety_set
                    else ""
                ),
                *notes,
                *_keep_stopped(access, entry),
            ]
        live_oid = database_oid(session, database)
        if _may_have_dropped(entry) and live_oid not in (entry.live_oid, entry.new_oid):
            return _leave_alone(access, journal, entry, notes)
        return _settle_swap(access, journal, entry, live_oid, notes, patient=patient)


def _keep_stopped(access: Access, entry: Entry) -> list[str]:
    """Stops what was started since, by the engine when the host came up for instance: it finds no database."""
    ran = [ident for ident in entry.stopped if access.containers.runs(ident)]
    services.stop(access.run, access.containers, ran)
    if entry.stopped:
        access.run.state = "The application stays stopped"
    if not ran:
        return []
    names = ", ".join(access.containers.name_of(ident) for ident in ran)
    return [f"{names} had been started without it and was stopped"]


def _leave_alone(access: Access, journal: Journal, entry: Entry, done: list[str]) -> list[str]:
    """Whoever made the live database since is not known, nor whether it is ready for the application."""
    notes = [
        (
            f"a restore of {entry.set_name} by replace was killed at {entry.at}; database "
            f'"{entry.database}" was made by somebody else since, and is left as it is'
        ),
        *done,
    ]
    if entry.safety_set:
        notes.append(f"what was there before the restore is in the set {entry.safety_set}")
    idle = [ident for ident in entry.stopped if not access.containers.runs(ident)]
    if idle:
        names = " ".join(access.containers.name_of(ident) for ident in idle)
        notes.append(f"what the restore had stopped was not started: `docker start {names}`")
    journal.write(entry, step="failed", reason="settled by a later run")
    return notes


def _settle_swap(
    access: Access,
    journal: Journal,
    entry: Entry,
    live_oid: int | None,
    done: list[str],
    *,
    patient: bool,
) -> list[str]:
    what = f"a {entry.action} of {entry.set_name or entry.previous_name} was killed at {entry.at}"
    if entry.new_oid and live_oid == entry.new_oid:
        when = "swapped" if entry.method == "swap" else "restored"
        notes = [f"{what}, after the database had been {when}: it is complete", *done]
        outcome = "done"
    else:
        now = "the live database is as it was"
        if live_oid is None:
            now = f'there is no database "{entry.database}"'
        notes = [f"{what}, before the databases were swapped: {now}", *done]
        outcome = "failed"
    if entry.stopped:
        troubles = services.failing(access.containers, entry.stopped)
        notes += list(troubles.values()) or [
            f"{len(entry.stopped)} containers that it had stopped were started again"
        ]
        if patient and any(not services.gone(access.containers, ident) for ident in troubles):
            return notes
    journal.write(entry, step=outcome, reason="settled by a later run")
    return notes


def require_complete(access: Access, journal: Journal) -> list[str]:
    """Ends a run that was killed, as a patient settle() does; for who reads the live database.

    :raises SetError: a killed `replace` brought none back.
    """
    notes = settle(access, journal, patient=True)
    if half_replaced(access, journal):
        access.run.found.clear()
        raise SetError(
            f"There is nothing to dump: {'; '.join(notes)}",
            state=access.run.state,
            todo="Restore a set first",
        )
    return notes
