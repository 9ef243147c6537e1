# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drill: a set restored into a throwaway server and compared, or the live database asked after a restore."""

from __future__ import annotations

import platform
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from . import checks, report
from .access import Access, access_by_image, open_access
from .catalog import create_database, drop_database
from .errors import (
    AbsentError,
    FiredrillError,
    HostError,
    LockedError,
    OffsiteError,
    ServerError,
    SetError,
    TargetError,
    ToolError,
)
from .fetch import Located, locate
from .journal import Entry, Journal
from .keyproofs import Proof, note_proof
from .keyring import Identity, Key, identity_of, open_key
from .load import check_evidence, finish, load
from .manifest import Manifest
from .model import (
    Assertion,
    CheckResult,
    Comparison,
    DatabaseProperties,
    Freshness,
    HttpCheck,
    Report,
    Role,
    Target,
    iso,
    utc_now,
)
from .neighbours import encrypted_before
from .preflight import examine_set
from .programs import major_of
from .recovery_set import RecoverySet
from .roles import create_roles, missing
from .run import Progress, Run, Signalled
from .scratch import scratch
from .sealed import check_globals, unseal
from .targets import Offsite
from .vault import Vault
from .verdicts import NO_APPLICATION, discreet, told_trouble, verdict_of

#: Classes of SQLSTATE that blame the server, not what it was given (errcodes-appendix.html of the manual):
#: insufficient resources, operator intervention, system error.
_NOT_THE_SET = ("53", "57", "58")


@dataclass(frozen=True)
class DrillRequest:
    """What to drill: the set `source` in a throwaway server, or the live database (`live`)."""

    target: Target
    directory: Path
    source: str = "latest"
    live: bool = False
    assertions: tuple[Assertion, ...] = ()
    freshness: Freshness | None = None
    http_checks: tuple[HttpCheck, ...] = ()
    record_file: Path | None = None
    log_file: Path | None = None
    jobs: int = 0
    timeout_s: float = 0
    check: bool = False
    offsite: Offsite = field(default_factory=Offsite)
    #: Opens an encrypted set: a private key as it is, or its file.
    identity: str = field(default="", repr=False)
    identity_file: Path | None = None


@dataclass
class _Findings:
    """What a drill has found so far. `broken` is a verdict that ended it early, with its reason."""

    results: list[CheckResult] = field(default_factory=list)
    comparison: Comparison = field(default_factory=lambda: Comparison(0, (), ()))
    rows: dict[str, int] = field(default_factory=dict)
    set_name: str = ""
    path: str = ""
    rto_s: float = 0.0
    restored_at: str = ""
    warnings: list[str] = field(default_factory=list)
    broken: tuple[str, str] | None = None
    encrypted: bool = False
    #: It was opened: an error may name what is in it.
    opened: bool = False
    #: What others may hear instead of the reason in `broken`; "" for that itself.
    told: str = ""
    #: "" when it was not found.
    container: str = ""
    #: Of a set that is encrypted: its key opened it, and all of it was read.
    proof: Proof | None = None


def drill(request: DrillRequest, progress: Progress | None = None) -> Report:
    """Drills, records the outcome, and returns it; a verdict other than `pass` is no exception.

    :raises ConfigError: the request makes no sense.
    :raises BusyError: another drill of this database is running.
    :raises InterruptedRun: it was ended from outside; nothing is left behind.
    """
    _validate(request)
    identity = identity_of(request.identity, request.identity_file)
    with Run("drill", timeout_s=request.timeout_s, progress=progress) as run:
        run.state = "Production was not touched"
        if request.check:
            return _forecast(run, request)
        found = _Findings()
        try:
            _hold(run, request, identity, found)
        except LockedError as error:
            found.broken = ("not_tested", str(error))
        except (SetError, ToolError) as error:
            found.broken = ("backup_bad" if found.set_name else "not_tested", str(error))
            if found.opened:
                found.told = told_trouble("it does not give back what was dumped")
        except (HostError, TargetError, OffsiteError) as error:
            found.broken = ("environment", str(error))
            # What is said before, as of the room that lacks, comes from no table.
            if found.opened and "load" in run.phases:
                found.told = told_trouble("this host could not restore it")
        except ServerError as error:
            blamed = not request.live and error.sqlstate[:2] not in _NOT_THE_SET
            found.broken = ("backup_bad" if blamed else "environment", str(error))
            if found.opened:
                found.told = told_trouble("the server failed in the middle of it")
        except Signalled:
            # What it has made is gone by now, and it will be asked whether there was a drill.
            found.broken = ("not_tested", f"it was ended by {run.cause} before it was over")
            _concluded(run, request, found)
            raise
        with run.undisturbed():
            return _concluded(run, request, found)


