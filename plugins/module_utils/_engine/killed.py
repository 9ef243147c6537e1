# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a killed restore left: explained, and put in order before anything else happens to the database."""

from __future__ import annotations

from . import services
from .access import Access
from .catalog import database_oid, drop_database
from .errors import SetError
from .journal import Entry, Journal
from .server import Session


def current_name(session: Session, oid: int) -> str:
    """The name that the database with this OID has now; "" when there is none."""
    found = session.value("SELECT datname FROM pg_database WHERE oid = %s", oid) if oid else None
    return str(found or "")


def _is_half_replaced(entry: Entry, live_oid: int | None) -> bool:
    return (
        entry.method == "replace"
        and entry.step in ("replacing", "created")
        and live_oid != entry.live_oid
    )


def half_replaced(access: Access, journal: Journal) -> Entry | None:
    """The killed `replace` that left the database incomplete; None when it is complete."""
    entry = journal.unfinished()
    if entry is None:
        return None
    with access.server.maintenance(entry.database) as session:
        live_oid = database_oid(session, entry.database)
    return entry if _is_half_replaced(entry, live_oid) else None


def settle(access: Access, journal: Journal) -> list[str]:
    """Ends a run that was killed in the middle, from its journal; says what was found and done.

    A database that a `replace` left incomplete stays so: only another restore can help, and the
    application stays stopped until then.

    :raises FiredrillError: it could not be put in order.
    """
    entry = journal.unfinished()
    if entry is None:
        return []
    notes = _settle(access, journal, entry)
    # Should the run fail later, whoever reads why has to know this too.
    access.run.found += notes
    return notes


def _settle(access: Access, journal: Journal, entry: Entry) -> list[str]:
    database = access.target.database
    with access.server.maintenance(database) as session:
        live_oid = database_oid(session, database)
        if _is_half_replaced(entry, live_oid):
            return [
                f"a restore of {entry.set_name} by replace was killed at {entry.at} and left database "
                f'"{database}" incomplete'
                + (
                    f"; what was there before is in the set {entry.safety_set}"
                    if entry.safety_set
                    else ""
                )
            ]
        return _settle_swap(access, journal, entry, session, live_oid)


def _settle_swap(
    access: Access, journal: Journal, entry: Entry, session: Session, live_oid: int | None
) -> list[str]:
    what = f"a {entry.action} of {entry.set_name or entry.previous_name} was killed at {entry.at}"
    if entry.new_oid and live_oid == entry.new_oid:
        when = "swapped" if entry.method == "swap" else "restored"
        notes = [f"{what}, after the database had been {when}: it is complete"]
        outcome = "done"
    else:
        notes = [f"{what}, before the databases were swapped: the live database is as it was"]
        outcome = "failed"
        # A rollback's incoming database is the one to return to, never a copy to throw away.
        if entry.action == "restore" and entry.method == "swap" and entry.new_name:
            name = current_name(session, entry.new_oid) if entry.new_oid else entry.new_name
            if name and name == entry.new_name:
                drop_database(session, name)
                notes.append(f'its unfinished copy "{name}" was dropped')
    if entry.stopped:
        troubles = services.start(access.containers, entry.stopped)
        notes += troubles or [
            f"{len(entry.stopped)} containers that it had stopped were started again"
        ]
    journal.write(entry, step=outcome, reason="settled by a later run")
    return notes


def require_complete(access: Access, journal: Journal) -> list[str]:
    """Ends a run that was killed, as settle() does; for who reads the live database.

    :raises SetError: a killed `replace` left it incomplete.
    """
    notes = settle(access, journal)
    if journal.unfinished():
        access.run.found.clear()
        raise SetError(
            f"There is nothing complete to dump: {'; '.join(notes)}",
            state="Nothing was changed",
            todo="Restore a set first",
        )
    return notes
