# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQL that an operator wrote, asked so that no other role of the database can slip its code into it.

The operator writes `SELECT count(*) > 0 FROM users`. Sessions of ours are a superuser's as a rule, so with the
database's own search_path they would run a function that an ordinary role made in `public`, even with pg_catalog
named first: an exact match of the argument's type wins (ddl-schemas.html#DDL-SCHEMAS-PATTERNS of the manual). So

- a schema is searched in which trusted roles alone made functions, and may make them: superusers and our own;
- of any other schema of the search_path, the tables that the SQL names are given to it as common table
  expressions, whose names hide tables and nothing else;
- the SQL becomes a subquery, so that it is one SELECT, in a read-only transaction.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ServerError, TargetError
from .server import Session, composed, quote_identifier

STATEMENT_TIMEOUT_S = 60
_DEFAULT_PATH = '"$user", public'

_CONFIGURED_PATH = """
SELECT substr(setting, length('search_path=') + 1)
  FROM pg_db_role_setting s, unnest(s.setconfig) AS setting, pg_database d
 WHERE d.datname = current_database() AND s.setdatabase = d.oid AND s.setrole = 0
   AND split_part(setting, '=', 1) = 'search_path'"""

#: pg_database_owner has one member, the owner; a superuser needs no grant.
_TRUSTED = """
WITH trusted AS (
  SELECT oid FROM pg_roles WHERE rolsuper OR rolname = current_user
  UNION
  SELECT g.oid FROM pg_roles g, pg_database d JOIN pg_roles o ON o.oid = d.datdba
   WHERE g.rolname = 'pg_database_owner' AND d.datname = current_database()
     AND (o.rolsuper OR o.rolname = current_user)
)"""

_SAFE_SCHEMAS = f"""{_TRUSTED}
SELECT n.nspname FROM pg_namespace n
 WHERE n.nspname = ANY(%s) AND n.nspowner IN (SELECT oid FROM trusted)
   AND NOT EXISTS (SELECT FROM aclexplode(n.nspacl) a
                    WHERE a.privilege_type = 'CREATE' AND a.grantee NOT IN (SELECT oid FROM trusted))
   AND NOT EXISTS (SELECT FROM pg_proc p
                    WHERE p.pronamespace = n.oid AND p.proowner NOT IN (SELECT oid FROM trusted))
   AND NOT EXISTS (SELECT FROM pg_operator o
                    WHERE o.oprnamespace = n.oid AND o.oprowner NOT IN (SELECT oid FROM trusted))"""

_RELATIONS = f"""{_TRUSTED}
SELECT DISTINCT ON (c.relname) n.nspname, c.relname,
       CASE WHEN c.relkind = 'v' AND c.relowner NOT IN (SELECT oid FROM trusted)
            THEN pg_get_userbyid(c.relowner) END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = ANY(%s) AND n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
 ORDER BY c.relname, array_position(%s::text[], n.nspname::text)"""

_FOREIGN_CASTS = f"""{_TRUSTED}
SELECT format_type(c.castsource, NULL), format_type(c.casttarget, NULL), pg_get_userbyid(p.proowner)
  FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc
 WHERE p.proowner NOT IN (SELECT oid FROM trusted) LIMIT 1"""

#: Nothing of that name and kind: function or operator, type, relation, or not known to depend on a key.
_NOT_FOUND = ("42883", "42704", "42P01", "42803")


@dataclass(frozen=True)
class _Path:
    """The schemas of the database's search_path in their order, and those of them that are safe to search."""

    schemas: tuple[str, ...]
    safe: tuple[str, ...]

    @property
    def unsafe(self) -> list[str]:
        return [name for name in self.schemas if name not in self.safe]


def ask(session: Session, sql: str, *, isolated: bool) -> list[tuple[Any, ...]]:
    """The first two rows of one SELECT, from a read-only transaction; each step of it may take
    STATEMENT_TIMEOUT_S seconds.

    :param isolated: the server is a throwaway without a network, where nobody's code has anything to gain:
        then casts and views of other roles are no reason to refuse.
    :raises ServerError: with the server's words, or with the reason why it was not asked.
    :raises TargetError: the connection was lost.
    """
    # Who closes the parenthesis and says COMMIT is still in no position to write by accident.
    session.execute("SET default_transaction_read_only = on")
    session.execute("BEGIN READ ONLY")
    try:
        session.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
        path = _database_path(session)
        hidden = _hidden_tables(session, sql, path, isolated=isolated)
        if not isolated:
            _refuse_foreign_casts(session)
        _search(session, ", ".join(quote_identifier(name) for name in ("pg_catalog", *path.safe)))
        try:
            return session.query(wrapped(sql, hidden))
        except ServerError as error:
            raise _explained(error, path) from error
        except (ValueError, ArithmeticError) as error:
            raise ServerError(f"it returned a value that cannot be read here: {error}") from error
    finally:
        # Before 16 a read-only transaction lets large objects be changed.
        with contextlib.suppress(ServerError, TargetError):
            session.execute("ROLLBACK")


