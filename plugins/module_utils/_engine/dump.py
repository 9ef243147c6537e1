# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dump: one complete recovery set of a database, with evidence from the dump's own snapshot."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from . import __version__
from .access import Access, open_access
from .attempts import Attempts, failures_noted
from .catalog import database_bytes, read_extensions, read_properties
from .cipher import Plaintext
from .compression import parse_compression
from .durable import sync_directory
from .errors import (
    ConfigError,
    FiredrillError,
    HostError,
    InterruptedRun,
    OvertakenError,
    SetError,
    ToolError,
)
from .evidence import Collector, holds_rows, sequence_evidence, sequence_values
from .filenames import DUMP, GLOBALS, MANIFEST, SEALED
from .guide import GUIDE, update_guide
from .hashing import HashingFile
from .journal import Journal
from .killed import require_complete
from .manifest import FileEntry, Manifest, Source
from .model import (
    Compression,
    DatabaseProperties,
    Encryption,
    Evidence,
    Extension,
    Report,
    Role,
    Target,
    human_bytes,
    human_seconds,
    iso,
    utc_now,
)
from .neighbours import shared, shrunk, unencrypted
from .origin import read_source
from .outlet import outlet
from .programs import Contents, outdated
from .recipients import Recipients, prepare
from .recovery_set import RecoverySet, load_set
from .roles import read_roles
from .run import Progress, Run
from .server import Session
from .snapshots import POPULATED, glancing, snapshot
from .vault import Vault
from .verdicts import told_trouble
from .witness import Witness

EVIDENCE_LEVELS = ("full", "counts", "none")
_ATTEMPTS = 5
_EXCLUDED = "its data was excluded"
#: pg_dump leaves it so, since the query would fail.
_NOT_REFRESHED = "not refreshed by the dump, since it reads a view that is not populated"


@dataclass(frozen=True)
class BackupRequest:
    """What to dump, to where and how. `min_free_bytes` must remain free after the dump.

    With `encryption` nothing of the content reaches the disk in plaintext.
    """

    target: Target
    directory: Path
    compress: str = "auto"
    evidence: str = "full"
    globals: bool = True
    exclude_table_data: tuple[str, ...] = ()
    min_free_bytes: int = 0
    timeout_s: float = 0
    check: bool = False
    purpose: str = "backup"
    encryption: Encryption | None = None


def backup(request: BackupRequest, progress: Progress | None = None) -> Report:
    """Makes one recovery set of a database; with `check` only says what it would make.

    :raises FiredrillError: no set was made, and no file of it is left.
    """
    if request.evidence not in EVIDENCE_LEVELS:
        raise ConfigError(
            f'"{request.evidence}" is no level of evidence',
            todo=f"Use {', '.join(EVIDENCE_LEVELS)}",
        )
    directory, database = request.directory, request.target.database
    with failures_noted(directory, database, check=request.check):
        report = _backup(request, progress)
    if not request.check:
        Attempts(directory, database).end("dump")
        try:
            update_guide(request.directory)
        except (OSError, HostError) as error:
            why = error.strerror if isinstance(error, OSError) else error.what
            report.warnings.append(f"{GUIDE} could not be written: {why}")
    return report


def _backup(request: BackupRequest, progress: Progress | None) -> Report:
    with Run("backup", timeout_s=request.timeout_s, progress=progress) as run:
        access = open_access(run, request.target)
        with run.lock(*access.lock_identity):
            notes = []
            if not request.check:
                journal = Journal(request.directory, access.container.name, request.target.database)
                # A database that a killed `replace` left half full must not become the newest set.
                notes = require_complete(access, journal)
            report = backup_with(access, request)
            report.warnings[:0] = notes
            return report


