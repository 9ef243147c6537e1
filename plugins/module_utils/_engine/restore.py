# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The restore: beside the live database and swapped in, or in its place; and the way back."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace as changed

from . import services
from .access import Access, open_access
from .catalog import cluster_identifier, database_bytes, database_oid, drop_database
from .errors import ConfigError, FiredrillError, RefusedError, TargetError
from .evidence import LIVE_LOCK_TIMEOUT, collect, holds_data
from .fetch import locate
from .hashing import sha256_of
from .journal import Entry
from .keyring import identity_of, open_key
from .killed import current_name, half_replaced, settle, unfinished_copy
from .load import check_evidence
from .model import Comparison, Report, human_bytes, human_seconds
from .preflight import Plan, examine, properties_here
from .recovery_set import RecoverySet
from .restoration import Restoration, RestoreRequest
from .restore_methods import replace, swap_in
from .run import Progress, Run
from .sealed import unseal
from .startup import trouble_at_start

METHODS = ("swap", "replace")
#: A new data directory and the scripts of the init directory take their time on an SD card.
_START_WAIT_S = 600.0
#: So many differences in a message.
_SHOWN = 3


def restore(request: RestoreRequest, progress: Progress | None = None) -> Report:
    """Restores a recovery set, or says why it is restored already; with `check` changes nothing.

    :raises RefusedError: preflight found reasons not to begin; nothing was touched.
    :raises FiredrillError: it failed; the text says in what state things are.
    """
    if request.method not in METHODS:
        raise ConfigError(f'"{request.method}" is no method of restore', todo="Use swap or replace")
    if request.fresh_cluster:
        # The other method drops the database before anybody can look what came into it meanwhile.
        request = changed(request, method="swap")
    identity = identity_of(request.identity, request.identity_file)
    with Run("restore", timeout_s=request.timeout_s, progress=progress) as run:
        access = open_access(run, request.target)
        with (
            run.lock(*access.lock_identity),
            open_key(run, identity) as key,
            ExitStack() as stack,
        ):
            if request.fresh_cluster:
                _await_server(access)
            return _restore(Restoration(access, request, key), stack)


def _await_server(access: Access) -> None:
    with access.run.phase("startup"):
        trouble = trouble_at_start(access, _START_WAIT_S)
    if trouble:
        raise TargetError(
            f"The server in container {access.container.name} {trouble}",
            state="Nothing was changed",
            todo=f"See `docker logs {access.container.name}`, then run this again when the server is up",
        )


def _digest(recovery_set: RecoverySet) -> str:
    """The SHA-256 of the dump, by which the journal knows it."""
    if recovery_set.manifest:
        return recovery_set.manifest.dump.sha256
    return sha256_of(recovery_set.path)


def _restore(work: Restoration, stack: ExitStack) -> Report:
    request, run = work.request, work.run
    with run.phase("preflight"):
        killed = work.journal.unfinished()
        if killed and not request.check:
            work.notes += settle(work.access, work.journal)
        located = locate(run, work.vault, request.source, request.target, request.offsite)
        work.notes += located.warnings
        known = located.opened(work.key, work.notes) if work.key.method else located.recovery_set
        present = _already_there(work, known)
        if present and not request.force:
            return _unchanged(work, known, present)
        if located.is_far:
            # Whether the key opens it is told before all of it comes down.
            known = located.opened(work.key, work.notes)
            if request.check:
                return _forecast_far(work, known)
        recovery_set = stack.enter_context(located.here(work.notes))
        if located.is_far:
            work.details["path"] = str(located.recovery_set.path)
        recovery_set = unseal(recovery_set, work.key)
        lost = half_replaced(work.access, work.journal)
        if lost and request.fresh_cluster:
            raise RefusedError(
                "The restore was refused",
                [f'what is left of database "{work.database}" is not of a fresh cluster'],
                state="Nothing was changed",
                todo="Restore a set without `fresh_cluster`",
            )
        plan = _examine(
            work,
            recovery_set,
            "replace" if lost else request.method,
            _copy_bytes(work, killed) if killed else 0,
        )
        if lost:
            _take_over(work, lost, plan)
        plan.require_clean()
        if plan.live_oid is not None and request.wants_safety_dump:
            work.prepare_safety_dump()
    if request.check:
        return _forecast(work, plan)
    # The set may lie elsewhere; the journal lies here.
    work.vault.prepare()
    # What a killed run left has to stay known, whatever becomes of this one.
    work.tidy = not lost
    entry = work.journal.write(
        Entry(
            run=run.id,
            action="restore",
            method=request.method if plan.live_oid is not None else "replace",
            container=work.access.container.name,
            database=work.database,
            set_name=recovery_set.name,
            sha256=_digest(recovery_set),
            cluster=_cluster(work),
            live_oid=lost.live_oid if lost else plan.live_oid or 0,
            # Killed at any later step, it leaves as little as there is now.
            step="replacing" if lost else "begun",
            safety_set=lost.safety_set if lost else "",
            stopped=lost.stopped if lost else (),
        )
    )
    try:
        if entry.method == "swap":
            entry, comparison = swap_in(work, entry, plan)
        else:
            entry, comparison = replace(work, entry, plan)
    except BaseException as error:
        with suppress(FiredrillError):
            if (left := work.journal.unfinished()) and left.run == run.id and work.tidy:
                work.journal.write(left, step="failed", reason=type(error).__name__)
        raise
    work.journal.write(entry, step="done", seconds=round(run.elapsed_s, 3))
    _await_application(work, entry)
    if not request.keep_previous and entry.previous_name:
        _drop_previous(work, entry)
    return _report(work, plan, comparison)


