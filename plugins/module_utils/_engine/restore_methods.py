# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two methods of a restore: beside the live database and swapped in, or in its place."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace as changed

from . import services
from .catalog import (
    apply_properties,
    create_database,
    database_oid,
    drop_database,
    read_extensions,
)
from .cutover import cut_over
from .errors import FiredrillError, RefusedError, ServerError, TargetError
from .journal import Entry
from .killed import current_name, found_database, unfinished_copy
from .load import analyze, check_evidence, load, require_equal
from .model import Comparison, DatabaseProperties
from .preflight import Plan
from .restoration import Restoration, known_properties
from .sealed import unseal
from .server import Session, composed, wait_until
from .swap import beside, exchange

#: So long a server that a load brought down may take to come up again.
_SERVER_WAIT_S = 60.0


def swap_in(work: Restoration, entry: Entry, plan: Plan) -> tuple[Entry, Comparison]:
    """Restores beside the live database, then swaps the two; the live one is kept under another name.

    :returns: the journal's entry, whose `previous_name` is that name, and how the evidence compared.
    :raises FiredrillError: nothing was swapped, or the run's `state` says that it was all the same.
    """
    access, run = work.access, work.run
    run.state = "The live database was not touched and the application was not stopped"
    if work.request.wants_safety_dump:
        entry = work.dump_for_safety(entry)
    properties = known_properties(plan)
    with access.server.maintenance(work.database) as session:
        entry = work.journal.write(entry, new_name=beside(session, work.database, "restore"))
        try:
            work.create_roles(session, plan)
            entry = _create_copy(work, session, entry, properties, _extensions(plan))
            entry = work.journal.write(entry, step="created")
            comparison = work.fill(entry.new_name, plan, properties)
            entry = work.journal.write(entry, step="stopping", stopped=plan.running_services)
            aside = beside(session, work.database, "before")
            entry, troubles = cut_over(access, work.journal, entry, session, aside=aside)
            work.notes += troubles
        except BaseException:
            run.state += _drop_copy(work, entry)
            raise
    work.details["previous"] = entry.previous_name
    return entry, comparison


def _extensions(plan: Plan) -> set[str]:
    return {one.name for one in plan.manifest.extensions} if plan.manifest else set()


def _live_extensions(work: Restoration) -> set[str]:
    # A database that cannot be read is no reason to keep it.
    with suppress(FiredrillError), work.access.server.session(work.database) as live:
        return {one.name for one in read_extensions(live)}
    return set()


def _create_copy(
    work: Restoration,
    session: Session,
    entry: Entry,
    properties: DatabaseProperties,
    extensions: set[str],
) -> Entry:
    """Creates the database `entry.new_name`, which is to be filled.

    :returns: the entry with its OID, which is in the journal too.
    :raises RefusedError: it cannot have these extensions, since it is called otherwise for instance.
    """
    with work.run.undisturbed():
        oid = create_database(session, entry.new_name, properties)
        entry = work.journal.write(entry, new_oid=oid)
    with work.access.server.session(entry.new_name) as inside:
        for name in sorted(extensions):
            _try_extension(work, inside, name)
    return entry


def _try_extension(work: Restoration, session: Session, name: str) -> None:
    session.execute("BEGIN")
    try:
        # Ours have no schema to create anything in.
        session.execute("SET LOCAL search_path = public")
        session.execute(composed("CREATE EXTENSION IF NOT EXISTS {} CASCADE", name))
    except ServerError as error:
        raise RefusedError(
            "The restore was refused",
            [
                f"extension {name} cannot be created in a database of another name, in which it is restored: {error.what}"
            ],
            state=work.run.state,
            todo="The plain commands of RECOVERY.md, beside the sets, restore under the name itself",
        ) from error
    finally:
        with suppress(FiredrillError):
            session.execute("ROLLBACK")


def _drop_copy(work: Restoration, entry: Entry) -> str:
    """After a failure: the unfinished copy goes, unless it is the live database by now; returns what is left, in words."""
    work.tidy = False
    _await_server(work)
    with suppress(FiredrillError), work.access.server.maintenance(work.database) as session:
        if entry.new_oid and current_name(session, entry.new_oid) not in ("", entry.new_name):
            return ""
        if copy := unfinished_copy(session, entry):
            drop_database(session, copy)
        work.tidy = True
        return ""
    return f'; the unfinished copy "{entry.new_name}" is still there, the next run removes it'


