# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two methods of a restore: beside the live database and swapped in, or in its place."""

from __future__ import annotations

from contextlib import suppress

from . import services
from .catalog import apply_properties, create_database, drop_database
from .cutover import cut_over
from .errors import FiredrillError, RefusedError, ServerError, TargetError
from .journal import Entry
from .killed import current_name, found_database
from .load import analyze, check_evidence, load, require_equal
from .model import Comparison, DatabaseProperties
from .preflight import Plan
from .restoration import Restoration, known_properties
from .sealed import unseal
from .server import Session
from .swap import beside

_DROP_ATTEMPTS = 4


def swap_in(work: Restoration, entry: Entry, plan: Plan) -> tuple[Entry, Comparison]:
    """Restores beside the live database, then swaps the two; the live one is kept under another name.

    :returns: the journal's entry, whose `previous_name` is that name, and how the evidence compared.
    :raises FiredrillError: nothing was swapped, or the run's `state` says that it was all the same.
    """
    access, run = work.access, work.run
    run.state = "The live database was not touched and the application was not stopped"
    if not work.request.keep_previous and work.request.safety_dump:
        entry = work.dump_for_safety(entry)
    properties = known_properties(plan)
    with access.server.maintenance(work.database) as session:
        new_name = beside(session, work.database, "restore")
        entry = work.journal.write(entry, new_name=new_name)
        try:
            work.create_roles(session, plan)
            oid = create_database(session, new_name, properties)
            entry = work.journal.write(entry, step="created", new_oid=oid)
            comparison = work.fill(new_name, plan, properties)
            entry = work.journal.write(entry, step="stopping", stopped=plan.running_services)
            aside = beside(session, work.database, "before")
            entry, troubles = cut_over(access, work.journal, entry, session, aside=aside)
            work.notes += troubles
        except BaseException:
            _drop_copy(work, session, new_name, entry)
            raise
    work.details["previous"] = entry.previous_name
    return entry, comparison


def _drop_copy(work: Restoration, session: Session, name: str, entry: Entry) -> None:
    """After a failure: the unfinished copy goes, unless it is the live database by now."""
    work.tidy = False
    try:
        if entry.new_oid and current_name(session, entry.new_oid) not in ("", name):
            return
        drop_database(session, name)
        work.tidy = True
    except FiredrillError:
        with suppress(FiredrillError), work.access.server.maintenance(work.database) as again:
            if not entry.new_oid or current_name(again, entry.new_oid) in ("", name):
                drop_database(again, name)
                work.tidy = True
    if not work.tidy:
        work.run.state += f'; the unfinished copy "{name}" is still there, the next run removes it'


def replace(work: Restoration, entry: Entry, plan: Plan) -> tuple[Entry, Comparison]:
    """Drops the live database and restores in its place, for hosts without the disk for two copies.

    :returns: the journal's entry, and how the evidence compared.
    :raises FiredrillError: what was live before was put back from the safety dump; where that was not
        possible, the run's `state` says so and the application stays stopped.
    """
    access, run = work.access, work.run
    run.state = "The live database was not touched and the application was not stopped"
    properties = known_properties(plan)
    # A killed run may have left the database incomplete; then there is no way back before this step.
    whole = work.tidy = entry.step != "replacing"
    _require_droppable(work)
    entry = work.journal.write(
        entry,
        step="stopping" if whole else entry.step,
        stopped=plan.running_services,
        new_name=work.database,
    )
    try:
        with access.server.maintenance(work.database) as session, run.phase("downtime"):
            run.state = (
                "The live database is as it was"
                if whole
                else f'Database "{work.database}" is incomplete'
            )
            services.stop(run, access.containers, entry.stopped)
            if plan.live_oid is not None and work.request.safety_dump:
                # Not before: what the application writes until it stops has to be in it.
                entry = _dump_stopped(work, entry)
            work.create_roles(session, plan)
            try:
                entry = work.journal.write(entry, step="replacing")
                whole = False
                work.tidy = False
                run.state = f'Database "{work.database}" is incomplete'
                # An interruption is looked at when it is known whether the database is there still.
                with run.undisturbed():
                    _drop_live(session, work.database)
                oid = create_database(session, work.database, properties)
                entry = work.journal.write(entry, step="created", new_oid=oid)
                comparison = work.fill(work.database, plan, properties)
                with run.undisturbed():
                    entry = work.journal.write(entry, step="swapped")
                    whole = True
                    run.state = "The restore is complete"
            except BaseException:
                if not whole:
                    with run.undisturbed():
                        whole = _is_untouched(work, entry) or _return_to_safety(
                            work, entry, properties
                        )
                raise
    finally:
        if whole:
            with run.undisturbed(), run.phase("downtime"):
                troubles = services.start(access.containers, entry.stopped)
                work.notes += troubles
                if entry.stopped:
                    run.state += "; " + ("; ".join(troubles) or "the application was started again")
                if entry.step == "swapped":
                    entry = work.journal.write(entry, step="done")
        else:
            names = [access.containers.name_of(ident) for ident in entry.stopped]
            run.state += (
                f"; {', '.join(names) or 'the application'} stays stopped until a restore succeeds"
            )
    return entry, comparison


