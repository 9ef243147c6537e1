# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Preflight: everything that can be known before a restore touches anything, all findings in one message."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Callable

from . import catalog, roles, services
from .access import Access
from .dump import missing_tables
from .errors import FiredrillError, RefusedError, ServerError, SetError
from .evidence import LIVE_LOCK_TIMEOUT, collect, holds_data
from .filenames import method_of
from .load import read_scripts
from .manifest import Manifest
from .model import DatabaseProperties, Role, SqlScript, human_bytes
from .programs import MAGIC, Contents, Programs, outdated
from .recovery_set import RecoverySet
from .relay import free_bytes_inside, on_one_disk_inside
from .retention import Candidate, backup_before, loss_before
from .server import Session
from .swap import kept_beside
from .vault import Vault
from .witness import read_archive

_ROOM_FACTOR = 1.15
#: So many databases in a message.
_SHOWN = 5
_TEXT_STARTS = (b"--", b"SET ", b"CREATE ", b"\\restrict", b"/*")


@dataclass
class Plan:
    """What a restore found out and is going to use."""

    recovery_set: RecoverySet
    manifest: Manifest | None = None
    contents: Contents | None = None
    live_oid: int | None = None
    live_bytes: int = 0
    properties: DatabaseProperties | None = None
    missing_roles: list[Role] = field(default_factory=list)
    altered_roles: list[Role] = field(default_factory=list)
    joining_roles: list[Role] = field(default_factory=list)
    scripts: list[tuple[str, bytes]] = field(default_factory=list)
    running_services: tuple[str, ...] = ()
    rows_live: dict[str, int] = field(default_factory=dict)
    earlier: Manifest | None = None
    findings: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def rows_set(self) -> dict[str, int]:
        return self.manifest.evidence.counts() if self.manifest else {}

    def require_clean(self) -> None:
        """:raises RefusedError: with every finding."""
        if self.findings:
            raise RefusedError(
                f"The restore of {self.recovery_set.name} was refused",
                self.findings,
                state="Nothing was changed, the application was not stopped",
                todo="Remove the causes, then run this again",
            )


def check_magic(recovery_set: RecoverySet) -> None:
    """:raises SetError: the file is no archive in custom format."""
    try:
        with recovery_set.path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise SetError(f"{recovery_set.path} cannot be read: {error.strerror}") from error
    if start.startswith(MAGIC):
        return
    if not start:
        raise SetError(f"{recovery_set.path} is empty", todo="Use another set")
    if start.lstrip().startswith(_TEXT_STARTS):
        raise SetError(
            f"{recovery_set.path} is a plain SQL file, not a dump in custom format",
            todo="Make sets with Firedrill or `pg_dump --format=custom`; play SQL that you trust with psql yourself",
        )
    raise SetError(
        f"{recovery_set.path} is no PostgreSQL dump in custom format", todo="Is it the right file?"
    )


def examine_set(
    programs: Programs, major: int, recovery_set: RecoverySet, *, verify: bool
) -> tuple[Manifest | None, Contents]:
    """Reads a set from end to end: manifest, SHA-256, the whole archive, every table of the evidence.

    :param programs: those that are to read it.
    :param major: the version of the server that it is for.
    :param verify: refuse a dump without a manifest that can be believed.
    :raises SetError: what is wrong with it.
    """
    if not method_of(recovery_set.path.name):
        check_magic(recovery_set)
    manifest = recovery_set.require_manifest() if verify else recovery_set.manifest
    if manifest:
        recovery_set.check_files()
        if manifest.source.major > major:
            raise SetError(
                f"The set is from PostgreSQL {manifest.source.major}, the server is {major}: "
                "a dump cannot go back to an older major version",
                todo=f"Restore it on a server of version {manifest.source.major} or newer",
            )
    try:
        contents = read_archive(programs, recovery_set)
    except SetError as error:
        raise SetError(
            f"{recovery_set.path}: {error.what}",
            todo=error.todo or "Use another set, or another copy of this one",
        ) from error
    if manifest:
        lost = missing_tables(
            manifest.evidence, contents, excluding=bool(manifest.excluded_table_data)
        )
        if lost:
            raise SetError(
                f"{recovery_set.path} lacks tables of its manifest: {', '.join(lost[:10])}",
                todo="Use another set",
            )
    return manifest, contents


def room_for(database_bytes: int) -> int:
    """So many bytes may be needed to restore a database of that size."""
    return int(database_bytes * _ROOM_FACTOR)


