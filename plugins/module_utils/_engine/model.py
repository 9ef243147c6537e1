# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The values that the rooms of the engine hand to each other."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, NamedTuple

LOWEST_MAJOR = 13


@dataclass(frozen=True)
class Target:
    """Which database: the container by name, or by Compose project and service."""

    database: str
    container: str = ""
    project: str = ""
    service: str = ""
    user: str = ""
    login_password: str = field(default="", repr=False)
    login_host: str = ""
    login_port: int = 5432

    def __str__(self) -> str:
        where = self.container or f"{self.project}/{self.service}"
        return f'database "{self.database}" in {where}'


@dataclass(frozen=True)
class Compression:
    """A pg_dump compression: method `zstd`, `gzip`, `lz4` or `none`, and its level (-1: the method's own)."""

    method: str
    level: int = -1

    def __str__(self) -> str:
        return self.method if self.level < 0 else f"{self.method}:{self.level}"

    @property
    def argument(self) -> str:
        """The value for `--compress`; servers before 16 know a bare gzip level only."""
        if self.method == "none":
            return "0"
        if self.method == "gzip":
            return str(6 if self.level < 0 else self.level)
        return str(self)


@dataclass(frozen=True)
class Encryption:
    """How files are encrypted: `method` is the program, `age` or `gpg`; each of the recipients can open them.

    Of a request the recipients are public keys as they are given to the program (for gpg armored, in a manifest
    their fingerprints).
    """

    method: str
    recipients: tuple[str, ...]


@dataclass(frozen=True)
class TableEvidence:
    """Rows and fingerprint of one table; `note` says why either is absent.

    Of one that `inherits` from another, not as its partition, the order of the columns is no part of the fingerprint.
    """

    schema: str
    name: str
    oid: int
    kind: str
    rows: int | None = None
    fingerprint: str | None = None
    note: str = ""
    inherits: bool = False

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class SequenceEvidence:
    """The values of a sequence before and after the dump; a restored one lies between them.

    `note` says why it does not.
    """

    schema: str
    name: str
    first: int
    last: int
    note: str = ""

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class LargeObjects:
    """How many large objects there are, and a fingerprint over their contents."""

    count: int
    fingerprint: str | None = None


@dataclass(frozen=True)
class Evidence:
    """What a database held in one snapshot. Level `full`, `counts` or `none`.

    `configuration` names tables of extensions whose rows a dump takes.
    """

    level: str
    encoding: str = ""
    tables: tuple[TableEvidence, ...] = ()
    sequences: tuple[SequenceEvidence, ...] = ()
    large_objects: LargeObjects | None = None
    objects: dict[str, int] = field(default_factory=dict)
    configuration: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(table.rows or 0 for table in self.tables)

    @property
    def unread(self) -> list[str]:
        """Tables that could not be read, with the reason."""
        return [f"{t.label} ({t.note})" for t in self.tables if t.note.startswith("cannot")]

    def counts(self) -> dict[str, int]:
        """Rows by table, `schema.table` as key."""
        return {table.label: table.rows for table in self.tables if table.rows is not None}


@dataclass(frozen=True)
class Comparison:
    """The outcome of holding two pieces of evidence against each other.

    `unread` is the part of `not_compared` that an error kept from it; the rest never is compared.
    """

    compared: int
    differences: tuple[str, ...]
    not_compared: tuple[str, ...]
    unread: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        return not self.differences


@dataclass(frozen=True)
class DatabaseProperties:
    """What belongs to the database itself and is in no plain dump of its contents.

    `acl` holds (grantee, privilege, grantable) with "" for PUBLIC, or is None for the built-in default;
    `settings` holds (role or "", `name=value`) of ALTER DATABASE SET and ALTER ROLE IN DATABASE SET.
    """

    owner: str
    encoding: str
    collate: str
    ctype: str
    provider: str = "c"
    locale: str = ""
    icu_rules: str = ""
    tablespace: str = "pg_default"
    connection_limit: int = -1
    comment: str = ""
    acl: tuple[tuple[str, str, bool], ...] | None = None
    settings: tuple[tuple[str, str], ...] = ()