def _require_droppable(work: Restoration) -> None:
    """:raises RefusedError: the server drops no template database."""
    with work.access.server.maintenance(work.database) as session:
        is_template = session.value(
            "SELECT datistemplate FROM pg_database WHERE datname = %s", work.database
        )
    if is_template:
        raise RefusedError(
            "The restore was refused",
            [f'database "{work.database}" is a template, which the server does not drop'],
            state=work.run.state,
            todo=f'Use `method: swap`, or ALTER DATABASE "{work.database}" IS_TEMPLATE false',
        )


def _dump_stopped(work: Restoration, entry: Entry) -> Entry:
    """Makes the safety dump while nothing of the application runs."""
    try:
        entry = work.dump_for_safety(entry)
    finally:
        work.run.state = _as_it_was(entry)
    return entry


def _as_it_was(entry: Entry) -> str:
    kept = f" (a safety dump of it is {entry.safety_set})" if entry.safety_set else ""
    return f"The live database is as it was{kept}"


def _drop_live(session: Session, name: str) -> None:
    """Drops the live database, after a few attempts if somebody stays connected.

    :raises TargetError: the server refused.
    """
    for attempt in range(1, _DROP_ATTEMPTS + 1):
        try:
            drop_database(session, name)
            return
        except ServerError as error:
            # 55006: somebody is connected, whom the server could not get rid of in its five seconds.
            if error.sqlstate != "55006" or attempt == _DROP_ATTEMPTS:
                raise TargetError(
                    f'Database "{name}" could not be dropped: {error.what}',
                    todo="Remove what keeps it, then run this again",
                ) from error


def _is_untouched(work: Restoration, entry: Entry) -> bool:
    """Whether the database that was live is there still, because the DROP was refused or never begun."""
    if not entry.live_oid:
        return False
    try:
        with work.access.server.maintenance(work.database) as session:
            if found_database(session, work.database) != (entry.live_oid, False):
                return False
    except FiredrillError:
        return False
    work.run.state = _as_it_was(entry)
    work.tidy = True
    return True


def _return_to_safety(work: Restoration, entry: Entry, properties: DatabaseProperties) -> bool:
    """Puts back what was there before a `replace` that failed; returns whether that worked.

    For the journal it is one more database that is made in place of the live one: killed in here, it is as incomplete.
    """
    run, journal = work.run, work.journal
    if not entry.safety_set:
        return False
    run.state = (
        f'Database "{work.database}" is incomplete; what was there before is in the set '
        f"{entry.safety_set}"
    )
    oid = 0
    try:
        safety = work.vault.resolve(entry.safety_set, work.database)
        safety = unseal(safety, work.safety_key)
        with run.phase("return"), work.access.server.maintenance(work.database) as session:
            # A journal that cannot be written, on a full disk for instance, is no reason to leave it at that.
            with suppress(FiredrillError):
                entry = journal.write(entry, step="replacing")
            drop_database(session, work.database)
            oid = create_database(session, work.database, properties)
            with suppress(FiredrillError):
                entry = journal.write(entry, step="created", new_oid=oid)
            load(work.access, safety, work.database, jobs=work.request.jobs)
            manifest = safety.require_manifest()
            require_equal(check_evidence(work.access, work.database, manifest), safety.name)
            with work.access.server.session(work.database) as inside:
                apply_properties(inside, work.database, properties)
            analyze(work.access, work.database)
    except FiredrillError as error:
        run.state += f", which could not be put back: {error.what}"
        if oid and entry.new_oid != oid:
            # The next run would take it for a whole one that somebody made; that there is none tells it.
            with suppress(FiredrillError), work.access.server.maintenance(work.database) as session:
                drop_database(session, work.database)
        return False
    run.state = f"What was there before was put back from the set {entry.safety_set}"
    work.tidy = True
    return True