def replace(work: Restoration, entry: Entry, plan: Plan) -> tuple[Entry, Comparison]:
    """Drops the live database, then restores, for hosts without the disk for two copies.

    What is restored gets the live name when it is complete: whoever connects meanwhile, in spite of `stop_services`,
    is in nobody's way.

    :returns: the journal's entry, and how the evidence compared.
    :raises FiredrillError: what was live before was put back from the safety dump; where that was not
        possible, the run's `state` says so and the application stays stopped.
    """
    access, run = work.access, work.run
    # After a killed run there may be no way back any more.
    whole = work.tidy = entry.step != "replacing"
    if whole:
        run.state = "The live database was not touched and the application was not stopped"
    else:
        run.state = _dropped(work)
    properties = known_properties(plan)
    _require_droppable(work)
    wanted = _extensions(plan)
    if plan.live_oid is not None and work.request.safety_dump:
        # The way back needs them too.
        wanted |= _live_extensions(work)
    try:
        with access.server.maintenance(work.database) as session:
            entry = work.journal.write(entry, new_name=beside(session, work.database, "restore"))
            try:
                # What stands in its way is known before anything is stopped or dropped.
                entry = _create_copy(work, session, entry, properties, wanted)
                entry = work.journal.write(
                    entry,
                    step="stopping" if whole else entry.step,
                    stopped=plan.running_services,
                )
                with run.phase("downtime"):
                    if whole:
                        run.state = _as_it_was(entry)
                    services.stop(run, access.containers, entry.stopped)
                    if plan.live_oid is not None and work.request.safety_dump:
                        # Not before: what the application writes until it stops has to be in it.
                        entry = _dump_stopped(work, entry)
                    work.create_roles(session, plan)
                    if plan.live_oid is not None:
                        entry = work.journal.write(entry, step="replacing")
                        whole = False
                        run.state = _dropped(work)
                    if plan.live_oid is not None or found_database(session, work.database)[1]:
                        # An interruption is looked at when it is known whether the database is there still.
                        with run.undisturbed():
                            _drop_live(session, work.database)
                    comparison = work.fill(entry.new_name, plan, properties)
                    entry = work.journal.write(entry, step="swapping")
                    with run.undisturbed():
                        work.notes += _move_in(work, session, entry.new_name)
                        whole = True
                        run.state = "The restore is complete"
                        entry = work.journal.write(entry, step="swapped")
            except BaseException:
                with run.undisturbed(), run.phase("downtime"):
                    entry, whole = _left_by(work, entry, properties)
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
        elif entry.stopped:
            names = ", ".join(access.containers.name_of(ident) for ident in entry.stopped)
            run.state += f"; {names} stays stopped until a restore succeeds"
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
    if not entry.live_oid:
        return f'There is no database "{entry.database}", as before'
    kept = f" (a safety dump of it is {entry.safety_set})" if entry.safety_set else ""
    return f"The live database is as it was{kept}"


def _dropped(work: Restoration) -> str:
    return f'Database "{work.database}" was dropped and is not back'


def _drop_live(session: Session, name: str) -> None:
    """:raises TargetError: the server refused."""
    try:
        drop_database(session, name)
    except ServerError as error:
        raise TargetError(
            f'Database "{name}" could not be dropped: {error.what}',
            todo="Remove what keeps it, then run this again",
        ) from error


def _move_in(work: Restoration, session: Session, name: str) -> list[str]:
    """Gives a complete database the live name; returns what is to be told of it.

    :raises TargetError: it could not be renamed.
    """
    aside = beside(session, work.database, "before")
    exchange(work.access, session, live=work.database, aside=aside, incoming=name)
    if database_oid(session, aside) is None:
        return []
    return [f'a database "{work.database}" that somebody had made meanwhile is kept as "{aside}"']


