# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The restore: beside the live database and swapped in, or in its place; and the way back."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import services
from .access import Access, open_access
from .catalog import apply_properties, create_database, database_oid, drop_database
from .cutover import cut_over
from .dump import BackupRequest, backup_with
from .errors import ConfigError, FiredrillError, RefusedError, ToolError
from .evidence import collect
from .fetch import Located, locate
from .journal import Entry, Journal
from .keyring import Key, identity_of, open_key
from .load import analyze, check_evidence, load, require_equal, run_scripts
from .model import (
    Comparison,
    DatabaseProperties,
    Encryption,
    Report,
    SqlScript,
    Target,
    human_bytes,
    human_seconds,
)
from .preflight import Plan, examine
from .recipients import prepare
from .recovery import current_name, half_replaced, settle
from .roles import create_roles
from .run import Progress, Run
from .sealed import unseal
from .server import Session
from .swap import beside
from .targets import Offsite
from .vault import RecoverySet, Vault, sha256_of

METHODS = ("swap", "replace")


@dataclass(frozen=True)
class RestoreRequest:
    """What to restore, from where and how; `jobs` 0 means one for each processor."""

    target: Target
    directory: Path
    source: str = "latest"
    method: str = "swap"
    stop_services: tuple[str, ...] = ()
    jobs: int = 0
    no_owner: bool = False
    no_privileges: bool = False
    post_sql: tuple[SqlScript, ...] = ()
    keep_previous: bool = True
    safety_dump: bool = True
    verify: bool = True
    force: bool = False
    restore_superusers: bool = False
    timeout_s: float = 0
    check: bool = False
    offsite: Offsite = field(default_factory=Offsite)
    #: Opens an encrypted set: a private key as it is, or its file.
    identity: str = field(default="", repr=False)
    identity_file: Path | None = None
    #: For the safety dump.
    encryption: Encryption | None = None


def restore(request: RestoreRequest, progress: Progress | None = None) -> Report:
    """Restores a recovery set, or says why it is restored already; with `check` changes nothing.

    :raises RefusedError: preflight found reasons not to begin; nothing was touched.
    :raises FiredrillError: it failed; the text says in what state things are.
    """
    if request.method not in METHODS:
        raise ConfigError(f'"{request.method}" is no method of restore', todo="Use swap or replace")
    identity = identity_of(request.identity, request.identity_file)
    with Run("restore", timeout_s=request.timeout_s, progress=progress) as run:
        access = open_access(run, request.target)
        with (
            run.lock(*access.lock_identity),
            open_key(run, identity) as key,
            ExitStack() as stack,
        ):
            return _Restore(access, request, key, stack).run()


def _digest(recovery_set: RecoverySet) -> str:
    """The SHA-256 of the dump, by which the journal knows it."""
    if recovery_set.manifest:
        return recovery_set.manifest.dump.sha256
    return sha256_of(recovery_set.path)


