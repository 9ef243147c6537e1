# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two methods of a restore: beside the live database and swapped in, or in its place."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace as changed

from . import services
from .catalog import apply_properties, create_database, database_oid, drop_database
from .cutover import cut_over
from .errors import FiredrillError, RefusedError, ServerError, TargetError
from .journal import Entry
from .killed import current_name, found_database, unfinished_copy
from .load import analyze, check_evidence, load, require_equal
from .model import Comparison, DatabaseProperties
from .preflight import Plan
from .restoration import Restoration, known_properties
from .sealed import unseal
from .server import Session
from .swap import beside, exchange

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
    """Drops the live database, then restores, for hosts without the disk for two copies.

    What is restored gets the live name when it is complete: whoever connects meanwhile, in spite of `stop_services`,
    is in nobody's way.

    :returns: the journal's entry, and how the evidence compared.
    :raises FiredrillError: what was live before was put back from the safety dump; where that was not
        possible, the run's `state` says so and the application stays stopped.
    """
    access, run = work.access, work.run
    run.state = "The live database was not touched and the application was not stopped"
    properties = known_properties(plan)
    # A killed run may have left none; then there is no way back before this step.
    whole = work.tidy = entry.step != "replacing"
    _require_droppable(work)
    entry = work.journal.write(
        entry,
        step="stopping" if whole else entry.step,
        stopped=plan.running_services,
    )
    try:
        with access.server.maintenance(work.database) as session, run.phase("downtime"):
            run.state = "The live database is as it was" if whole else _dropped(work)
            services.stop(run, access.containers, entry.stopped)
            if plan.live_oid is not None and work.request.safety_dump:
                # Not before: what the application writes until it stops has to be in it.
                entry = _dump_stopped(work, entry)
            work.create_roles(session, plan)
            try:
                new_name = beside(session, work.database, "restore")
                entry = work.journal.write(entry, step="replacing", new_name=new_name)
                whole = False
                work.tidy = False
                run.state = _dropped(work)
                # An interruption is looked at when it is known whether the database is there still.
                with run.undisturbed():
                    if plan.live_oid is not None or found_database(session, work.database)[1]:
                        _drop_live(session, work.database)
                oid = create_database(session, new_name, properties)
                entry = work.journal.write(entry, step="created", new_oid=oid)
                comparison = work.fill(new_name, plan, properties)
                with run.undisturbed():
                    work.notes += _move_in(work, session, new_name)
                    whole = True
                    run.state = "The restore is complete"
                    entry = work.journal.write(entry, step="swapped")
            except BaseException:
                if not whole:
                    with run.undisturbed():
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


def _dropped(work: Restoration) -> str:
    return f'Database "{work.database}" was dropped and is not back'


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


def _move_in(work: Restoration, session: Session, name: str) -> list[str]:
    """Gives a complete database the live name; returns what is to be told of it.

    :raises TargetError: it could not be renamed.
    """
    aside = beside(session, work.database, "before")
    exchange(work.access, session, live=work.database, aside=aside, incoming=name)
    if database_oid(session, aside) is None:
        return []
    return [
        f'somebody made a database "{work.database}" while it was being restored; that one is kept as "{aside}"'
    ]


def _left_by(work: Restoration, entry: Entry, properties: DatabaseProperties) -> tuple[Entry, bool]:
    """What a `replace` that failed in its middle leaves: the journal's entry, and whether the live database is whole."""
    live_oid, invalid = _found_live(work)
    if live_oid and not invalid and live_oid == entry.live_oid:
        # The DROP was refused, or never begun.
        work.run.state = _as_it_was(entry)
        work.tidy = True
        return entry, True
    if live_oid and live_oid == entry.new_oid:
        # The rename was not answered, and took place.
        work.run.state = "The restore is complete all the same"
        return work.journal.write(entry, step="swapped"), True
    return entry, _return_to_safety(work, entry, properties)


def _found_live(work: Restoration) -> tuple[int | None, bool]:
    """As found_database(), of the live one; none where the server does not say."""
    try:
        with work.access.server.maintenance(work.database) as session:
            return found_database(session, work.database)
    except FiredrillError:
        return None, False


def _return_to_safety(work: Restoration, entry: Entry, properties: DatabaseProperties) -> bool:
    """Puts back what was there before a `replace` that failed; returns whether that worked.

    For the journal it is one more restore in place of the live one: killed in here, it goes on from there.
    """
    run = work.run
    if not entry.safety_set:
        return False
    run.state = f"{_dropped(work)}; what was there before is in the set {entry.safety_set}"
    name, oid, refused, told = "", 0, list[str](), list[str]()
    try:
        safety = work.vault.resolve(entry.safety_set, work.database)
        safety = unseal(safety, work.safety_key)
        manifest = safety.require_manifest()
        with run.phase("return"), work.access.server.maintenance(work.database) as session:
            if copy := unfinished_copy(session, entry):
                drop_database(session, copy)
            if found_database(session, work.database)[1]:
                # What a DROP that was cut short leaves can be nobody's.
                drop_database(session, work.database)
            name = beside(session, work.database, "return")
            entry = changed(
                entry, set_name=safety.name, sha256=manifest.dump.sha256, new_name=name, new_oid=0
            )
            # A journal that cannot be written, on a full disk for instance, is no reason to leave it at that.
            with suppress(FiredrillError):
                work.journal.write(entry, step="replacing")
            oid = create_database(session, name, properties)
            with suppress(FiredrillError):
                work.journal.write(entry, step="created", new_oid=oid)
            load(work.access, safety, name, jobs=work.request.jobs)
            require_equal(check_evidence(work.access, name, manifest), safety.name)
            with work.access.server.session(name) as inside:
                refused = apply_properties(inside, name, properties)
            analyze(work.access, name)
            told = _move_in(work, session, name)
    except FiredrillError as error:
        if not oid or _found_live(work)[0] != oid:
            run.state += f", which could not be put back: {error.what}"
            with suppress(FiredrillError), work.access.server.maintenance(work.database) as session:
                drop_database(session, name)
            return False
    run.state = f"What was there before was put back from the set {entry.safety_set}"
    if refused:
        run.state += f", but for properties that could not be set: {', '.join(refused)}"
    run.state = "; ".join([run.state, *told])
    work.tidy = True
    return True
