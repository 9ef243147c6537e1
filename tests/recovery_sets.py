# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Recovery sets as files only, for tests that need no server: manifests and bytes that nobody could restore."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.filenames import CIPHERS
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import (
    FileEntry,
    Manifest,
    Source,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    DatabaseProperties,
    Encryption,
    Evidence,
    Extension,
    Report,
    Role,
    TableEvidence,
    iso,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.report import (
    LOG_NAME,
    append_json,
)

#: Words of the content, none of which an encrypted set may show.
SECRETS = (
    *("patients", "clinic", "hidden_owner", "hidden_role", "SCRAM-SHA-256", "hidden_extension"),
    *("hidden_library", "hidden_superuser", "hidden_excluded", "hidden_warning", "hidden_comment"),
)


def a_manifest(method: str = "", name: str = "shop_20260219_020000") -> Manifest:
    """The whole manifest of a set of database `shop` with 7 rows, encrypted with `method` or not."""
    end = CIPHERS.get(method, "")
    return Manifest(
        name=name,
        database="shop",
        created_at="2026-02-19T02:00:00Z",
        finished_at="2026-02-19T02:00:05Z",
        firedrill_version="0.1.0",
        compress="zstd:3",
        source=Source(
            *("pi", "shop-db-1", "shop", "db", "postgres:17", "sha256:1", "postgres@sha256:2"),
            *("17.12", 17, "17.12", "7000", 16384, 8000000, "hidden_library", "hidden_superuser"),
        ),
        properties=DatabaseProperties("hidden_owner", "UTF8", "C", "C", comment="hidden_comment"),
        extensions=(Extension("hidden_extension", "1", "public"),),
        roles=(Role("hidden_role", password_hash="SCRAM-SHA-256$4096:x"),),
        dump=FileEntry(f"{name}.dump{end}", 0, ""),
        globals=FileEntry(f"{name}.globals.sql{end}", 0, ""),
        evidence=Evidence(
            "full",
            "UTF8",
            (TableEvidence("clinic", "patients", 16385, "table", 7, "12345"),),
        ),
        excluded_table_data=("hidden_excluded",),
        warnings=("hidden_warning",),
        encryption=Encryption(method, ("age1public",)) if method else None,
    )


def lay_out(
    directory: Path,
    method: str = "",
    *,
    created: datetime | None = None,
    rows: int = 7,
    counted: bool = True,
    purpose: str = "backup",
    number: str = "",
    host: str = "pi",
) -> Manifest:
    """Writes a set whose files have the sizes and hashes of its manifest, which is returned as it was written.

    :param counted: whether evidence was taken; else only whether there is a row is known.
    :param number: `_2` at the end of its name, when its second has several.
    """
    whole = a_manifest(method)
    if created:
        whole = a_manifest(method, created.strftime("shop_%Y%m%d_%H%M%S") + number)
        whole = replace(whole, created_at=iso(created))
    whole = replace(whole, purpose=purpose)
    whole = replace(whole, source=replace(whole.source, host=host))
    (table,) = whole.evidence.tables
    whole = replace(whole, evidence=replace(whole.evidence, tables=(replace(table, rows=rows),)))
    if not counted:
        uncounted = Evidence("none", tables=(replace(table, rows=None, fingerprint=None),))
        whole = replace(whole, evidence=uncounted, total_rows=None if rows else 0)
    written = replace(whole, dump=_file(directory, whole.dump.name))
    if whole.globals:
        written = replace(written, globals=_file(directory, whole.globals.name))
    if method:
        written = written.plain(_file(directory, f"{whole.name}.sealed.json{CIPHERS[method]}"))
    (directory / f"{whole.name}.json").write_text(written.to_json())
    return written


def drilled(directory: Path, name: str, verdict: str, **checks: str) -> None:
    """Notes a drill of a set: its verdict, and the status of its checks by their kind."""
    found = [{"kind": kind, "name": "x", "status": status} for kind, status in checks.items()]
    report = Report(
        action="drill",
        changed=False,
        msg=verdict,
        set_name=name,
        verdict=verdict,
        details={"target": "scratch", "checks": found},
    )
    append_json(directory / LOG_NAME, report)


def _file(directory: Path, name: str) -> FileEntry:
    content = f"the bytes of {name}".encode()
    (directory / name).write_bytes(content)
    return FileEntry(name, len(content), hashlib.sha256(content).hexdigest())