def _hold(run: Run, request: DrillRequest, identity: Identity, found: _Findings) -> None:
    access, located = _find(run, request, found)
    with run.lock("drill", *access.lock_identity):
        if located is None:
            _drill_live(access, request, found)
        else:
            with open_key(run, identity) as key:
                _drill_set(access, request, located, key, found)


def _find(run: Run, request: DrillRequest, found: _Findings) -> tuple[Access, Located | None]:
    """The way to the server, and the set, if it is one that is asked. Where the set's server is not, its image does."""
    access: Access | None = None
    refusal = AbsentError("No container was named")
    target = request.target
    try:
        if not (target.container or target.project or target.service):
            raise refusal
        access = open_access(run, target)
        found.container = access.container.name
    except AbsentError as error:
        if request.live:
            raise
        refusal = error
    if request.live and access:
        return access, None
    located = locate(run, Vault(request.directory), request.source, target, request.offsite)
    recovery_set = located.recovery_set
    _require_owner(recovery_set, target.database)
    found.set_name, found.path = recovery_set.name, str(recovery_set.path)
    found.encrypted = recovery_set.locked
    found.warnings += located.warnings
    if access is None:
        source = recovery_set.require_manifest().source
        access = access_by_image(run, target, source, refusal)
        found.container = access.container.name
        is_same = access.container.image_id == source.image_id
        found.warnings.append(
            f"{refusal.what}: drilled with the image {source.image} "
            + ("that made the dump" if is_same else "as this host has it")
            + (f"; {source.host} is not told" if source.host != platform.node() else "")
        )
    return access, located


def _require_owner(recovery_set: RecoverySet, database: str) -> None:
    """:raises SetError: the set is of another database, of which a drill would go on record as one of this."""
    of = recovery_set.manifest.database if recovery_set.manifest else database
    if of != database:
        raise SetError(
            f'The dump {recovery_set.path} is of database "{of}", not of "{database}"',
            state="Production was not touched",
            todo=f'Drill it as database "{of}", or name a set of "{database}"',
        )


def _validate(request: DrillRequest) -> None:
    try:
        checks.validate(request.http_checks)
    except HostError:
        # Without an application nothing is asked, so no library is needed that reads the answers.
        if request.live:
            raise


def _drill_set(
    access: Access, request: DrillRequest, located: Located, key: Key, found: _Findings
) -> None:
    run, database = access.run, request.target.database
    if located.is_far:
        # Whether the key opens it is told before all of it comes down.
        located.opened(key, found.warnings)
    with ExitStack() as stack:
        recovery_set = stack.enter_context(located.here(found.warnings))
        with run.phase("check set"):
            recovery_set = _unsealed(recovery_set, key)
            found.opened = bool(recovery_set.key)
            manifest = _examine(access, recovery_set)
            check_globals(recovery_set)
        if manifest.encryption and recovery_set.key:
            recipients = manifest.encryption.recipients
            found.proof = Proof.now(recovery_set.name, recipients, recovery_set.opened_by)
        found.rows = manifest.evidence.counts()
        if request.freshness and not request.freshness.sql:
            found.results.append(
                checks.check_freshness(request.freshness, manifest.created, None, database)
            )
        with run.phase("start server"):
            inside = stack.enter_context(scratch(access, manifest))
        _restore_into(inside, request, recovery_set, manifest, found)
        _check_data(inside, request, manifest, found)
    names = [check.label for check in request.http_checks]
    found.results += checks.skipped("http", names, NO_APPLICATION)


def _unsealed(recovery_set: RecoverySet, key: Key) -> RecoverySet:
    """:raises SetError: whether it can be opened or not, it is damaged."""
    try:
        return unseal(recovery_set, key)
    except LockedError:
        recovery_set.check_files()
        raise


def _examine(access: Access, recovery_set: RecoverySet) -> Manifest:
    manifest, unused_contents = examine_set(
        access.programs, _major(access, recovery_set), recovery_set, verify=True
    )
    return manifest or recovery_set.require_manifest()