def examine(
    access: Access,
    vault: Vault,
    recovery_set: RecoverySet,
    *,
    method: str,
    verify: bool,
    force: bool,
    superusers: bool,
    fresh_cluster: bool,
    stop_services: tuple[str, ...],
    post_sql: tuple[SqlScript, ...],
    copy_bytes: int,
) -> Plan:
    """Looks at the set, the server, the disk and the application; changes nothing.

    :param copy_bytes: what is dropped before anything is restored.
    """
    plan = Plan(recovery_set)
    database = access.target.database
    with access.server.maintenance(database) as session:
        plan.live_oid = catalog.database_oid(session, database)
        _collect_finding(plan, lambda: _examine_set(access, plan, verify=verify, force=force))
        if plan.live_oid is not None:
            plan.findings += catalog.obstacles(session, database)
            _collect_finding(plan, lambda: _read_live(access, plan, session))
        if fresh_cluster and plan.live_oid is not None:
            _examine_fresh(access, plan)
        if plan.manifest and (plan.live_oid is None or fresh_cluster):
            plan.properties = properties_here(plan, session, plan.manifest.properties)
        _examine_rights(plan, session, database)
        if plan.manifest:
            _examine_extensions(plan, session)
            _examine_roles(plan, session, superusers=superusers, fresh_cluster=fresh_cluster)
        _examine_room(
            access,
            plan,
            session,
            method,
            may_replace=not fresh_cluster,
            copy_bytes=copy_bytes,
        )
    _collect_finding(plan, lambda: _examine_application(access, plan, stop_services))
    _collect_finding(plan, lambda: plan.scripts.extend(read_scripts(access, post_sql)))
    _compare_with_earlier(plan, vault, database)
    return plan


def _collect_finding(plan: Plan, examination: Callable[[], None]) -> None:
    try:
        examination()
    except FiredrillError as error:
        plan.findings.append(". ".join(part for part in (error.what, error.todo) if part))


def _examine_set(access: Access, plan: Plan, *, verify: bool, force: bool) -> None:
    database = access.target.database
    plan.manifest, plan.contents = examine_set(
        access.programs, access.server.major, plan.recovery_set, verify=verify
    )
    of = plan.manifest.database if plan.manifest else plan.contents.database
    if of != database and not force:
        plan.findings.append(
            f'the dump is of database "{of}", not of "{database}"; `force` restores it all the same'
        )
    warning = outdated(access.programs.version())
    if warning:
        plan.warnings.append(warning)
    if plan.manifest and plan.manifest.evidence.level == "none" and verify:
        plan.warnings.append("the set was made without evidence: its rows cannot be verified")


def _read_live(access: Access, plan: Plan, outside: Session) -> None:
    """What the live database is like; one that is damaged or closed is no reason to keep it."""
    server, database = access.server, access.target.database
    try:
        plan.live_bytes = catalog.database_bytes(outside, database)
        # In a session of its own: the comment and other words about a database are in its own encoding.
        with server.session(database) as session:
            plan.properties = catalog.read_properties(session, database)
        evidence = collect(server, database, "counts", lock_timeout=LIVE_LOCK_TIMEOUT)
    except FiredrillError as error:
        if plan.properties is None:
            found = catalog.read_properties(outside, database)
            # -2 marks a database whose DROP was interrupted; no other may have it.
            plan.properties = replace(found, connection_limit=max(found.connection_limit, -1))
        plan.warnings.append(f"the live database cannot be read: {error.what}")
        return
    plan.rows_live = evidence.counts()
    if evidence.unread:
        plan.warnings.append(
            f"rows of the live database are not known for {', '.join(evidence.unread[:10])}"
        )


def _examine_fresh(access: Access, plan: Plan) -> None:
    """A fresh cluster has nothing that anybody misses. Whoever is mistaken about it is told, before it is too late."""
    database = access.target.database
    if holds_data(access.server, database):
        plan.warnings.append(f'database "{database}" holds data already; it will be kept')
    if plan.manifest and plan.properties:
        wanted = plan.manifest.properties
        unlike = [
            one.name.replace("_", " ")
            for one in fields(wanted)
            if getattr(wanted, one.name) != getattr(plan.properties, one.name)
        ]
        if unlike:
            plan.warnings.append(
                f'database "{database}" will be what it is in the set, in {", ".join(unlike)} too'
            )


def properties_here(
    plan: Plan, session: Session, properties: DatabaseProperties
) -> DatabaseProperties:
    """Those of the set, in a tablespace that the server has."""
    name = properties.tablespace
    if session.value("SELECT count(*) FROM pg_tablespace WHERE spcname = %s", name):
        return properties
    plan.warnings.append(
        f"the server has no tablespace {name}; the database is created in the default one"
    )
    return replace(properties, tablespace="pg_default")


def _examine_rights(plan: Plan, session: Session, database: str) -> None:
    superuser, createdb = session.query(
        "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
    )[0]
    if not superuser:
        plan.findings.append(
            "the role that restores is no superuser: it could not give everything back to its owners; set `user`"
            if createdb
            else "the role that restores may not create databases; set `user` to a superuser"
        )
    if database in ("template0", "template1"):
        plan.findings.append(f"{database} is a template of the server and is never restored")


def _examine_extensions(plan: Plan, session: Session) -> None:
    available = catalog.available_extensions(session)
    wanted = plan.manifest.extensions if plan.manifest else ()
    lost = [entry.name for entry in wanted if entry.name not in available]
    if lost:
        plan.findings.append(
            f"the server cannot create the extensions {', '.join(lost)}; use an image that brings them"
        )


