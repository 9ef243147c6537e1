# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The swap: two renames in one transaction, while a second session ends whoever comes back meanwhile."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .access import Access
from .catalog import database_oid
from .errors import FiredrillError, ServerError, TargetError
from .model import utc_now
from .server import Session, composed

_ATTEMPTS = 12
_LOCK_TIMEOUT = "10s"
_PAUSE_S = 0.02
_LAST_WORD_S = 10.0
_NAME_BYTES = 63
_KEPT = re.compile(r"(.+)(_(?:before|undone)_\d{8}_\d{6}(?:_\d+)?)", re.DOTALL)


def beside(session: Session, database: str, word: str) -> str:
    """A free name for a database beside `database`, e.g. `app_before_20260219_020000`, at most 63 bytes long."""
    first = suffix = f"_{word}_{utc_now().strftime('%Y%m%d_%H%M%S')}"
    number = 1
    while True:
        name = _base(database, suffix) + suffix
        if database_oid(session, name) is None:
            return name
        number += 1
        suffix = f"{first}_{number}"


def kept_beside(session: Session, database: str) -> list[tuple[str, int]]:
    """The databases that restores and rollbacks of `database` kept, with their sizes in bytes, the largest first."""
    rows = session.query(
        "SELECT datname, pg_database_size(oid) FROM pg_database"
        # Of others nobody but a superuser is told the size.
        " WHERE has_database_privilege(oid, 'CONNECT') ORDER BY 2 DESC, 1"
    )
    found = ((_KEPT.fullmatch(name), int(size)) for name, size in rows)
    return [(name[0], size) for name, size in found if name and name[1] == _base(database, name[2])]


def _base(database: str, suffix: str) -> str:
    """As much of a database's name as there is room for before `suffix`."""
    return database.encode()[: _NAME_BYTES - len(suffix)].decode(errors="ignore")


@contextmanager
def _emptied(access: Access, names: tuple[str, ...], place: str) -> Iterator[None]:
    """Ends every session of databases from another one, `place`, again and again while the block runs.

    Whatever is connected is in the way of a new name, background workers of extensions and replication too.
    """
    gate = threading.Event()
    session = access.server.connect(place)

    def end_sessions() -> None:
        while not gate.is_set():
            try:
                session.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datid IN (SELECT oid FROM pg_database WHERE datname = ANY(%s))",
                    list(names),
                )
            except FiredrillError:
                return
            gate.wait(_PAUSE_S)

    thread = threading.Thread(target=end_sessions, name="emptying", daemon=True)
    thread.start()
    try:
        yield
    finally:
        gate.set()
        # Hung up at once, the server might still end a session: then one of the database that is live by now.
        thread.join(_LAST_WORD_S)
        session.hang_up()
        thread.join()
        session.close()


def exchange(access: Access, session: Session, *, live: str, aside: str, incoming: str) -> None:
    """Renames `live` to `aside` and `incoming` to `live`: both or neither.

    :raises TargetError: sessions of the two could not be ended in time; nothing was renamed.
    """
    with _emptied(access, (live, incoming), session.database):
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with session.transaction():
                    session.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                    # What the journal says next must not be ahead of the server's disk.
                    session.execute("SET LOCAL synchronous_commit = local")
                    if database_oid(session, live) is not None:
                        session.execute(composed("ALTER DATABASE {} RENAME TO {}", live, aside))
                    session.execute(composed("ALTER DATABASE {} RENAME TO {}", incoming, live))
                return
            except ServerError as error:
                # 55006: somebody is connected; 55P03: the lock was not to be had in time. 42P04 and 3D000: somebody has
                # just made, or dropped, a database of the live name.
                if error.sqlstate not in ("55006", "55P03", "42P04", "3D000"):
                    raise TargetError(
                        f"The databases could not be swapped: {error.what}", todo="Run this again"
                    ) from error
                if attempt == _ATTEMPTS:
                    raise TargetError(
                        f"The databases could not be swapped after {attempt} attempts: {error.what}",
                        todo="Stop what keeps connecting (stop_services), then run this again",
                    ) from error