def _drop_previous(work: Restoration, entry: Entry) -> None:
    """Only what nobody misses goes: of a fresh cluster what is empty, else what the safety dump holds all of.

    Nobody can write to it under this name.
    """
    name = entry.previous_name
    if entry.safety_set and not work.request.fresh_cluster:
        with work.run.phase("compare"):
            since = _written_since(work, entry)
        if since:
            work.notes.append(
                f'what was live before is kept as "{name}", since it is not what the safety dump {entry.safety_set} '
                f"holds ({since}); drop it when nobody misses it"
            )
            return
    if work.request.fresh_cluster and holds_data(work.access.server, name):
        work.notes.append(
            f'database "{work.database}" held data before this restore, so it is kept as "{name}"; drop it when nobody misses it'
        )
        return
    with work.access.server.maintenance(work.database) as session:
        drop_database(session, name)
    work.details["previous"] = ""


def _written_since(work: Restoration, entry: Entry) -> str:
    """In what the database from before is unlike its safety dump, for it was live until the swap; "" when in nothing."""
    try:
        safety = unseal(work.vault.resolve(entry.safety_set, work.database), work.safety_key)
        manifest = safety.require_manifest()
        found = check_evidence(work.access, entry.previous_name, manifest)
    except FiredrillError as error:
        return f"the two could not be compared: {error.what}"
    return "; ".join([*found.differences, *found.unread][:_SHOWN])


def _take_over(work: Restoration, lost: Entry, plan: Plan) -> None:
    """What may have the live name after a killed `replace` is nothing to keep, and not what it was like."""
    plan.live_oid = None
    plan.rows_live = {}
    containers = work.access.containers
    gone = [ident for ident in lost.stopped if services.gone(containers, ident)]
    work.notes += [
        f"container {ident[:12]}, which the killed restore had stopped, is gone" for ident in gone
    ]
    there = [ident for ident in lost.stopped if ident not in gone]
    plan.running_services = tuple(dict.fromkeys([*there, *plan.running_services]))
    manifest = plan.manifest
    if lost.safety_set:
        with suppress(FiredrillError):
            safety = work.vault.resolve(lost.safety_set, work.database)
            manifest = unseal(safety, work.key).require_manifest()
    if manifest:
        with work.access.server.maintenance(work.database) as session:
            plan.properties = properties_here(plan, session, manifest.properties)


def _copy_bytes(work: Restoration, killed: Entry) -> int:
    """What the unfinished copy of a killed run takes, which goes before anything is restored."""
    with work.access.server.maintenance(work.database) as session:
        copy = unfinished_copy(session, killed)
        return database_bytes(session, copy) if copy else 0


def _examine(work: Restoration, recovery_set: RecoverySet, method: str, copy_bytes: int) -> Plan:
    request = work.request
    return examine(
        work.access,
        work.vault,
        recovery_set,
        method=method,
        verify=request.verify,
        force=request.force,
        superusers=request.restore_superusers,
        fresh_cluster=request.fresh_cluster,
        stop_services=request.stop_services,
        post_sql=request.post_sql,
        copy_bytes=copy_bytes,
    )


def _cluster(work: Restoration) -> str:
    with work.access.server.maintenance(work.database) as session:
        return cluster_identifier(session)


def _already_there(work: Restoration, recovery_set: RecoverySet) -> Entry | None:
    last = work.journal.last()
    if not (last and last.action == "restore" and last.step == "done"):
        return None
    if work.request.verify and not recovery_set.manifest:
        return None
    if last.sha256 != _digest(recovery_set):
        return None
    with work.access.server.maintenance(work.database) as session:
        # The first database of each new cluster has the same OID.
        clusters = {last.cluster, cluster_identifier(session)} - {""}
        is_there = len(clusters) < 2 and database_oid(session, work.database) == last.new_oid
    return last if is_there else None


