# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cut-over: stop the application, swap two databases, start the application again, swapped or not."""

from __future__ import annotations

from . import services
from .access import Access
from .catalog import database_oid
from .errors import FiredrillError
from .journal import Entry, Journal
from .server import Session
from .swap import exchange


def cut_over(
    access: Access, journal: Journal, entry: Entry, session: Session, *, aside: str
) -> tuple[Entry, list[str]]:
    """Puts the database `entry.new_name` in the place of the live one, which is called `aside` afterwards.

    :param session: a session in another database of the server.
    :returns: the journal's entry, and what went wrong with starting the application, in words.
    :raises FiredrillError: nothing was swapped; the application was started again.
    """
    run, live = access.run, entry.database
    troubles: list[str] = []
    try:
        with run.phase("downtime"):
            run.state = "The live database is as it was"
            services.stop(run, access.containers, entry.stopped)
            entry = journal.write(entry, step="swapping", previous_name=aside)
            exchange(access, session, live=live, aside=aside, incoming=entry.new_name)
            run.state = f'The swap is complete, the database before is "{aside}"'
            entry = journal.write(entry, step="swapped")
    except BaseException:
        # An interruption may hit after the COMMIT; the OID tells.
        if entry.step == "swapping" and _swapped(access, entry):
            run.state = f'The swap is complete all the same, the database before is "{aside}"'
            # It is done when the application runs: a kill before that must not be the end of it.
            entry = journal.write(entry, step="swapped")
        raise
    finally:
        with run.undisturbed(), run.phase("downtime"):
            troubles += services.start(access.containers, entry.stopped)
            if entry.stopped:
                run.state += "; " + ("; ".join(troubles) or "the application was started again")
            if entry.step == "swapped":
                entry = journal.write(entry, step="done")
    return entry, troubles


def _swapped(access: Access, entry: Entry) -> bool:
    try:
        with access.server.maintenance(entry.database) as session:
            return database_oid(session, entry.database) == entry.new_oid
    except FiredrillError:
        return False