class Membership(NamedTuple):
    """What a role may do as a member of `group`; the last two are options from PostgreSQL 16 on, None before."""

    group: str
    admin: bool = False
    inherit: bool | None = None
    set_role: bool | None = None


@dataclass(frozen=True)
class Role:
    """A role of the cluster, with its memberships."""

    name: str
    superuser: bool = False
    inherit: bool = True
    createrole: bool = False
    createdb: bool = False
    login: bool = False
    replication: bool = False
    bypassrls: bool = False
    connection_limit: int = -1
    valid_until: str = ""
    password_hash: str = field(default="", repr=False)
    settings: tuple[str, ...] = ()
    member_of: tuple[Membership, ...] = ()
    named_by_database: bool = False

    def __post_init__(self) -> None:
        # A manifest has them as lists, one from before PostgreSQL's options were kept as shorter ones.
        object.__setattr__(self, "member_of", tuple(Membership(*m) for m in self.member_of))


@dataclass(frozen=True)
class Extension:
    """An extension of the database with its version and schema."""

    name: str
    version: str
    schema: str


@dataclass(frozen=True)
class SqlScript:
    """SQL to play after a restore: a file on the host, a file in the database's container, or statements."""

    file: str = ""
    container_file: str = ""
    sql: str = ""

    @property
    def label(self) -> str:
        return self.file or self.container_file or "statements"


@dataclass(frozen=True)
class Assertion:
    """SQL whose only value must be true."""

    sql: str
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or self.sql


@dataclass(frozen=True)
class Freshness:
    """How old data may be: the set's age, or with `sql` the age of the moment that it returns."""

    max_age_s: float
    sql: str = ""


@dataclass(frozen=True)
class HttpCheck:
    """A request to the application and the answer that is expected.

    Either `url`, asked from the host, or `service`, `port` and `path`, asked inside the service's network.
    `expect` is a JMESPath expression on the JSON answer, which must equal `equals`, or be true without it.
    """

    name: str = ""
    url: str = ""
    service: str = ""
    port: int = 0
    path: str = "/"
    method: str = "GET"
    body: Any = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    expect_status: int = 200
    expect: str = ""
    equals: Any = None
    timeout_s: float = 10

    @property
    def label(self) -> str:
        where = self.url or f"{self.service}:{self.port}{self.path}"
        return self.name or f"{self.method} {where}"


@dataclass(frozen=True)
class CheckResult:
    """One check of a drill. `status` is `ok`, `failed` (the promise is broken), `error` (it could not be
    asked), `skipped`, or `partial` (what could be asked is as promised); `reason` says why for all but `ok`."""

    kind: str
    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Problem:
    """Something that somebody has to look after.

    `key` is what makes it the same one an hour later, when its words have another age, size or reason.
    """

    key: str
    words: str


@dataclass
class Report:
    """What a run did: the same from the module and from the command.

    `discreet` is what may be written beside the sets or sent to others, where that is less.
    """

    action: str
    changed: bool
    msg: str
    database: str = ""
    container: str = ""
    set_name: str = ""
    verdict: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    discreet: Report | None = field(default=None, repr=False)

    @property
    def public(self) -> Report:
        """What others may hear."""
        return self.discreet or self

    def as_dict(self) -> dict[str, Any]:
        """Flat, for JSON: the details stand beside the other fields."""
        out = asdict(replace(self, discreet=None))
        del out["discreet"]
        out.update(out.pop("details"))
        return out


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def iso(moment: datetime) -> str:
    """UTC, ISO 8601, whole seconds, `Z`."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """A moment from ISO 8601, `YYYY-mm-dd[ HH:MM[:SS]]` or `YYYYmmdd_HHMMSS`; without a zone it is UTC.

    :raises ValueError: when it is none of these.
    """
    if re.fullmatch(r"\d{8}_\d{6}", text):
        return datetime.strptime(text, "%Y%m%d_%H%M%S").replace(tzinfo=timezone.utc)
    moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def human_bytes(count: float) -> str:
    """`1234567` as `1.2 MB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """`4000` as `1 h 7 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
