# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Evidence: rows and fingerprints of a database in one snapshot, and how two of them compare.

The fingerprint of a table does not depend on the order of its rows. The server computes it from
`ROW(x.*)::text`; `x::text` would run a cast that any role with a table of its own can plant.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Callable

from .errors import FiredrillError, OvertakenError, ServerError
from .model import Comparison, Evidence, LargeObjects, SequenceEvidence, TableEvidence
from .server import Server, Session, composed, quote_literal
from .snapshots import (
    NOT_OURS,
    NOT_POPULATED,
    POPULATED,
    SNAPSHOT_BEGIN,
    glance,
    list_tables,
    lock_shared,
)

#: For a look at the live database, which may be in trouble: a migration that crashed keeps its locks.
LIVE_LOCK_TIMEOUT = "2s"
_NO_LARGE_OBJECTS = "large objects (not readable by this role)"
_NO_CONTENTS = "contents of tables and large objects (the set has only their counts)"

_SEQUENCES = f"""
SELECT n.nspname, c.relname
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND {NOT_OURS}
 ORDER BY 1, 2"""

#: Whatever holds rows that a dump would take; of an extension only its tables of configuration, each with its condition.
_HOLDERS = """
SELECT n.nspname, c.relname, coalesce(x.condition, '')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN (SELECT unnest(extconfig) AS oid, unnest(extcondition) AS condition FROM pg_extension) x ON x.oid = c.oid
 WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated)
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND (x.oid IS NOT NULL OR NOT EXISTS (
     SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))"""

_CONFIGURATION = """
SELECT n.nspname || '.' || c.relname
  FROM pg_extension e, unnest(e.extconfig) t JOIN pg_class c ON c.oid = t JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' ORDER BY 1"""

#: Names sort by their bytes: the collation of their type is "C" in every database.
_COLUMNS = "SELECT attname FROM pg_attribute WHERE attrelid = {} AND attnum > 0 AND NOT attisdropped ORDER BY attname"

#: Pages that are not there are restored as zeros: neither these nor the zeros at the end of a page count, but the
#: size does. Of both ends btrim() takes them; rtrim() for bytea is there from 14 on.
_LARGE_OBJECTS = """
SELECT coalesce(sum(coalesce(pages, 0) + hashtextextended(ROW(loid, size)::text, 0)), 0)::text FROM (
  SELECT loid, max(pageno * (current_setting('block_size')::int8 / 4) + octet_length(data)) AS size,
         sum(hashtextextended(ROW(loid, pageno, page)::text, 0)::numeric) FILTER (WHERE page <> decode('01', 'hex'))
           AS pages
    FROM (SELECT loid, pageno, data, btrim(decode('01', 'hex') || data, decode('00', 'hex')) AS page
            FROM pg_largeobject OFFSET 0) AS trimmed
   GROUP BY loid) AS objects"""

#: Kinds that a dump carries over one to one between any two supported major versions. What template0 brings
#: along (public, plpgsql) is not counted: the source may have dropped it. An index that is not valid (what CREATE
#: INDEX CONCURRENTLY leaves when it fails) is in no dump, and the copies of a trigger that partitions have come
#: with it.
_OBJECTS = f"""
WITH ours AS (
  SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {NOT_OURS}
), spaces AS (
  SELECT oid FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
)
SELECT 'tables', count(*) FROM ours WHERE relkind IN ('r', 'p')
UNION ALL SELECT 'indexes', count(*) FROM ours JOIN pg_index i ON i.indexrelid = ours.oid
   JOIN pg_class t ON t.oid = i.indrelid WHERE (i.indisvalid OR t.relkind = 'p') AND i.indisready
UNION ALL SELECT 'views', count(*) FROM ours WHERE relkind = 'v'
UNION ALL SELECT 'materialized views', count(*) FROM ours WHERE relkind = 'm'
UNION ALL SELECT 'foreign tables', count(*) FROM ours WHERE relkind = 'f'
UNION ALL SELECT 'sequences', count(*) FROM ours WHERE relkind = 'S'
UNION ALL SELECT 'constraints', count(*) FROM pg_constraint WHERE contype <> 'n'
   AND conrelid IN (SELECT oid FROM ours)
UNION ALL SELECT 'triggers', count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0
   AND tgrelid IN (SELECT oid FROM ours)
UNION ALL SELECT 'policies', count(*) FROM pg_policy WHERE polrelid IN (SELECT oid FROM ours)
UNION ALL SELECT 'functions', count(*) FROM pg_proc p WHERE pronamespace IN (SELECT oid FROM spaces)
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                    AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
UNION ALL SELECT 'types', count(*) FROM pg_type t WHERE typtype IN ('e', 'd')
   AND typnamespace IN (SELECT oid FROM spaces)
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass
                    AND d.objid = t.oid AND d.deptype = 'e')
UNION ALL SELECT 'extensions', count(*) FROM pg_extension WHERE extname <> 'plpgsql'
UNION ALL SELECT 'schemas', count(*) FROM pg_namespace WHERE oid IN (SELECT oid FROM spaces) AND nspname <> 'public'"""