def _unchanged(work: Restoration, recovery_set: RecoverySet, entry: Entry) -> Report:
    manifest = recovery_set.manifest
    before = manifest.evidence.counts() if manifest else {}
    try:
        found = collect(work.access.server, work.database, "counts", lock_timeout=LIVE_LOCK_TIMEOUT)
    except FiredrillError as error:
        raise TargetError(
            f"{recovery_set.name} was restored at {entry.at}, but the database cannot be read now: {error.what}",
            state="Nothing was changed",
            todo="`force` restores it once more",
        ) from error
    now = found.counts()
    unread = {table.label for table in found.tables if table.rows is None}
    moved = [
        f"{label} {before.get(label, 0)} -> {now.get(label, 0)}"
        for label in sorted({*before, *now})
        if before.get(label, 0) != now.get(label, 0) and label not in unread
    ]
    with work.access.server.maintenance(work.database) as session:
        previous = current_name(session, entry.live_oid)
    since = (
        f"; rows written since: {', '.join(moved[:10])}"
        if moved
        else "; no table has other counts now"
    )
    if found.unread:
        since += f"; rows are not known for {', '.join(found.unread[:10])}"
    if not manifest or manifest.evidence.level == "none":
        since = "; the set has no evidence that would show what was written since"
    if recovery_set.locked:
        since = "; without its private key nobody can tell what was written since"
    return _outcome(
        work,
        recovery_set,
        changed=False,
        msg=f"{recovery_set.name} was restored at {entry.at} and is what is in the database{since}",
        rows_before=now,
        rows_after=now,
        previous=previous,
    )


def _forecast(work: Restoration, plan: Plan) -> Report:
    request = work.request
    how = f"beside the live database ({human_bytes(plan.live_bytes)}) and swap it in"
    if plan.live_oid is None:
        how = "into a new database, there is none now"
    elif request.method == "replace":
        how = "in place of the live database, which is dropped" + (
            " after a safety dump" if request.safety_dump else " WITHOUT a safety dump"
        )
    stops = [work.access.containers.name_of(ident) for ident in plan.running_services]
    return _outcome(
        work,
        plan.recovery_set,
        changed=True,
        msg=f"Would restore {plan.recovery_set.name} {how}; stops {', '.join(stops) or 'nothing'} meanwhile",
        plan=plan,
        rows_before=plan.rows_live,
        rows_after=plan.rows_set,
    )


def _forecast_far(work: Restoration, recovery_set: RecoverySet) -> Report:
    """Nothing but the manifest was downloaded, so of the set nothing else was looked at."""
    with work.access.server.maintenance(work.database) as session:
        is_live = database_oid(session, work.database) is not None
    if is_live and work.request.wants_safety_dump:
        work.prepare_safety_dump()
    manifest = recovery_set.require_manifest()
    size = human_bytes(sum(entry.bytes for entry in manifest.entries))
    return _outcome(
        work,
        recovery_set,
        changed=True,
        msg=f"Would download {recovery_set.path} ({size}), look at it and restore it by {work.request.method}",
        rows_before={},
        rows_after=manifest.evidence.counts(),
    )


def _await_application(work: Restoration, entry: Entry) -> None:
    if entry.stopped:
        with work.run.phase("application"):
            work.notes += services.await_health(work.access.containers, entry.stopped)


def _report(work: Restoration, plan: Plan, comparison: Comparison) -> Report:
    equal = (
        f"{comparison.compared} tables equal to the manifest"
        if comparison.compared
        else "rows were not compared"
    )
    work.details.update(
        differences=list(comparison.differences), not_compared=list(comparison.not_compared)
    )
    return _outcome(
        work,
        plan.recovery_set,
        changed=True,
        msg=(
            f"{plan.recovery_set.name} was restored in {human_seconds(work.run.elapsed_s)}, {equal}; "
            f"the application was stopped for {human_seconds(work.run.phases.get('downtime', 0.0))}"
        ),
        plan=plan,
        rows_before=plan.rows_live,
        rows_after=plan.rows_set if work.rows_after is None else work.rows_after,
    )


def _outcome(
    work: Restoration,
    recovery_set: RecoverySet,
    *,
    changed: bool,
    msg: str,
    rows_before: dict[str, int],
    rows_after: dict[str, int],
    plan: Plan | None = None,
    previous: str = "",
) -> Report:
    phases = dict(work.run.phases)
    earlier = plan.earlier if plan else None
    names = work.access.containers.name_of
    return Report(
        action="restore",
        changed=changed,
        msg=msg,
        database=work.database,
        container=work.access.container.name,
        set_name=recovery_set.name,
        phases=phases,
        warnings=[*work.notes, *(plan.warnings if plan else [])],
        details={
            "path": str(recovery_set.path),
            "previous": previous,
            "downtime_s": phases.get("downtime", 0.0),
            "stopped": [names(ident) for ident in plan.running_services] if plan else [],
            "rows_before": rows_before,
            "rows_after": rows_after,
            "earlier_set": earlier.name if earlier else "",
            "rows_earlier": earlier.evidence.counts() if earlier else {},
            "differences": [],
            "not_compared": [],
            **work.details,
        },
    )