def _left_by(work: Restoration, entry: Entry, properties: DatabaseProperties) -> tuple[Entry, bool]:
    """What a `replace` that failed leaves: the journal's entry, and whether the live database is as whole as it was before.

    The copy is dropped, and where the live database was dropped, what its safety dump holds is put back.
    """
    run = work.run
    before = entry.step not in ("replacing", "swapping") or not entry.live_oid
    found = _found_live(work)
    if not found:
        work.tidy = False
        if not before:
            run.state = (
                f'The server does not answer, so it is not known whether database "{work.database}" is there'
                + (f"; a safety dump of it is {entry.safety_set}" if entry.safety_set else "")
            )
        return entry, before
    live_oid, invalid = found[0]
    if entry.step in ("swapping", "swapped") and live_oid == entry.new_oid:
        # It is done when the application runs.
        work.tidy, run.state = False, "The restore is complete all the same"
        entry = changed(entry, step="swapped")
        with suppress(FiredrillError):
            work.journal.write(entry)
        return entry, True
    left = _drop_copy(work, entry)
    if not before and live_oid == entry.live_oid and not invalid:
        # The DROP was refused, or never begun.
        before, run.state = True, _as_it_was(entry)
    if before:
        run.state += left
        return entry, True
    run.state = _dropped(work) + left
    work.tidy = bool(entry.safety_set) and _return_to_safety(work, entry, properties)
    return entry, work.tidy


def _await_server(work: Restoration) -> None:
    """Waits for a server that the load brought down, on a full disk for instance, and that is coming up again."""
    access = work.access

    def answers() -> bool:
        # One whose container has ended is none that this run could reach.
        if not access.containers.unchanged(access.container):
            return True
        with suppress(FiredrillError), access.server.maintenance(work.database):
            return True
        return False

    wait_until(answers, _SERVER_WAIT_S)


def _found_live(work: Restoration) -> list[tuple[int | None, bool]]:
    """As found_database(), of the live one, from a server that may just be coming up again; empty when it does not answer."""
    found: list[tuple[int | None, bool]] = []

    def look() -> bool:
        with suppress(FiredrillError), work.access.server.maintenance(work.database) as session:
            found.append(found_database(session, work.database))
        return bool(found)

    wait_until(look, _SERVER_WAIT_S)
    return found


def _return_to_safety(work: Restoration, entry: Entry, properties: DatabaseProperties) -> bool:
    """Puts back what was there before a `replace` that failed; returns whether that worked.

    For the journal it is one more restore in place of the live one: killed in here, it goes on from there.
    """
    run, journal = work.run, work.journal
    run.state += f"; what was there before is in the set {entry.safety_set}"
    refused, told = list[str](), list[str]()
    try:
        safety = work.vault.resolve(entry.safety_set, work.database)
        safety = unseal(safety, work.safety_key)
        manifest = safety.require_manifest()
        with run.phase("return"), work.access.server.maintenance(work.database) as session:
            if found_database(session, work.database)[1]:
                # What a DROP that was cut short leaves can be nobody's.
                drop_database(session, work.database)
            name = beside(session, work.database, "return")
            entry = changed(
                entry,
                step="replacing",
                set_name=safety.name,
                sha256=manifest.dump.sha256,
                new_name=name,
                new_oid=0,
            )
            # A journal that cannot be written, on a full disk for instance, is no reason to leave it at that.
            with suppress(FiredrillError):
                journal.write(entry)
            entry = changed(entry, new_oid=create_database(session, name, properties))
            with suppress(FiredrillError):
                journal.write(entry)
            load(work.access, safety, name, jobs=work.request.jobs)
            require_equal(check_evidence(work.access, name, manifest), safety.name)
            with work.access.server.session(name) as inside:
                refused = apply_properties(inside, name, properties)
            analyze(work.access, name)
            entry = changed(entry, step="swapping")
            with suppress(FiredrillError):
                journal.write(entry)
            told = _move_in(work, session, name)
    except FiredrillError as error:
        found = _found_live(work)
        if entry.step != "swapping" or not found or found[0][0] != entry.new_oid:
            run.state += f", which could not be put back: {error.what}"
            if entry.new_name:
                run.state += _drop_copy(work, entry)
            return False
    run.state = f"What was there before was put back from the set {entry.safety_set}"
    if refused:
        run.state += f", but for properties that could not be set: {', '.join(refused)}"
    run.state = "; ".join([run.state, *told])
    return True