def _major(access: Access, recovery_set: RecoverySet) -> int:
    if access.has_server:
        with access.server.maintenance(access.target.database):
            return access.server.major
    version, source = access.programs.version(), recovery_set.require_manifest().source
    if major_of(version) < source.major:
        raise TargetError(
            f"The image {source.image} of this host is PostgreSQL {version}, the set is of {source.major}",
            state="Production was not touched",
            todo=f"`docker pull {source.image_digest or source.image}`",
        )
    return major_of(version)


def _restore_into(
    inside: Access,
    request: DrillRequest,
    recovery_set: RecoverySet,
    manifest: Manifest,
    found: _Findings,
) -> None:
    run, name = inside.run, manifest.database
    with inside.server.maintenance(name) as session:
        here = [row[0] for row in session.query("SELECT rolname FROM pg_roles")]
        # Some objects only a superuser may own, and in there the right gains nobody anything.
        found.warnings += create_roles(
            session, _roles_possible(manifest, here), superusers=True, passwords=False
        )
        drop_database(session, name)
        properties = _properties_possible(manifest)
        create_database(session, name, properties)
        with run.phase("load"):
            load(inside, recovery_set, name, jobs=request.jobs)
        with run.phase("analyze"):
            finish(inside, name, properties)
        with inside.server.session(name) as fresh:
            version = str(fresh.value("SELECT version()"))
    found.results.append(CheckResult("server", "version", "ok", version))
    with run.phase("evidence"):
        found.comparison = check_evidence(inside, name, manifest)
    found.rto_s = round(run.elapsed_s, 3)
    found.results.append(_evidence_result(found.comparison, manifest))


def _properties_possible(manifest: Manifest) -> DatabaseProperties:
    """Those of the set, as far as a server without tablespaces can have them."""
    found = manifest.properties
    settings = tuple(entry for entry in found.settings if _is_possible(entry[1]))
    return replace(found, tablespace="pg_default", settings=settings)


def _roles_possible(manifest: Manifest, here: list[str]) -> list[Role]:
    """The roles that the database needs, as far as a server without tablespaces and any further role can have them."""
    wanted = missing(manifest.roles, here)
    known = {*here, *(role.name for role in wanted)}
    return [
        replace(
            role,
            settings=tuple(filter(_is_possible, role.settings)),
            member_of=tuple(entry for entry in role.member_of if entry.group in known),
        )
        for role in wanted
    ]


def _is_possible(setting: str) -> bool:
    # Of all settings that name a tablespace the server refuses this one when there is none of that name.
    return setting.partition("=")[0].lower() != "temp_tablespaces"


def _evidence_result(comparison: Comparison, manifest: Manifest) -> CheckResult:
    if comparison.differences:
        return CheckResult("evidence", "equal", "failed", "; ".join(comparison.differences[:10]))
    if manifest.evidence.level == "none":
        return CheckResult("evidence", "equal", "skipped", "; ".join(comparison.not_compared))
    if comparison.unread:
        unread = "; ".join(comparison.unread[:10])
        reason = f"{comparison.compared} tables are equal, not compared: {unread}"
        return CheckResult("evidence", "equal", "partial", reason)
    how = ", by their rows" if manifest.evidence.level == "counts" else ""
    return CheckResult("evidence", "equal", "ok", f"{comparison.compared} tables{how}")


def _check_data(
    inside: Access, request: DrillRequest, manifest: Manifest, found: _Findings
) -> None:
    with inside.run.phase("checks"):
        if request.freshness and request.freshness.sql:
            found.results.append(
                checks.check_freshness(
                    request.freshness,
                    manifest.created,
                    inside.server,
                    manifest.database,
                    isolated=True,
                )
            )
        found.results += checks.run_assertions(
            inside.server, manifest.database, request.assertions, isolated=True
        )


