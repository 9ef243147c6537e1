# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The snapshot that a dump and its evidence share: its tables, each locked before it exists."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import FiredrillError, ServerError, TargetError
from .model import TableEvidence
from .server import Session, composed

_LOCK_TIMEOUT = "60s"
_LOCK_ATTEMPTS = 5
#: What is noted of a materialized view, and compared.
POPULATED, NOT_POPULATED = "populated, its contents are not read", "not populated"
SNAPSHOT_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_LOCKABLE = ("table", "partitioned table")
_KINDS = {"r": "table", "p": "partitioned table", "m": "materialized view", "f": "foreign table"}


NOT_OURS = """n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                    AND d.objid = c.oid AND d.deptype = 'e')"""

_TABLES = f"""
SELECT n.nspname, c.relname, c.oid::int8, c.relkind, c.relispopulated,
       NOT c.relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'f') AND {NOT_OURS}
 ORDER BY 1, 2"""


@contextlib.contextmanager
def glancing(session: Session) -> Iterator[None]:
    """A part of a transaction, which holds none of the part's locks afterwards.

    What we keep locked, a change of the schema waits for, and behind that whoever asks for the same lock; when
    that is another session of ours, nobody goes on: the server does not see that we wait for ourselves.

    A ServerError leaves it as it is, and the transaction goes on all the same.
    """
    # Locks that were taken since a savepoint go when it is rolled back to (explicit-locking.html of the manual).
    back = "ROLLBACK TO SAVEPOINT firedrill; RELEASE SAVEPOINT firedrill"
    session.execute("SAVEPOINT firedrill")
    try:
        yield
    except ServerError:
        session.execute(back)
        raise
    session.execute(back)


def glance(session: Session, statement: str) -> list[tuple[Any, ...]]:
    """Rows of one statement, as a part of a transaction that holds none of its locks afterwards.

    :raises ServerError: the transaction goes on all the same.
    """
    with glancing(session):
        return session.query(statement)


def list_tables(session: Session) -> list[TableEvidence]:
    """Every table, materialized view and foreign table that is the database's own; inside a transaction."""
    return [
        TableEvidence(
            schema,
            name,
            oid,
            _KINDS[kind],
            note="" if populated or kind != "m" else NOT_POPULATED,
            inherits=inherits,
        )
        for schema, name, oid, kind, populated, inherits in glance(session, _TABLES)
    ]


@contextlib.contextmanager
def snapshot(session: Session) -> Iterator[tuple[str, list[TableEvidence]]]:
    """An exported snapshot with its tables; each table is locked before the snapshot exists.

    Otherwise a TRUNCATE between snapshot and reading would show no rows (mvcc-caveats.html of the manual).

    :raises TargetError: the tables change too fast, or a lock is not to be had in time.
    """
    for unused_attempt in range(_LOCK_ATTEMPTS):
        with session.transaction(SNAPSHOT_BEGIN):
            wanted = list_tables(session)
        session.execute(SNAPSHOT_BEGIN)
        try:
            if not _lock(session, wanted):
                continue
            found = list_tables(session)
            if {t.oid for t in found} != {t.oid for t in wanted}:
                continue
            yield str(session.value("SELECT pg_export_snapshot()")), found
            return
        finally:
            with contextlib.suppress(FiredrillError):
                session.execute("ROLLBACK")
    raise TargetError(
        f'Tables of database "{session.database}" are being created and dropped too fast for a snapshot',
        state="Nothing was changed",
        todo="Run this again when migrations have ended",
    )


def lock_shared(session: Session, tables: Sequence[TableEvidence], wait: str = "") -> None:
    names = [composed("ONLY {}.{}", t.schema, t.name) for t in tables if t.kind in _LOCKABLE]
    if names:
        session.execute(f"LOCK TABLE {', '.join(names)} IN ACCESS SHARE MODE {wait}")


def _lock(session: Session, tables: Sequence[TableEvidence]) -> bool:
    """Whether all were locked; False when they are to be listed again."""
    session.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    try:
        lock_shared(session, tables)
    except ServerError as error:
        # Gone, or in a circle with somebody who changes several of them.
        if error.sqlstate in ("42P01", "3F000", "40P01"):
            return False
        if error.sqlstate == "55P03":
            raise TargetError(
                f'A table of database "{session.database}" is locked by another session for more than '
                f"{_LOCK_TIMEOUT}: {error.what}",
                state="Nothing was changed",
                todo="Look for a migration or an open transaction in pg_stat_activity and pg_locks",
            ) from error
        raise TargetError(
            f'The tables of database "{session.database}" cannot be locked for reading: {error.what}',
            state="Nothing was changed",
            todo="Use a superuser as `user`",
        ) from error
    return True
