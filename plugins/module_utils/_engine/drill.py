# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drill: a set restored into a throwaway server and compared, or the live database asked after a restore."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import checks, report
from .access import Access, open_access
from .catalog import apply_properties, create_database, drop_database
from .errors import (
    FiredrillError,
    HostError,
    LockedError,
    OffsiteError,
    ServerError,
    SetError,
    TargetError,
    ToolError,
)
from .fetch import locate
from .journal import Entry, Journal
from .keyring import Key, identity_of, open_key
from .load import analyze, check_evidence, load
from .manifest import Manifest
from .model import (
    Assertion,
    CheckResult,
    Comparison,
    DatabaseProperties,
    Freshness,
    HttpCheck,
    Report,
    Target,
    human_bytes,
    iso,
    utc_now,
)
from .preflight import examine_set
from .roles import create_roles
from .run import Progress, Run
from .scratch import scratch
from .sealed import unseal
from .targets import Offsite
from .vault import RecoverySet, Vault

LOG_NAME = "drills.jsonl"
_NO_APPLICATION = (
    "the throwaway server has no network and no application; run the drill with target live for it"
)
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
    #: "" when it was not found.
    container: str = ""


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
        try:
            access = open_access(run, request.target)
        except (HostError, TargetError) as error:
            if request.check:
                raise
            return _concluded(run, request, _Findings(broken=("environment", str(error))))
        with run.lock("drill", *access.lock_identity):
            if request.check:
                return _forecast(access, request)
            found = _Findings(container=access.container.name)
            try:
                if request.live:
                    _drill_live(access, request, found)
                else:
                    with open_key(run, identity) as key:
                        _drill_set(access, request, key, found)
            except LockedError as error:
                found.broken = ("not_tested", str(error))
            except (SetError, ToolError) as error:
                found.broken = found.broken or ("backup_bad", str(error))
            except (HostError, TargetError, OffsiteError) as error:
                found.broken = found.broken or ("environment", str(error))
            except ServerError as error:
                blamed = not request.live and error.sqlstate[:2] not in _NOT_THE_SET
                found.broken = ("backup_bad" if blamed else "environment", str(error))
            return _concluded(run, request, found)


def _validate(request: DrillRequest) -> None:
    try:
        checks.validate(request.http_checks)
    except HostError:
        # Without an application nothing is asked, so no library is needed that reads the answers.
        if request.live:
            raise


def verdict_of(results: Iterable[CheckResult]) -> tuple[str, str]:
    """The verdict over all checks, and the reason for it.

    A broken promise about the data is `backup_bad`; an application that does not answer, or a check that
    could not be asked, is `environment`; a check that was not run leaves at best `partial`. That the throwaway
    server has no application is no shortcoming of a drill of a set, which is asked for its data.
    """
    listed = list(results)
    data = [r for r in listed if r.status == "failed" and r.kind != "http"]
    elsewhere = [
        r for r in listed if r.status == "error" or (r.status == "failed" and r.kind == "http")
    ]
    skipped = [r for r in listed if r.status == "skipped" and r.reason != _NO_APPLICATION]
    passed = [r for r in listed if r.status == "ok" and r.kind != "server"]
    for verdict, culprits in (("backup_bad", data), ("environment", elsewhere)):
        if culprits:
            return verdict, "; ".join(f"{r.kind} {r.name}: {r.reason}" for r in culprits[:5])
    if not passed:
        return "not_tested", "no check was run" + (f": {skipped[0].reason}" if skipped else "")
    if skipped:
        return "partial", "; ".join(
            f"{r.kind} {r.name} was skipped: {r.reason}" for r in skipped[:5]
        )
    unasked = len([r for r in listed if r.reason == _NO_APPLICATION])
    besides = f", {unasked} of the application skipped" if unasked else ""
    return "pass", f"{len(passed)} checks of {len(passed)} are ok{besides}"


def _drill_set(access: Access, request: DrillRequest, key: Key, found: _Findings) -> None:
    run, database = access.run, request.target.database
    vault = Vault(request.directory)
    try:
        located = locate(run, vault, request.source, database, request.offsite)
    except SetError as error:
        found.broken = ("not_tested", str(error))
        return
    found.set_name, found.path = located.recovery_set.name, str(located.recovery_set.path)
    found.encrypted = located.recovery_set.locked
    found.warnings += located.warnings
    if located.is_far:
        # Whether the key opens it is told before all of it comes down.
        located.opened(key)
    with ExitStack() as stack:
        recovery_set = stack.enter_context(located.here())
        with run.phase("check set"):
            recovery_set = _unsealed(recovery_set, key)
            manifest = _examine(access, recovery_set)
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
    found.results += checks.skipped("http", names, _NO_APPLICATION)


def _unsealed(recovery_set: RecoverySet, key: Key) -> RecoverySet:
    """:raises SetError: whether it can be opened or not, it is damaged."""
    try:
        return unseal(recovery_set, key)
    except LockedError:
        recovery_set.check_files()
        raise


