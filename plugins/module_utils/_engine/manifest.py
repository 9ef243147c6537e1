# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifest: what a recovery set is, where it came from and what it holds, as JSON with a checksum."""

from __future__ import annotations

import hashlib
import json
import sys
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from typing import Any

from .errors import SetError
from .model import DatabaseProperties, Encryption, Evidence, Extension, Role, parse_time

FORMAT = 1
#: The level of the evidence of a manifest whose own is sealed.
SEALED_LEVEL = "sealed"


@dataclass(frozen=True)
class FileEntry:
    """One file of a set: its name, its size in bytes, its SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where a dump came from."""

    host: str
    container: str
    project: str
    service: str
    image: str
    image_id: str
    image_digest: str
    server_version: str
    major: int
    pg_dump_version: str
    system_identifier: str
    database_oid: int
    database_bytes: int
    preload_libraries: str
    superuser: str
    byte_order: str = sys.byteorder

    @property
    def origin(self) -> tuple[str, ...]:
        """What tells it from other servers: Compose's service, which keeps its name when its container gets another."""
        return (self.project, self.service) if self.service else (self.container,)


@dataclass(frozen=True)
class Manifest:
    """The manifest of one recovery set; times are UTC, ISO 8601.

    `purpose` is `backup`, or `safety` for what a restore dumped before it destroyed: `latest` never means that.
    In an encrypted set everybody can read the plain manifest, which has no more than what plain() leaves; the
    whole one is the content of the file `sealed`, and there `plaintext` says what the decrypted files are like.
    """

    name: str
    database: str
    created_at: str
    finished_at: str
    firedrill_version: str
    compress: str
    source: Source
    properties: DatabaseProperties
    extensions: tuple[Extension, ...]
    roles: tuple[Role, ...]
    dump: FileEntry
    globals: FileEntry | None
    evidence: Evidence
    durations_s: dict[str, float] = field(default_factory=dict)
    excluded_table_data: tuple[str, ...] = ()
    purpose: str = "backup"
    warnings: tuple[str, ...] = ()
    encryption: Encryption | None = None
    sealed: FileEntry | None = None
    plaintext: tuple[FileEntry, ...] = ()
    total_rows: int | None = None
    format: int = FORMAT

    @property
    def created(self) -> datetime:
        return parse_time(self.created_at)

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """Every file of the set but the manifest itself."""
        return tuple(entry for entry in (self.dump, self.globals, self.sealed) if entry)

    @property
    def locked(self) -> bool:
        """Whether this is the plain manifest of an encrypted set."""
        return self.evidence.level == SEALED_LEVEL

    @property
    def rows(self) -> int | None:
        """The rows of all tables together, known of an encrypted set too; None when they were not counted and are not none."""
        if self.locked or self.evidence.level == "none":
            return self.total_rows
        return self.evidence.rows

    def plain(self, sealed: FileEntry) -> Manifest:
        """The manifest of an encrypted set as everybody may read it: nothing of the content but the number of rows.

        :param sealed: the file that holds this whole one.
        """
        source = replace(
            self.source, preload_libraries="", superuser="", system_identifier="", database_oid=0
        )
        return replace(
            self,
            source=source,
            properties=DatabaseProperties("", "", "", ""),
            extensions=(),
            roles=(),
            evidence=Evidence(SEALED_LEVEL),
            excluded_table_data=(),
            warnings=(),
            plaintext=(),
            sealed=sealed,
            total_rows=self.rows,
        )

    def to_json(self) -> str:
        """The manifest's file: JSON whose `checksum` covers everything else in it."""
        content = asdict(self)
        content["checksum"] = _checksum(content)
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, label: str) -> Manifest:
        """Reads a manifest.

        :param label: the file's name, for messages.
        :raises SetError: it is no manifest, was edited, or is of a newer format.
        """
        try:
            content = json.loads(text)
            if not isinstance(content, dict):
                raise ValueError("not an object")
            if content.get("format", 0) > FORMAT:
                raise SetError(
                    f"The manifest {label} is of format {content['format']}, this version knows {FORMAT}",
                    todo="Use the Firedrill version that made it, or a newer one",
                )
            checksum = content.pop("checksum", "")
            if checksum != _checksum(content):
                raise SetError(
                    f"The manifest {label} was edited or damaged: its checksum is wrong",
                    todo="Bring the original file back; `verify: false` restores the dump without it",
                )
            manifest = typing.cast(Manifest, _build(Manifest, content))
            # A time that cannot be read would break every list that this set stands in.
            parse_time(manifest.created_at)
            return manifest
        except (ValueError, TypeError, KeyError) as error:
            raise SetError(
                f"The manifest {label} cannot be read ({error})",
                todo="Bring the original file back; `verify: false` restores the dump without it",
            ) from error


def _checksum(content: dict[str, Any]) -> str:
    plain = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(plain.encode("utf-8", "surrogateescape")).hexdigest()


#: How a value of a dataclass field is rebuilt; every other field is a plain value.
_NESTED: dict[tuple[str, str], Any] = {}


def _build(kind: Any, content: dict[str, Any]) -> Any:
    values = {}
    for entry in fields(kind):
        if entry.name in content:
            value = content[entry.name]
            nested = _NESTED.get((kind.__name__, entry.name))
            if nested is not None and value is not None:
                value = (
                    [_build(nested, item) for item in value]
                    if isinstance(value, list)
                    else _build(nested, value)
                )
            values[entry.name] = _frozen(value)
    return kind(**values)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _learn(kind: Any) -> None:
    """Fills _NESTED from the annotations, which Python 3.9 cannot evaluate (`X | None`)."""
    rooms = vars(sys.modules[kind.__module__])
    for entry in fields(kind):
        inner = str(entry.type).replace(" | None", "")
        inner = inner.replace("tuple[", "").replace(", ...]", "")
        candidate = rooms.get(inner)
        if isinstance(candidate, type) and is_dataclass(candidate):
            _NESTED[kind.__name__, entry.name] = candidate
            _learn(candidate)


_learn(Manifest)