def backup_with(
    access: Access, request: BackupRequest, recipients: Recipients | None = None
) -> Report:
    """As backup(), for a caller that holds the lock already.

    :param recipients: those of the request, if the caller has prepared them.
    """
    run, database = access.run, request.target.database
    vault = Vault(request.directory)
    vault.require_disk()
    with run.phase("preflight"), access.server.session(database) as session:
        if request.encryption and recipients is None:
            recipients = prepare(run, request.encryption)
        compress = parse_compression(request.compress, access.server.major)
        size = database_bytes(session, database)
        earlier = vault.sets(database)
        _check_room(vault, size, earlier, request.min_free_bytes)
        plain = unencrypted(encrypted=recipients is not None, earlier=earlier)
        if request.check:
            forecast = _forecast(access, request, vault, size, compress, recipients)
            forecast.warnings += [plain] if plain else []
            return forecast
        made = vault.prepare()
        vault.sweep()
    if made:
        sync_directory(request.directory.parent)
    try:
        manifest = _make(access, request, vault, compress, size, recipients)
    except FiredrillError as error:
        if recipients and not isinstance(error, InterruptedRun):
            blamed = "This host could not make it" if isinstance(error, HostError) else "It failed"
            error.told = told_trouble(blamed, "made the backup")
        raise
    odd = [
        plain,
        vault.exposed(request.directory / manifest.dump.name),
        shared(manifest, earlier),
        shrunk(manifest, earlier),
    ]
    warnings = [*manifest.warnings, *filter(None, odd)]
    return Report(
        action="backup",
        changed=True,
        msg=(
            f"{request.directory / manifest.dump.name}: {human_bytes(manifest.dump.bytes)} in "
            f"{human_seconds(run.elapsed_s)}, {len(manifest.evidence.tables)} tables"
            + (
                f", {manifest.evidence.rows} rows"
                if request.evidence != "none"
                else ", no evidence taken" + (" and no row found" if manifest.rows == 0 else "")
            )
            + (f", encrypted with {manifest.encryption.method}" if manifest.encryption else "")
        ),
        database=database,
        container=access.container.name,
        set_name=manifest.name,
        phases=dict(run.phases),
        warnings=warnings,
        details=set_details(load_set(request.directory / manifest.dump.name)),
    )


def set_details(recovery_set: RecoverySet) -> dict[str, object]:
    """What a report says of a set; nothing in it is secret."""
    manifest = recovery_set.require_manifest()
    return {
        "path": str(recovery_set.path),
        "bytes": manifest.dump.bytes,
        "sha256": manifest.dump.sha256,
        "created_at": manifest.created_at,
        "evidence_level": manifest.evidence.level,
        "rows": manifest.evidence.counts(),
        "total_rows": manifest.rows,
        "compress": manifest.compress,
    }


def _check_room(vault: Vault, size: int, earlier: list[RecoverySet], keep_free: int) -> None:
    last = earlier[0].manifest if earlier else None
    needed = int(last.dump.bytes * 1.2) if last else size // 3
    free = vault.free_bytes()
    if free < needed + keep_free:
        raise HostError(
            f"The disk of {vault.directory} has {human_bytes(free)} free, the dump needs about "
            f"{human_bytes(needed)}"
            + (f" and {human_bytes(keep_free)} have to stay free" if keep_free else ""),
            state="Nothing was changed",
            todo="Free some space, or move older sets to another disk (`firedrill list` shows them)",
        )


def _forecast(
    access: Access,
    request: BackupRequest,
    vault: Vault,
    size: int,
    compress: Compression,
    recipients: Recipients | None,
) -> Report:
    name = vault.free_name(request.target.database, utc_now())
    path = request.directory / f"{name}{DUMP}{recipients.ending if recipients else ''}"
    hidden = f", encrypted to {len(recipients.encryption.recipients)} keys" if recipients else ""
    return Report(
        action="backup",
        changed=True,
        msg=f"Would dump {human_bytes(size)} of database with {compress} to {path}{hidden}",
        database=request.target.database,
        container=access.container.name,
        set_name=name,
        phases=dict(access.run.phases),
        details={"path": str(path), "compress": str(compress)},
    )