def _drill_live(access: Access, request: DrillRequest, found: _Findings) -> None:
    run, database = access.run, request.target.database
    vault = Vault(request.directory)
    # What is asked of it is what its encrypted sets hide.
    found.encrypted = found.opened = bool(encrypted_before(vault.sets(database)))
    journal = Journal(request.directory, access.container.name, database)
    entry = journal.unfinished()
    if entry:
        found.broken = ("environment", f"a {entry.action} begun at {entry.at} has not ended")
        return
    last = journal.last()
    if last and last.action == "restore":
        _remember(found, last, vault, database)
    with run.phase("checks"):
        with access.server.session(database) as session:
            version = str(session.value("SELECT version()"))
        found.results.append(CheckResult("server", "version", "ok", version))
        if request.freshness:
            found.results.append(_live_freshness(access, request.freshness))
        found.results += checks.run_assertions(access.server, database, request.assertions)
    with run.phase("http"):
        project = request.target.project or access.container.project
        found.results += checks.run_http_checks(access.containers, project, request.http_checks)
    found.comparison = Comparison(
        0, (), ("the live database is written to; its evidence was compared by the restore",)
    )


def _remember(found: _Findings, last: Entry, vault: Vault, database: str) -> None:
    """What the last restore measured and verified, for the record that is written after it."""
    found.set_name, found.rto_s, found.restored_at = last.set_name, last.seconds, last.at
    with suppress(FiredrillError):
        recovery_set = vault.resolve(last.set_name, database)
        found.path = str(recovery_set.path)
        found.rows = recovery_set.require_manifest().evidence.counts()


def _live_freshness(access: Access, freshness: Freshness) -> CheckResult:
    if not freshness.sql:
        return CheckResult(
            "freshness", "age", "skipped", "a live database has no age without `sql`"
        )
    return checks.check_freshness(freshness, utc_now(), access.server, access.target.database)


def _forecast(run: Run, request: DrillRequest) -> Report:
    found = _Findings()
    access, located = _find(run, request, found)
    with run.lock("drill", *access.lock_identity):
        if located is None:
            what = (
                f"ask the live database and the application {len(request.http_checks)} HTTP checks"
            )
        else:
            what = f"restore {found.set_name} into a throwaway server of image {access.container.image}"
    return Report(
        action="drill",
        changed=request.record_file is not None,
        msg=f"Would {what} and check {len(request.assertions)} assertions",
        database=request.target.database,
        container=access.container.name,
        set_name=found.set_name,
        warnings=found.warnings,
    )


def _concluded(run: Run, request: DrillRequest, found: _Findings) -> Report:
    outcome = _outcome(run, request, found)
    _record(request, outcome, found)
    if found.proof:
        try:
            note_proof(request.directory, request.target.database, found.proof)
        except HostError as error:
            outcome.warnings.append(str(error))
    return outcome


def _outcome(run: Run, request: DrillRequest, found: _Findings) -> Report:
    verdict, reason = found.broken or verdict_of(found.results)
    subject = (
        found.set_name if not request.live else f'the live database "{request.target.database}"'
    )
    outcome = Report(
        action="drill",
        changed=request.record_file is not None,
        msg=f"{verdict}: {subject or request.source}: {reason}",
        database=request.target.database,
        container=found.container or request.target.container or request.target.service,
        set_name=found.set_name,
        verdict=verdict,
        phases=dict(run.phases),
        warnings=found.warnings,
        details={
            "at": iso(utc_now()),
            "reason": reason,
            "target": "live" if request.live else "scratch",
            "path": found.path,
            "rows": found.rows,
            "checks": [asdict(result) for result in found.results],
            "rto_s": found.rto_s,
            "restored_at": found.restored_at,
            "hardware": report.hardware(),
            "differences": list(found.comparison.differences),
            "not_compared": list(found.comparison.not_compared),
        },
    )
    if found.encrypted:
        trouble = (found.told or found.broken[1]) if found.broken else None
        outcome.discreet = discreet(
            outcome, found.results, found.comparison, request.assertions, trouble
        )
    return outcome


def _record(request: DrillRequest, outcome: Report, found: _Findings) -> None:
    """Writes the records; one that cannot be written changes neither the verdict nor the other."""
    try:
        if found.set_name and not request.log_file:
            # A host that only drills has no sets of its own.
            Vault(request.directory).prepare()
        if not request.log_file:
            Vault(request.directory).require_disk()
        log_file = request.log_file or request.directory / report.LOG_NAME
        if request.log_file or log_file.parent.is_dir():
            report.append_json(log_file, outcome.public)
    except FiredrillError as error:
        outcome.warnings.append(f"the drill was not noted in the log: {error}")
    if request.record_file:
        try:
            outcome.details["record"] = report.append_record(request.record_file, outcome.public)
        except FiredrillError as error:
            outcome.warnings.append(f"the drill was not recorded: {error}")