class _Restore:
    """One restore that holds the lock."""

    def __init__(self, access: Access, request: RestoreRequest, key: Key, stack: ExitStack) -> None:
        self._access = access
        self._stack = stack
        self._key = key
        #: Opens the safety dump of this run, which its own recipients alone could not.
        self._safety_key = key
        self._request = request
        self._run = access.run
        self._database = request.target.database
        self._vault = Vault(request.directory)
        self._journal = Journal(request.directory, access.container.name, self._database)
        self._notes: list[str] = []
        self._details: dict[str, Any] = {}
        self._rows_after: dict[str, int] | None = None

    def run(self) -> Report:
        request, run = self._request, self._run
        with run.phase("preflight"):
            killed = self._journal.unfinished()
            if killed and not request.check:
                self._notes += settle(self._access, self._journal)
            located = locate(run, self._vault, request.source, self._database, request.offsite)
            self._notes += located.warnings
            known = located.recovery_set
            if self._key.method and not located.is_far:
                known = unseal(known, self._key)
            present = self._already_there(known)
            if present and not request.force:
                return self._unchanged(known, present)
            if located.is_far and request.check:
                return self._forecast_far(located)
            recovery_set = self._stack.enter_context(located.here())
            if located.is_far:
                self._details["path"] = str(located.recovery_set.path)
            recovery_set = unseal(recovery_set, self._key)
            lost = half_replaced(self._access, self._journal)
            plan = self._examine(recovery_set, "replace" if lost else request.method)
            if lost:
                self._take_over(lost, plan)
            plan.require_clean()
        if request.check:
            return self._forecast(plan)
        # The set may lie elsewhere; the journal lies here.
        self._vault.prepare()
        entry = self._journal.write(
            Entry(
                run=run.id,
                action="restore",
                method=request.method if plan.live_oid is not None else "replace",
                container=self._access.container.name,
                database=self._database,
                set_name=recovery_set.name,
                sha256=_digest(recovery_set),
                live_oid=plan.live_oid or 0,
                # Killed at any later step, it leaves the database as incomplete as it is now.
                step="replacing" if lost else "begun",
                safety_set=lost.safety_set if lost else "",
                stopped=lost.stopped if lost else (),
            )
        )
        try:
            if entry.method == "swap":
                entry, comparison = self._swap(entry, plan)
            else:
                entry, comparison = self._replace(entry, plan)
        except BaseException as error:
            with suppress(FiredrillError):
                if (left := self._journal.unfinished()) and left.run == run.id and self._tidy:
                    self._journal.write(left, step="failed", reason=type(error).__name__)
            raise
        self._journal.write(entry, step="done", seconds=round(run.elapsed_s, 3))
        self._await_application(entry)
        if not request.keep_previous and entry.previous_name:
            with self._access.server.maintenance(self._database) as session:
                drop_database(session, entry.previous_name)
            self._details["previous"] = ""
        return self._report(plan, comparison)

    # -- before ------------------------------------------------------------------------------------

    def _take_over(self, lost: Entry, plan: Plan) -> None:
        """What a killed `replace` left is no live database: nothing to keep, and not what it was like."""
        plan.live_oid = None
        plan.rows_live = {}
        plan.running_services = tuple(dict.fromkeys([*lost.stopped, *plan.running_services]))
        manifest = plan.manifest
        if lost.safety_set:
            with suppress(FiredrillError):
                safety = self._vault.resolve(lost.safety_set, self._database)
                manifest = unseal(safety, self._key).require_manifest()
        if manifest:
            plan.properties = manifest.properties

    def _examine(self, recovery_set: RecoverySet, method: str) -> Plan:
        request = self._request
        return examine(
            self._access,
            self._vault,
            recovery_set,
            method=method,
            verify=request.verify,
            force=request.force,
            superusers=request.restore_superusers,
            stop_services=request.stop_services,
            post_sql=request.post_sql,
        )

    def _already_there(self, recovery_set: RecoverySet) -> Entry | None:
        last = self._journal.last()
        if not (last and last.action == "restore" and last.step == "done"):
            return None
        if self._request.verify and not recovery_set.manifest:
            return None
        if last.sha256 != _digest(recovery_set):
            return None
        with self._access.server.maintenance(self._database) as session:
            return last if database_oid(session, self._database) == last.new_oid else None

    def _unchanged(self, recovery_set: RecoverySet, entry: Entry) -> Report:
        manifest = recovery_set.manifest
        before = manifest.evidence.counts() if manifest else {}
        now = collect(self._access.server, self._database, "counts").counts()
        moved = [
            f"{label} {before.get(label, 0)} -> {now.get(label, 0)}"
            for label in sorted({*before, *now})
            if before.get(label, 0) != now.get(label, 0)
        ]
        with self._access.server.maintenance(self._database) as session:
            previous = current_name(session, entry.live_oid)
        since = (
            f"; rows written since: {', '.join(moved[:10])}"
            if moved
            else "; no table has other counts now"
        )
        if not manifest or manifest.evidence.level == "none":
            since = "; the set has no evidence that would show what was written since"
        if recovery_set.locked:
            since = "; without its private key nobody can tell what was written since"
        return self._outcome(
            recovery_set,
            changed=False,
            msg=f"{recovery_set.name} was restored at {entry.at} and is what is in the database{since}",
            rows_before=now,
            rows_after=now,
            previous=previous,
        )

    def _forecast(self, plan: Plan) -> Report:
        request = self._request
        how = f"beside the live database ({human_bytes(plan.live_bytes)}) and swap it in"
        if plan.live_oid is None:
            how = "into a new database, there is none now"
        elif request.method == "replace":
            how = "in place of the live database, which is dropped" + (
                " after a safety dump" if request.safety_dump else " WITHOUT a safety dump"
            )
        stops = [self._access.containers.name_of(ident) for ident in plan.running_services]
        return self._outcome(
            plan.recovery_set,
            changed=True,
            msg=f"Would restore {plan.recovery_set.name} {how}; stops {', '.join(stops) or 'nothing'} meanwhile",
            plan=plan,
            rows_before=plan.rows_live,
            rows_after=plan.rows_set,
        )

    def _forecast_far(self, located: Located) -> Report:
        """Nothing but the manifest was downloaded, so nothing else was looked at."""
        manifest = located.recovery_set.require_manifest()
        size = human_bytes(sum(entry.bytes for entry in manifest.entries))
        return self._outcome(
            located.recovery_set,
            changed=True,
            msg=f"Would download {located.recovery_set.path} ({size}), look at it and restore it by {self._request.method}",
            rows_before={},
            rows_after=manifest.evidence.counts(),
        )

    # -- the two methods ---------------------------------------------------------------------------

    def _swap(self, entry: Entry, plan: Plan) -> tuple[Entry, Comparison]:
        access, run = self._access, self._run
        run.state = "The live database was not touched and the application was not stopped"
        if not self._request.keep_previous and self._request.safety_dump:
            entry = self._safety_dump(entry)
        properties = self._properties(plan)
        with access.server.maintenance(self._database) as session:
            new_name = beside(session, self._database, "restore")
            entry = self._journal.write(entry, new_name=new_name)
            try:
                self._create_roles(session, plan)
                oid = create_database(session, new_name, properties)
                entry = self._journal.write(entry, step="created", new_oid=oid)
                comparison = self._fill(new_name, plan, properties, session)
                entry = self._journal.write(entry, step="stopping", stopped=plan.running_services)
                aside = beside(session, self._database, "before")
                entry, troubles = cut_over(access, self._journal, entry, session, aside=aside)
                self._notes += troubles
            except BaseException:
                self._drop_copy(session, new_name, entry)
                raise
        self._details["previous"] = entry.previous_name
        return entry, comparison

    def _drop_copy(self, session: Session, name: str, entry: Entry) -> None:
        """After a failure: the unfinished copy goes, unless it is the live database by now."""
        self._tidy = False
        try:
            if entry.new_oid and current_name(session, entry.new_oid) not in ("", name):
                return
            drop_database(session, name)
            self._tidy = True
        except FiredrillError:
            with suppress(FiredrillError), self._access.server.maintenance(self._database) as again:
                if not entry.new_oid or current_name(again, entry.new_oid) in ("", name):
                    drop_database(again, name)
                    self._tidy = True
        if not self._tidy:
            self._run.state += (
                f'; the unfinished copy "{name}" is still there, the next run removes it'
            )

    _tidy = True

    def _replace(self, entry: Entry, plan: Plan) -> tuple[Entry, Comparison]:
        access, run = self._access, self._run
        run.state = "The live database was not touched and the application was not stopped"
        if plan.live_oid is not None and self._request.safety_dump:
            entry = self._safety_dump(entry)
        properties = self._properties(plan)
        # A killed run may have left the database incomplete; then there is no way back before this step.
        whole = self._tidy = entry.step != "replacing"
        entry = self._journal.write(
            entry,
            step="stopping" if whole else entry.step,
            stopped=plan.running_services,
            new_name=self._database,
        )
        try:
            with access.server.maintenance(self._database) as session, run.phase("downtime"):
                run.state = (
                    "The live database is as it was"
                    if whole
                    else f'Database "{self._database}" is incomplete'
                )
                services.stop(access.containers, entry.stopped)
                self._create_roles(session, plan)
                entry = self._journal.write(entry, step="replacing")
                whole = False
                self._tidy = False
                run.state = f'Database "{self._database}" is incomplete'
                drop_database(session, self._database)
                try:
                    oid = create_database(session, self._database, properties)
                    entry = self._journal.write(entry, step="created", new_oid=oid)
                    comparison = self._fill(self._database, plan, properties, session)
                    entry = self._journal.write(entry, step="swapped")
                    whole = True
                    run.state = "The restore is complete"
                except BaseException:
                    whole = self._return_to_safety(entry, properties)
                    raise
        finally:
            if whole:
                with run.undisturbed(), run.phase("downtime"):
                    troubles = services.start(access.containers, entry.stopped)
                    self._notes += troubles
                    if entry.stopped:
                        run.state += "; " + (
                            "; ".join(troubles) or "the application was started again"
                        )
                    if entry.step == "swapped":
                        entry = self._journal.write(entry, step="done")
            else:
                names = [access.containers.name_of(ident) for ident in entry.stopped]
                run.state += f"; {', '.join(names) or 'the application'} stays stopped until a restore succeeds"
        return entry, comparison

    def _return_to_safety(self, entry: Entry, properties: DatabaseProperties) -> bool:
        """Puts back what was there before a `replace` that failed; returns whether that worked."""
        run = self._run
        if not entry.safety_set:
            return False
        try:
            safety = self._vault.resolve(entry.safety_set, self._database)
            safety = unseal(safety, self._safety_key)
            with run.phase("return"), self._access.server.maintenance(self._database) as session:
                drop_database(session, self._database)
                create_database(session, self._database, properties)
                load(self._access, safety, self._database, jobs=self._request.jobs)
                manifest = safety.require_manifest()
                require_equal(
                    check_evidence(self._access, self._database, manifest.evidence), safety.name
                )
                with self._access.server.session(self._database) as inside:
                    apply_properties(inside, self._database, properties)
                analyze(self._access, self._database)
        except FiredrillError as error:
            run.state = (
                f'Database "{self._database}" is incomplete; what was there before is in the set '
                f"{entry.safety_set}, which could not be put back: {error.what}"
            )
            return False
        run.state = f"What was there before was put back from the set {entry.safety_set}"
        self._tidy = True
        return True

    # -- steps that both share ---------------------------------------------------------------------

    def _safety_dump(self, entry: Entry) -> Entry:
        with self._run.phase("safety dump"):
            phases = dict(self._run.phases)
            wanted = self._request.encryption
            recipients = prepare(self._run, wanted, own_key=True) if wanted else None
            if recipients and recipients.own_key:
                self._safety_key = recipients.own_key
            report = backup_with(
                self._access,
                BackupRequest(
                    self._request.target,
                    self._request.directory,
                    purpose="safety",
                    encryption=wanted,
                ),
                recipients,
            )
            self._run.phases.clear()
            self._run.phases.update(phases)
        self._run.state = (
            f"The live database was not touched and the application was not stopped (a safety dump of it is "
            f"{report.set_name})"
        )
        self._details["safety_set"] = report.set_name
        return self._journal.write(entry, safety_set=report.set_name)

    @staticmethod
    def _properties(plan: Plan) -> DatabaseProperties:
        if plan.properties is None:
            raise RefusedError(
                "The restore was refused",
                ["there is no live database and no manifest that says what it was like"],
                state="Nothing was changed",
                todo="Create the database by hand (CREATE DATABASE), then run this again",
            )
        return plan.properties

    def _create_roles(self, session: Session, plan: Plan) -> None:
        if plan.missing_roles:
            with self._run.phase("roles"):
                self._notes += create_roles(
                    session,
                    plan.missing_roles,
                    superusers=self._request.restore_superusers,
                    passwords=True,
                )

    def _fill(
        self, name: str, plan: Plan, properties: DatabaseProperties, session: Session
    ) -> Comparison:
        """Loads, verifies, plays the operator's SQL, then gives the database its properties and statistics."""
        request, run, access = self._request, self._run, self._access
        with run.phase("load"):
            load(
                access,
                plan.recovery_set,
                name,
                jobs=request.jobs,
                no_owner=request.no_owner,
                no_privileges=request.no_privileges,
            )
        comparison = Comparison(0, (), ("nothing: there is no manifest, or `verify` is off",))
        if plan.manifest and request.verify:
            with run.phase("verify"):
                comparison = check_evidence(access, name, plan.manifest.evidence)
                require_equal(comparison, plan.recovery_set.name)
        if plan.scripts:
            with run.phase("post_sql"):
                run_scripts(access, name, plan.scripts)
        if plan.scripts or not comparison.compared:
            # The set does not say what is there now.
            with run.phase("count"):
                self._rows_after = collect(access.server, name, "counts").counts()
        with run.phase("analyze"):
            # From inside, so that the comment gets the database's own encoding.
            with access.server.session(name) as inside:
                refused = apply_properties(inside, name, properties)
            if refused:
                raise ToolError(
                    f"Properties of the database could not be set: {'; '.join(refused)}"
                )
            analyze(access, name)
        return comparison

    def _await_application(self, entry: Entry) -> None:
        if entry.stopped:
            with self._run.phase("application"):
                self._notes += services.await_health(self._access.containers, entry.stopped)

    # -- the report --------------------------------------------------------------------------------

    def _report(self, plan: Plan, comparison: Comparison) -> Report:
        equal = (
            f"{comparison.compared} tables equal to the manifest"
            if comparison.compared
            else "rows were not compared"
        )
        self._details.update(
            differences=list(comparison.differences), not_compared=list(comparison.not_compared)
        )
        return self._outcome(
            plan.recovery_set,
            changed=True,
            msg=(
                f"{plan.recovery_set.name} was restored in {human_seconds(self._run.elapsed_s)}, {equal}; "
                f"the application was stopped for {human_seconds(self._run.phases.get('downtime', 0.0))}"
            ),
            plan=plan,
            rows_before=plan.rows_live,
            rows_after=plan.rows_set if self._rows_after is None else self._rows_after,
        )

    def _outcome(
        self,
        recovery_set: RecoverySet,
        *,
        changed: bool,
        msg: str,
        rows_before: dict[str, int],
        rows_after: dict[str, int],
        plan: Plan | None = None,
        previous: str = "",
    ) -> Report:
        phases = dict(self._run.phases)
        names = self._access.containers.name_of
        return Report(
            action="restore",
            changed=changed,
            msg=msg,
            database=self._database,
            container=self._access.container.name,
            set_name=recovery_set.name,
            phases=phases,
            warnings=[*self._notes, *(plan.warnings if plan else [])],
            details={
                "path": str(recovery_set.path),
                "previous": previous,
                "downtime_s": phases.get("downtime", 0.0),
                "stopped": [names(ident) for ident in plan.running_services] if plan else [],
                "rows_before": rows_before,
                "rows_after": rows_after,
                "differences": [],
                "not_compared": [],
                **self._details,
            },
        )