def _make(
    access: Access,
    request: BackupRequest,
    vault: Vault,
    compress: Compression,
    size: int,
    recipients: Recipients | None,
) -> Manifest:
    """Makes the set, and returns the whole manifest, of which an encrypted set shows only a part."""
    run, server, database = access.run, access.server, request.target.database
    run.state = "No file was written; the database was only read"
    with server.session(database) as session:
        source = read_source(access, session, size)
        with vault.unnamed() as dump, vault.unnamed() as globals_file:
            found = _capture(access, request, compress, session, dump, recipients)
            with run.phase("verify"):
                contents = found.contents
                if contents is None:
                    access.programs.read_whole(dump.file)
                    contents = access.programs.contents(dump.file)
                evidence = _complete(found.evidence, contents, request)
            roles_text = None
            if request.globals:
                with run.phase("globals"):
                    roles_text = _write_globals(access, globals_file, database, recipients)
            ending = recipients.ending if recipients else ""
            with vault.lock():
                name = vault.free_name(database, found.moment)
                plaintext = ((f"{name}{DUMP}", found.archive), (f"{name}{GLOBALS}", roles_text))
                manifest = Manifest(
                    name=name,
                    database=database,
                    created_at=iso(found.moment),
                    finished_at=iso(utc_now()),
                    firedrill_version=__version__,
                    compress=str(compress),
                    source=source,
                    properties=found.properties,
                    extensions=found.extensions,
                    roles=found.roles,
                    dump=dump.entry(f"{name}{DUMP}{ending}"),
                    globals=globals_file.entry(f"{name}{GLOBALS}{ending}")
                    if request.globals
                    else None,
                    evidence=evidence,
                    durations_s=dict(run.phases),
                    excluded_table_data=request.exclude_table_data,
                    purpose=request.purpose,
                    warnings=_warnings(source, database, evidence),
                    encryption=recipients.encryption if recipients else None,
                    plaintext=tuple(
                        FileEntry(file, text.bytes, text.sha256) for file, text in plaintext if text
                    ),
                    total_rows=0 if found.is_empty else None,
                )
                _publish(run, vault, manifest, dump, globals_file, recipients)
    return manifest


@dataclass(frozen=True)
class _Captured:
    """All that is of one snapshot, taken at `moment`; `is_empty` says whether, uncounted, it had no row at all.

    `contents` are those of an archive that is encrypted.
    """

    moment: datetime
    properties: DatabaseProperties
    extensions: tuple[Extension, ...]
    roles: tuple[Role, ...]
    evidence: Evidence
    is_empty: bool
    archive: Plaintext | None
    contents: Contents | None


def _capture(
    access: Access,
    request: BackupRequest,
    compress: Compression,
    session: Session,
    file: HashingFile,
    recipients: Recipients | None,
) -> _Captured:
    """Archive, evidence and roles of one snapshot; a change of the schema that wants to go first does so.

    :raises OvertakenError: another one did each time.
    """
    run, server, database = access.run, access.server, request.target.database
    left = _ATTEMPTS
    while True:
        left -= 1
        try:
            with snapshot(session) as (ident, tables):
                moment = utc_now()
                # A migration that we waited for may have made a role that the archive names.
                with glancing(session):
                    properties = read_properties(session, database)
                    extensions = read_extensions(session)
                    roles = read_roles(session, properties, passwords=request.globals)
                before = sequence_values(session)
                with Collector(
                    server, database, request.evidence, tables, snapshot_id=ident
                ) as collector:
                    with run.phase("dump"):
                        archive, contents = _dump(
                            access, request, compress, ident, file, recipients
                        )
                    with run.phase("evidence"):
                        evidence = collector.result()
                after = sequence_values(session)
                is_empty = request.evidence == "none" and not holds_rows(session, tables)
            if request.evidence != "none":
                evidence = replace(evidence, sequences=sequence_evidence(before, after))
            return _Captured(
                moment, properties, extensions, roles, evidence, is_empty, archive, contents
            )
        except OvertakenError as error:
            if not left:
                raise OvertakenError(
                    f'The schema of database "{database}" was being changed whenever its dump began: {error.what}',
                    todo="Run this again when migrations have ended",
                ) from error
            file.restart()


def _dump(
    access: Access,
    request: BackupRequest,
    compress: Compression,
    snapshot_id: str,
    file: HashingFile,
    recipients: Recipients | None,
) -> tuple[Plaintext | None, Contents | None]:
    """Writes the archive. Of one that is encrypted nobody here can read the file: it is read while it passes by."""
    programs, excluded = access.programs, request.exclude_table_data
    with ExitStack() as stack:
        witness = stack.enter_context(Witness(programs)) if recipients else None
        out = stack.enter_context(outlet(file, recipients))
        with programs.dump(request.target.database, snapshot_id, compress, excluded) as sidecar:
            for chunk in sidecar:
                out.write(chunk)
                if witness:
                    witness.write(chunk)
                access.run.advance(out.written)
            programs.check(sidecar.finish(), "pg_dump")
        plaintext = out.finish()
        return plaintext, witness.contents() if witness else None