def _examine(access: Access, recovery_set: RecoverySet) -> Manifest:
    with access.server.maintenance(access.target.database):
        pass
    manifest, unused_contents = examine_set(access, recovery_set, verify=True)
    return manifest or recovery_set.require_manifest()


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
        wanted = [
            role for role in manifest.roles if role.named_by_database and role.name not in here
        ]
        # Some objects only a superuser may own, and in there the right gains nobody anything.
        create_roles(session, wanted, superusers=True, passwords=False)
        drop_database(session, name)
        create_database(session, name, _without_tablespace(manifest))
        with run.phase("load"):
            load(inside, recovery_set, name, jobs=request.jobs)
        with run.phase("analyze"):
            apply_properties(session, name, _without_tablespace(manifest))
            analyze(inside, name)
        with inside.server.session(name) as fresh:
            version = str(fresh.value("SELECT version()"))
    found.results.append(CheckResult("server", "version", "ok", version))
    with run.phase("evidence"):
        found.comparison = check_evidence(inside, name, manifest)
    found.rto_s = round(run.elapsed_s, 3)
    found.results.append(_evidence_result(found.comparison, manifest))


def _without_tablespace(manifest: Manifest) -> DatabaseProperties:
    return replace(manifest.properties, tablespace="pg_default")


def _evidence_result(comparison: Comparison, manifest: Manifest) -> CheckResult:
    if comparison.differences:
        return CheckResult("evidence", "equal", "failed", "; ".join(comparison.differences[:10]))
    if manifest.evidence.level == "none":
        return CheckResult("evidence", "equal", "skipped", "; ".join(comparison.not_compared))
    return CheckResult("evidence", "equal", "ok", f"{comparison.compared} tables")


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
    journal = Journal(request.directory, access.container.name, database)
    entry = journal.unfinished()
    if entry:
        found.broken = ("environment", f"a {entry.action} begun at {entry.at} has not ended")
        return
    last = journal.last()
    if last and last.action == "restore":
        _remember(found, last, Vault(request.directory), database)
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


def _forecast(access: Access, request: DrillRequest) -> Report:
    database = request.target.database
    if request.live:
        name, what = (
            "",
            f"ask the live database and the application {len(request.http_checks)} HTTP checks",
        )
    else:
        located = locate(
            access.run, Vault(request.directory), request.source, database, request.offsite
        )
        name = located.recovery_set.name
        what = f"restore {name} into a throwaway server of image {access.container.image}"
    return Report(
        action="drill",
        changed=request.record_file is not None,
        msg=f"Would {what} and check {len(request.assertions)} assertions",
        database=database,
        container=access.container.name,
        set_name=name,
    )


def _concluded(run: Run, request: DrillRequest, found: _Findings) -> Report:
    outcome = _outcome(run, request, found)
    _record(request, outcome, encrypted=found.encrypted)
    return outcome


def _outcome(run: Run, request: DrillRequest, found: _Findings) -> Report:
    verdict, reason = found.broken or verdict_of(found.results)
    subject = (
        found.set_name if not request.live else f'the live database "{request.target.database}"'
    )
    return Report(
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
            "hardware": hardware(),
            "differences": list(found.comparison.differences),
            "not_compared": list(found.comparison.not_compared),
        },
    )


def _record(request: DrillRequest, outcome: Report, *, encrypted: bool) -> None:
    """Writes the records; a record that cannot be written never changes the verdict."""
    written = _discreet(outcome) if encrypted else outcome
    try:
        if request.record_file:
            outcome.details["record"] = report.append_record(request.record_file, written)
        log_file = request.log_file or request.directory / LOG_NAME
        if log_file.parent.is_dir():
            report.append_json(log_file, written)
    except FiredrillError as error:
        outcome.warnings.append(f"the drill was not recorded: {error}")


def _discreet(outcome: Report) -> Report:
    """An outcome without what is in the database: what an encrypted set hides must not lie beside it in a record."""
    untold = "told to whoever held the drill"
    listed = outcome.details["checks"]
    told = [
        {**check, "reason": "" if check["status"] == "ok" else untold}
        if check["reason"] != _NO_APPLICATION
        else check
        for check in listed
    ]
    reason = outcome.details["reason"] if not listed or outcome.verdict == "pass" else untold
    blank: dict[str, Any] = {"rows": {}, "differences": [], "not_compared": []}
    return replace(
        outcome,
        msg=f"{outcome.verdict}: {outcome.set_name}: {reason}",
        warnings=[],
        details={**outcome.details, **blank, "checks": told, "reason": reason},
    )


def hardware() -> str:
    """The machine in a few words: model, processors, memory."""
    try:
        model = Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = found[1] if found else "unknown model"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return ", ".join(
        [
            model,
            platform.machine(),
            f"{os.cpu_count()} processors",
            human_bytes(memory) + " of memory",
        ]
    )