def sequence_values(session: Session) -> dict[tuple[str, str], int]:
    """The next value that each sequence stands before, by schema and name; inside a transaction."""
    values = {}
    for schema, name in glance(session, _SEQUENCES):
        with contextlib.suppress(ServerError):
            rows = glance(session, composed("SELECT last_value FROM {}.{}", schema, name))
            values[schema, name] = int(rows[0][0])
    return values


def sequence_evidence(
    before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]
) -> tuple[SequenceEvidence, ...]:
    """Sequences that were there before and after the dump, with both values."""
    return tuple(
        SequenceEvidence(schema, name, value, after[schema, name])
        for (schema, name), value in sorted(before.items())
        if (schema, name) in after
    )


def read_table(session: Session, table: TableEvidence, level: str) -> TableEvidence:
    """Rows, and at level `full` the fingerprint, of one table inside a transaction."""
    if table.kind == "partitioned table":
        return replace(table, note="its partitions are counted")
    if table.kind == "materialized view":
        return replace(table, note=table.note or POPULATED)
    if table.kind != "table":
        return replace(table, note=f"a {table.kind} is not read")
    fingerprint = "NULL"
    try:
        if level == "full":
            row = _row_by_names(session, table) if table.inherits else "ROW(x.*)"
            fingerprint = f"sum(pg_catalog.hashtextextended({row}::pg_catalog.text, 0)::pg_catalog.numeric)::text"
        statement = f"SELECT pg_catalog.count(*), {fingerprint} FROM ONLY "
        statement += composed("{}.{} AS x", table.schema, table.name)
        rows, found = glance(session, statement)[0]
    except ServerError as error:
        return replace(table, note=f"cannot be read: {error.what}")
    return replace(
        table, rows=int(rows), fingerprint=found if rows else ("0" if level == "full" else None)
    )


def _row_by_names(session: Session, table: TableEvidence) -> str:
    """The row of an heir. A restore gives it the columns of its parent first, whenever the parent got them."""
    names = glance(session, _COLUMNS.format(table.oid))
    return f"ROW({', '.join(composed('x.{}', name) for (name,) in names)})"


def holds_rows(session: Session, tables: Sequence[TableEvidence]) -> bool:
    """Whether there is any row at all, without counting, inside a transaction; a table that cannot be read may have some."""
    for table in tables:
        if table.kind != "table":
            continue
        try:
            statement = "SELECT EXISTS (SELECT FROM ONLY {}.{})"
            if glance(session, composed(statement, table.schema, table.name))[0][0]:
                return True
        except ServerError:
            return True
    return False


def holds_data(server: Server, database: str) -> bool:
    """Whether a database has any row, materialized ones too, or a large object; one that cannot be read may have some."""
    try:
        with server.session(database) as session:
            session.execute(f"SET lock_timeout = '{LIVE_LOCK_TIMEOUT}'")
            if session.value("SELECT EXISTS (SELECT FROM pg_largeobject_metadata)"):
                return True
            return any(
                session.value(
                    composed("SELECT EXISTS (SELECT FROM ONLY {}.{} ", schema, name)
                    + f"{condition})"
                )
                for schema, name, condition in session.query(_HOLDERS)
            )
    except FiredrillError:
        return True


def _large_objects(session: Session, level: str) -> LargeObjects | None:
    fingerprint = f"({_LARGE_OBJECTS})" if level == "full" else "NULL"
    try:
        count, found = glance(
            session, f"SELECT count(*), {fingerprint} FROM pg_largeobject_metadata"
        )[0]
    except ServerError:
        # Their contents are for a superuser alone; that there are none, anybody may see.
        count = glance(session, "SELECT count(*) FROM pg_largeobject_metadata")[0][0]
        return None if count else LargeObjects(0, "0")
    return LargeObjects(int(count), found)