def _publish(
    run: Run,
    vault: Vault,
    manifest: Manifest,
    dump: HashingFile,
    globals_file: HashingFile,
    recipients: Recipients | None,
) -> None:
    """Gives the files of a set their names, the manifest last; when it has not come to that, none of them has one."""
    with vault.unnamed() as sealed, vault.unnamed() as last:
        shown = _seal(sealed, manifest, recipients) if recipients else manifest
        last.write(shown.to_json().encode("utf-8", "surrogateescape"))
        last.finish()
        parts = ((dump, shown.dump), (globals_file, shown.globals), (sealed, shown.sealed))
        named = [(file, entry.name) for file, entry in parts if entry]
        named.append((last, f"{manifest.name}{MANIFEST}"))
        for file, unused_name in named:
            file.require_place(vault.directory)
        try:
            for file, name in named[:-1]:
                file.publish(name)
            sync_directory(vault.directory)
            last.publish(named[-1][1])
            sync_directory(vault.directory)
        except BaseException:
            # The manifest first: what is half gone is no set.
            left = [name for file, name in reversed(named) if not file.withdraw(name)]
            if left:
                run.state = f"{', '.join(left)} could not be removed from {vault.directory} again"
            raise


def _seal(file: HashingFile, manifest: Manifest, recipients: Recipients) -> Manifest:
    """Writes the whole manifest encrypted, and returns what everybody may read of it."""
    with outlet(file, recipients) as out:
        out.write(manifest.to_json().encode("utf-8", "surrogateescape"))
        out.finish()
    return manifest.plain(file.entry(f"{manifest.name}{SEALED}{recipients.ending}"))


def _write_globals(
    access: Access, file: HashingFile, database: str, recipients: Recipients | None
) -> Plaintext | None:
    with access.server.session(database) as session:
        readable = bool(session.value("SELECT has_table_privilege('pg_authid', 'SELECT')"))
    with outlet(file, recipients) as out:
        with access.programs.dump_globals(database, passwords=readable) as sidecar:
            for chunk in sidecar:
                out.write(chunk)
            access.programs.check(sidecar.finish(), "pg_dumpall")
        if not out.written:
            raise ToolError("pg_dumpall ended without an error and wrote nothing")
        return out.finish()


def _complete(evidence: Evidence, contents: Contents, request: BackupRequest) -> Evidence:
    """Evidence with that marked whose data is not in the archive: it was excluded, or a view is not to be refreshed.

    :raises SetError: the archive lacks a table that the snapshot held.
    """
    lost = missing_tables(evidence, contents, excluding=bool(request.exclude_table_data))
    if lost:
        raise SetError(
            f"The dump lacks {', '.join(lost[:5])}"
            + (f" and {len(lost) - 5} more" if len(lost) > 5 else ""),
            state="No file was written",
            todo="Run it again; if it happens again, report it with the server's version",
        )
    excluding = bool(request.exclude_table_data)
    tables = tuple(
        replace(table, rows=None, fingerprint=None, note=_EXCLUDED if excluding else _NOT_REFRESHED)
        if table.oid not in contents.data and (table.kind == "table" or table.note == POPULATED)
        else table
        for table in evidence.tables
    )
    # A pattern takes sequences too.
    sequences = tuple(
        replace(sequence, note=_EXCLUDED)
        if excluding and not contents.sets_sequence(sequence.schema, sequence.name)
        else sequence
        for sequence in evidence.sequences
    )
    return replace(evidence, tables=tables, sequences=sequences)


def missing_tables(evidence: Evidence, contents: Contents, *, excluding: bool) -> list[str]:
    """Tables of the evidence that an archive does not hold, with their data unless data was excluded."""
    return [
        table.label
        for table in evidence.tables
        if table.oid not in contents.relations
        or (table.kind == "table" and not excluding and table.oid not in contents.data)
    ]


def _warnings(source: Source, database: str, evidence: Evidence) -> tuple[str, ...]:
    found = [outdated(source.pg_dump_version)]
    if not evidence.tables:
        found.append(f'database "{database}" has no table')
    found += [
        f"{table.label} comes back without rows: {table.note}"
        for table in evidence.tables
        if table.note == _NOT_REFRESHED
    ]
    if evidence.unread:
        found.append(f"no evidence for {', '.join(evidence.unread)}")
    return tuple(text for text in found if text)