def _examine_roles(plan: Plan, session: Session, *, superusers: bool, fresh_cluster: bool) -> None:
    manifest = plan.manifest
    if manifest is None or plan.properties is None:
        return
    present = roles.read_roles(session, plan.properties, passwords=False)
    names = [role.name for role in present]
    plan.missing_roles = roles.missing(manifest.roles, names, every=fresh_cluster)
    if fresh_cluster:
        plan.altered_roles = roles.alterable(session, manifest.roles, names)
    altered = [role.name for role in plan.altered_roles]
    plan.warnings += roles.differing(
        [role for role in manifest.roles if role.name not in altered], present
    )
    plan.joining_roles = [
        role
        for role in roles.joining(manifest.roles, plan.missing_roles)
        if role.name not in altered
    ]
    plan.warnings += [
        f"role {role.name} will become a member of {entry.group}, as it is in the set"
        for role in plan.joining_roles
        for entry in role.member_of
    ]
    for role in (*plan.missing_roles, *plan.altered_roles):
        plan.warnings.append(
            f"role {role.name} is there and will be altered to what it is in the set, its password too"
            if role.name in altered
            else f"role {role.name} is missing and will be created"
        )
        if role.superuser and not superusers:
            plan.warnings.append(
                f"role {role.name} was a superuser and will not be one (see restore_superusers)"
            )


def _wal_growth(access: Access, session: Session, directory: str, restored_bytes: int) -> int:
    """By how many bytes the log of transactions may grow on the disk of the data: a load writes its data to it once more,
    and a server that cannot extend it goes down, with its live databases (wal-configuration.html of the manual)."""
    try:
        if not on_one_disk_inside(access.container.pid, directory, f"{directory}/pg_wal"):
            return 0
        limit, present, ready = session.query(
            "SELECT pg_size_bytes(current_setting('max_wal_size')), coalesce(sum(size), 0)::int8,"
            " coalesce(sum(size) FILTER (WHERE name > pg_walfile_name(pg_current_wal_lsn())), 0)::int8"
            " FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"
        )[0]
    except (OSError, ServerError):
        # Not every role may look at it, and one that may not is refused for that.
        return 0
    return max(0, min(restored_bytes - int(ready), int(limit - present)))


def _examine_room(
    access: Access,
    plan: Plan,
    session: Session,
    method: str,
    *,
    may_replace: bool,
    copy_bytes: int,
) -> None:
    """Room for what is restored, where the server keeps its data."""
    if plan.manifest:
        needed = plan.manifest.source.database_bytes
    else:
        try:
            needed = plan.recovery_set.path.stat().st_size * 4
        except OSError:
            return
    directory = str(session.value("SELECT current_setting('data_directory')"))
    wal = _wal_growth(access, session, directory, needed)
    if method == "replace":
        needed = max(0, needed - plan.live_bytes)
    needed = room_for(needed) + wal
    kept = kept_beside(session, access.target.database)
    listed = ", ".join(f"{name} ({human_bytes(size)})" for name, size in kept[:_SHOWN])
    if len(kept) > _SHOWN:
        listed += f" and {len(kept) - _SHOWN} more"
    still_there = f"earlier restores kept {listed}: drop those that nobody goes back to"
    try:
        free = free_bytes_inside(access.container.pid, directory) + copy_bytes
    except OSError:
        plan.warnings.append(
            f"the free disk space at {directory} in the container could not be read"
        )
        return
    if free < needed:
        cure = (
            "free some space, or use `method: replace`"
            if method == "swap" and may_replace
            else "free some space"
        )
        if kept:
            cure += f"; {still_there}"
        plan.findings.append(
            f"the disk of the database has {human_bytes(free)} free and the restore needs about "
            f"{human_bytes(needed)}"
            + (f", {human_bytes(wal)} of it for WAL (see max_wal_size)" if wal else "")
            + f"; {cure}"
        )
    elif len(kept) > 1:
        # One is the way back from the last restore; each further one is as large, and nothing else removes it.
        plan.warnings.append(still_there)


def _examine_application(access: Access, plan: Plan, names: tuple[str, ...]) -> None:
    project = access.target.project or access.container.project
    plan.running_services = services.running(access.containers, project, names)
    if access.container.id in plan.running_services:
        plan.findings.append("stop_services names the database's own container")


def _compare_with_earlier(plan: Plan, vault: Vault, database: str) -> None:
    """A dump taken after an accident is the newest one, and holds the accident."""
    manifest = plan.manifest
    if manifest is None:
        return
    manifests = {
        one.name: one.manifest
        for one in vault.sets(database)
        if one.manifest and one.manifest.source.origin == manifest.source.origin
    }
    known = [Candidate.of(one) for one in manifests.values()]
    before = backup_before(known, Candidate.of(manifest))
    plan.earlier = manifests[before.name] if before else None
    if loss := loss_before(known, Candidate.of(manifest)):
        plan.warnings.append(
            f"{loss}: is it the dump of the accident? `before:{manifest.created_at}` takes the other"
        )