def identifiers(sql: str) -> set[str]:
    """Every name in a statement that has no schema before it, as the server would read it; and many words
    that are no name, since nothing here knows where a string begins."""
    # Each quotation mark may be the first one.
    quoted = re.findall(r'(?<!\.)(?=("(?:[^"]|"")+"))', sql)
    plain = re.findall(r"(?<![.\w$])[^\W\d][\w$]*", sql)
    # The server folds ASCII letters only (sql-syntax-lexical.html of the manual; UTF-8 databases).
    return {name[1:-1].replace('""', '"') for name in quoted} | {
        re.sub("[A-Z]+", lambda m: m.group().lower(), word) for word in plain
    }


def wrapped(sql: str, tables: Sequence[tuple[str, str]]) -> str:
    """A SELECT as a subquery that finds each of `tables`, (schema, name), under its bare name."""
    bare = re.sub(r"[\s;]+$", "", sql)
    # The line break ends a comment at the end of the SQL.
    statement = f'SELECT * FROM (\n{bare}\n) AS "firedrill" LIMIT 2'
    if not tables:
        return statement
    views = (
        composed("{} AS NOT MATERIALIZED (SELECT * FROM {}.{})", name, schema, name)
        for schema, name in tables
    )
    return f"WITH {', '.join(views)} {statement}"


def _search(session: Session, path: str) -> None:
    session.execute("SELECT pg_catalog.set_config('search_path', %s, true)", path)


def _database_path(session: Session) -> _Path:
    """The path of ALTER DATABASE SET, else the built-in default; our session's own is empty.

    What ALTER ROLE SET says for the superuser is left out: a throwaway server would not know it.
    """
    _search(session, session.value(_CONFIGURED_PATH) or _DEFAULT_PATH)
    found = [str(name) for name in session.value("SELECT pg_catalog.current_schemas(false)")]
    _search(session, "")
    schemas = [name for name in found if name != "pg_catalog"]
    safe = {row[0] for row in session.query(_SAFE_SCHEMAS, schemas)}
    return _Path(tuple(schemas), tuple(name for name in schemas if name in safe))


def _hidden_tables(
    session: Session, sql: str, path: _Path, *, isolated: bool
) -> list[tuple[str, str]]:
    """Relations that the SQL may mean by a bare name and that lie in a schema that is not searched."""
    order = ["pg_catalog", *path.schemas]
    hidden = []
    for schema, name, stranger in session.query(_RELATIONS, sorted(identifiers(sql)), order, order):
        if stranger and not isolated:
            raise ServerError(
                f'not asked: "{name}" is a view of role "{stranger}", whose functions would run with the rights '
                f"of our session; write {schema}.{name} if you trust that role"
            )
        if schema in path.unsafe:
            hidden.append((str(schema), str(name)))
    return hidden


def _refuse_foreign_casts(session: Session) -> None:
    for source, target, owner in session.query(_FOREIGN_CASTS):
        raise ServerError(
            f'not asked: role "{owner}" made a cast of its own ({source} AS {target}), whose function could run '
            "with the rights of our session; a drill in a throwaway server asks nevertheless"
        )


def _explained(error: ServerError, path: _Path) -> ServerError:
    what = error.what
    if error.sqlstate == "57014":
        what = f"it took longer than {STATEMENT_TIMEOUT_S} s ({what})"
    elif error.sqlstate == "42601":
        what = f"{what} (it has to be one SELECT)"
    elif error.sqlstate in _NOT_FOUND and path.unsafe:
        what = (
            f"{what} (of {', '.join(path.unsafe)} only tables are found by their bare names, since others than "
            "superusers may put functions there; write the schema's name before)"
        )
    return ServerError(what, sqlstate=error.sqlstate)