class Collector:
    """Reads evidence on connections of its own, beside a dump or after a restore.

    :param snapshot_id: a snapshot to import, so that what is read is what the dump holds; "" for the present.
    """

    def __init__(
        self,
        server: Server,
        database: str,
        level: str,
        tables: Sequence[TableEvidence],
        *,
        snapshot_id: str = "",
        connections: int = 2,
        lock_timeout: str = "0",
    ) -> None:
        self._server = server
        self._database = database
        self._level = level
        self._snapshot_id = snapshot_id
        self._lock_timeout = lock_timeout
        self._tables = list(tables)
        self._todo: queue.SimpleQueue[tuple[int, TableEvidence] | None] = queue.SimpleQueue()
        self._done: dict[int, TableEvidence] = {}
        self._rest: dict[str, Any] = {}
        self._errors: list[BaseException] = []
        self._stopped = threading.Event()
        self._sessions: list[Session] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in [self._read_rest] + [self._read_tables] * max(1, connections)
        ]

    def __enter__(self) -> Collector:
        for entry in enumerate(self._tables):
            self._todo.put(entry)
        for unused_thread in self._threads:
            self._todo.put(None)
        if self._level != "none":
            try:
                for number in range(len(self._threads)):
                    self._begin(reads_tables=number > 0)
            except BaseException:
                # Their locks must be gone before anybody begins again.
                self._close()
                raise
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused_rest: object) -> None:
        if kind is not None:
            self._stopped.set()
            for session in self._sessions:
                session.hang_up()
        for thread in self._threads:
            if thread.ident:
                thread.join()
        self._close()
        if kind is not None and self._sessions:
            self._end_at_the_server()

    def _end_at_the_server(self) -> None:
        """The server itself does not notice before it has an answer that nobody wants it any more."""
        with contextlib.suppress(FiredrillError), self._server.session(self._database) as session:
            session.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE pid = ANY(%s) AND application_name = 'firedrill' AND datname = current_database()""",
                [session.pid for session in self._sessions],
            )

    def _close(self) -> None:
        for session in self._sessions:
            session.close()

    def _begin(self, *, reads_tables: bool) -> None:
        session = self._server.connect(self._database)
        self._sessions.append(session)
        session.execute(SNAPSHOT_BEGIN)
        if not self._snapshot_id:
            session.execute(f"SET LOCAL lock_timeout = '{self._lock_timeout}'")
            return
        session.execute(f"SET TRANSACTION SNAPSHOT {quote_literal(self._snapshot_id)}")
        if not reads_tables:
            return
        try:
            # Now or never: what is locked already is not waited for when it is read.
            lock_shared(session, self._tables, "NOWAIT")
        except ServerError as error:
            if error.sqlstate != "55P03":
                raise
            raise OvertakenError(error.what) from error

    def _guarded(self, work: Callable[[Session], None]) -> None:
        session = self._sessions[self._threads.index(threading.current_thread())]
        try:
            work(session)
            # Whoever waits for one of its locks need not wait for the dump.
            session.execute("ROLLBACK")
        except BaseException as error:  # noqa: BLE001 - result() raises it in the caller's thread
            self._errors.append(error)

    def _read_tables(self, session: Session) -> None:
        while (entry := self._todo.get()) is not None and not self._stopped.is_set():
            number, table = entry
            self._done[number] = read_table(session, table, self._level)

    def _read_rest(self, session: Session) -> None:
        self._rest["objects"] = {kind: int(count) for kind, count in session.query(_OBJECTS)}
        self._rest["configuration"] = tuple(name for (name,) in session.query(_CONFIGURATION))
        self._rest["encoding"] = str(session.value("SELECT current_setting('server_encoding')"))
        self._rest["large_objects"] = _large_objects(session, self._level)

    def result(self) -> Evidence:
        """Waits for the last table.

        :raises FiredrillError: when a connection was lost while reading.
        """
        if self._level == "none":
            return Evidence("none", tables=tuple(self._tables))
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        tables = tuple(self._done[number] for number in range(len(self._tables)))
        return Evidence(self._level, tables=tables, **self._rest)


def collect(
    server: Server, database: str, level: str, connections: int = 2, *, lock_timeout: str = "0"
) -> Evidence:
    """Evidence of a database that nobody writes to.

    :param lock_timeout: how long to wait for a table that others have locked, e.g. LIVE_LOCK_TIMEOUT; then it counts
        as one that cannot be read. "0" is for ever.
    """
    with server.session(database) as session, session.transaction(SNAPSHOT_BEGIN):
        session.execute(f"SET LOCAL lock_timeout = '{lock_timeout}'")
        tables = list_tables(session)
        values = sequence_values(session) if level != "none" else {}
    with Collector(
        server, database, level, tables, connections=connections, lock_timeout=lock_timeout
    ) as collector:
        found = collector.result()
    return replace(found, sequences=sequence_evidence(values, values))


def compare(expected: Evidence, found: Evidence, *, byte_order: str = sys.byteorder) -> Comparison:
    """Holds what was found against what was dumped, table by table.

    What cannot be compared is listed and never counts as equal.

    :param byte_order: of the machine that was dumped, on which the fingerprints depend; found was what is here.
    """
    if expected.level == "none":
        return Comparison(0, (), ("the set was made without evidence",))
    differences: list[str] = []
    skipped: list[str] = []
    fingerprints = expected.level == found.level == "full"
    if expected.level == "counts":
        skipped.append(_NO_CONTENTS)
    if fingerprints and expected.encoding != found.encoding:
        fingerprints = False
        skipped.append(f"fingerprints (encoding {expected.encoding} against {found.encoding})")
    same_hashes = byte_order == sys.byteorder
    if fingerprints and not same_hashes:
        fingerprints = False
        skipped.append(f"fingerprints (byte order {byte_order} against {sys.byteorder})")
    compared = 0
    present = {table.label: table for table in found.tables}
    for table in expected.tables:
        other = present.pop(table.label, None)
        if other is None:
            differences.append(f"{table.kind} {table.label} is missing")
        elif (
            table.kind == "materialized view"
            and table.note in (POPULATED, NOT_POPULATED)
            and table.note != other.note
        ):
            differences.append(
                f"materialized view {table.label}: {table.note} expected, found: {other.note}"
            )
        elif table.rows is None:
            if table.kind != "partitioned table":
                skipped.append(f"{table.label} ({table.note})")
        elif other.rows is None:
            differences.append(f"{table.label}: {table.rows} rows expected, but it {other.note}")
        elif table.rows != other.rows:
            differences.append(f"{table.label}: {table.rows} rows expected, {other.rows} found")
        elif fingerprints and table.fingerprint != other.fingerprint:
            differences.append(
                f"{table.label}: {table.rows} rows as expected, but their contents differ"
            )
        else:
            compared += 1
    differences += [
        f"{table.kind} {label} is there and was not dumped" for label, table in present.items()
    ]
    values = {sequence.label: sequence.first for sequence in found.sequences}
    for sequence in expected.sequences:
        low, high = sorted((sequence.first, sequence.last))
        value = values.get(sequence.label)
        if value is None:
            differences.append(f"sequence {sequence.label} is missing")
        elif sequence.note:
            skipped.append(f"sequence {sequence.label} ({sequence.note})")
        elif not low <= value <= high:
            differences.append(
                f"sequence {sequence.label}: {value} is not between {low} and {high}"
            )
    skipped += [f"{label} (its rows belong to an extension)" for label in expected.configuration]
    differences += _compare_large_objects(expected, found, skipped, same_hashes)
    for kind, count in expected.objects.items():
        if kind in found.objects and found.objects[kind] != count:
            differences.append(f"{kind}: {count} expected, {found.objects[kind]} found")
    unread = {*expected.unread, _NO_LARGE_OBJECTS}
    return Comparison(
        compared, tuple(differences), tuple(skipped), tuple(one for one in skipped if one in unread)
    )


def _compare_large_objects(
    expected: Evidence, found: Evidence, skipped: list[str], same_hashes: bool
) -> list[str]:
    one, other = expected.large_objects, found.large_objects
    if one is None or other is None:
        skipped.append(_NO_LARGE_OBJECTS)
        return []
    if one.count != other.count:
        return [f"large objects: {one.count} expected, {other.count} found"]
    known = same_hashes and one.fingerprint and other.fingerprint
    if known and one.fingerprint != other.fingerprint:
        return [f"large objects: {one.count} as expected, but their contents differ"]
    return []
