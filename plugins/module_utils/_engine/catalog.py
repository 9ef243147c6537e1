# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What belongs to a database as a whole: its properties and extensions, and how to give them to a new one."""

from __future__ import annotations

from .errors import ServerError
from .model import DatabaseProperties, Extension
from .server import Session, composed, quote_identifier, quote_literal

#: Their values are lists of quoted names; pg_dump treats the same ones apart (variable_is_guc_list_quote).
_LIST_SETTINGS = frozenset(
    {
        "search_path",
        "temp_tablespaces",
        "local_preload_libraries",
        "session_preload_libraries",
        "shared_preload_libraries",
        "unix_socket_directories",
    }
)
#: Classes of SQLSTATE that say nothing of the statement (errcodes-appendix.html of the manual): insufficient
#: resources, operator intervention, system error.
_SERVER_IN_TROUBLE = ("53", "57", "58")
_DROP_ATTEMPTS = 4
_DATABASE_PRIVILEGES = ("CONNECT", "CREATE", "TEMPORARY")


def cluster_identifier(session: Session) -> str:
    """What tells a cluster from every other one, however often its container is made anew; "" where nobody is told."""
    try:
        return str(session.value("SELECT system_identifier FROM pg_control_system()"))
    except ServerError:
        return ""


def database_oid(session: Session, name: str) -> int | None:
    """The OID of a database, None when there is none of that name."""
    found = session.value("SELECT oid::int8 FROM pg_database WHERE datname = %s", name)
    return None if found is None else int(found)


def database_bytes(session: Session, name: str) -> int:
    """Size on disk in bytes."""
    return int(
        session.value("SELECT pg_database_size(oid) FROM pg_database WHERE datname = %s", name)
    )


def major_version(session: Session) -> int:
    return int(session.value("SELECT current_setting('server_version_num')::int / 10000"))


def read_properties(session: Session, name: str) -> DatabaseProperties:
    """Owner, encoding, locale, grants, settings, limit and comment of the database `name`."""
    major = major_version(session)
    provider = "datlocprovider" if major >= 15 else "'c'"
    locale = "datlocale" if major >= 17 else "daticulocale" if major >= 15 else "NULL"
    rules = "daticurules" if major >= 16 else "NULL"
    row = session.query(
        f"""SELECT d.oid, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype,
                   {provider}::text, coalesce({locale}, ''), coalesce({rules}, ''), spcname, datconnlimit,
                   coalesce(shobj_description(d.oid, 'pg_database'), ''), datacl IS NULL
              FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE datname = %s""",
        name,
    )[0]
    (
        oid,
        owner,
        encoding,
        collate,
        ctype,
        provider,
        locale,
        rules,
        tablespace,
        limit,
        comment,
        default,
    ) = row
    acl = None
    if not default:
        acl = tuple(
            (grantee, privilege, grantable)
            for grantee, privilege, grantable in session.query(
                """SELECT CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee) END,
                          a.privilege_type, a.is_grantable
                     FROM pg_database d, aclexplode(d.datacl) a WHERE d.oid = %s ORDER BY 1, 2""",
                oid,
            )
        )
    settings = session.query(
        """SELECT coalesce(r.rolname, ''), unnest(s.setconfig)
             FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
            WHERE s.setdatabase = %s ORDER BY 1, 2""",
        oid,
    )
    return DatabaseProperties(
        owner,
        encoding,
        collate,
        ctype,
        provider,
        locale,
        rules,
        tablespace,
        limit,
        comment,
        acl,
        tuple(settings),
    )


def create_database(session: Session, name: str, properties: DatabaseProperties) -> int:
    """Creates an empty database with the encoding and locale of `properties`; returns its OID.

    :raises ServerError: when the server has no such locale, or the like.
    """
    words = [
        composed("CREATE DATABASE {} TEMPLATE template0", name),
        f"ENCODING {quote_literal(properties.encoding)}",
        f"LC_COLLATE {quote_literal(properties.collate)} LC_CTYPE {quote_literal(properties.ctype)}",
    ]
    if properties.provider == "i":
        words.append(f"LOCALE_PROVIDER icu ICU_LOCALE {quote_literal(properties.locale)}")
        if properties.icu_rules:
            words.append(f"ICU_RULES {quote_literal(properties.icu_rules)}")
    elif properties.provider == "b":
        words.append(f"LOCALE_PROVIDER builtin BUILTIN_LOCALE {quote_literal(properties.locale)}")
    elif major_version(session) >= 15:
        # Not that of template0, which may be another in this cluster.
        words.append("LOCALE_PROVIDER libc")
    if properties.tablespace != "pg_default":
        words.append(composed("TABLESPACE {}", properties.tablespace))
    session.execute(" ".join(words))
    oid = database_oid(session, name)
    if oid is None:
        raise ServerError(f'Database "{name}" vanished right after it was created')
    return oid


def drop_database(session: Session, name: str) -> None:
    """Drops a database with everybody who is connected to it; no error when it is not there.

    :raises ServerError: the server refuses it.
    """
    for attempt in range(1, _DROP_ATTEMPTS + 1):
        try:
            session.execute(composed("DROP DATABASE IF EXISTS {} WITH (FORCE)", name))
            return
        except ServerError as error:
            # 55006: somebody is connected, whom the server could not get rid of in its five seconds.
            if error.sqlstate != "55006" or attempt == _DROP_ATTEMPTS:
                raise


def set_setting(session: Session, subject: str, setting: str) -> None:
    """`ALTER <subject> SET ...` from a `name=value` of the catalog, which needs care for lists of names."""
    name, unused_sep, value = setting.partition("=")
    quoted = ".".join(quote_identifier(part) for part in name.split("."))
    if name.lower() in _LIST_SETTINGS:
        with session.transaction():
            session.execute("SELECT set_config(%s, %s, true)", name, value)
            session.execute(f"{subject} SET {quoted} FROM CURRENT")
    else:
        session.execute(f"{subject} SET {quoted} TO {quote_literal(value)}")


def apply_properties(session: Session, name: str, properties: DatabaseProperties) -> list[str]:
    """Gives a database its owner, grants, settings, limit and comment; returns what was not possible.

    After the data, never before: a setting such as default_transaction_read_only would break the load.

    :raises ServerError: the server is in trouble, which is no property's fault.
    """
    refused = []
    database = composed("DATABASE {}", name)
    statements = [f"ALTER {database} OWNER TO {quote_identifier(properties.owner)}"]
    if properties.acl is not None:
        everyone = f"PUBLIC, {quote_identifier(properties.owner)}"
        statements.append(f"REVOKE {', '.join(_DATABASE_PRIVILEGES)} ON {database} FROM {everyone}")
        for grantee, privilege, grantable in properties.acl:
            to = quote_identifier(grantee) if grantee else "PUBLIC"
            option = " WITH GRANT OPTION" if grantable else ""
            statements.append(f"GRANT {privilege} ON {database} TO {to}{option}")
    statements.append(f"ALTER {database} CONNECTION LIMIT {properties.connection_limit}")
    if properties.comment:
        statements.append(f"COMMENT ON {database} IS {quote_literal(properties.comment)}")
    for statement in statements:
        try:
            session.execute(statement)
        except ServerError as error:
            refused.append(_refusal(statement, error))
    for role, setting in properties.settings:
        subject = (
            f"ALTER ROLE {quote_identifier(role)} IN {database}" if role else f"ALTER {database}"
        )
        try:
            set_setting(session, subject, setting)
        except ServerError as error:
            refused.append(_refusal(f"{subject} SET {setting}", error))
    return refused


def _refusal(statement: str, error: ServerError) -> str:
    if error.sqlstate[:2] in _SERVER_IN_TROUBLE:
        raise error
    return f"{statement}: {error.what}"


def read_extensions(session: Session) -> tuple[Extension, ...]:
    """The extensions of the session's database."""
    rows = session.query(
        """SELECT e.extname, e.extversion, n.nspname
             FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace ORDER BY 1"""
    )
    return tuple(Extension(*row) for row in rows)


def available_extensions(session: Session) -> frozenset[str]:
    """Names of the extensions that the server could create."""
    return frozenset(name for (name,) in session.query("SELECT name FROM pg_available_extensions"))


def obstacles(session: Session, name: str) -> list[str]:
    """What follows a database by its OID and would be torn off by a swap or a drop."""
    found = []
    prepared = session.query(
        "SELECT gid FROM pg_prepared_xacts WHERE database = %s ORDER BY 1", name
    )
    if prepared:
        found.append(
            f"prepared transactions are open: {', '.join(gid for (gid,) in prepared)}; "
            "COMMIT PREPARED or ROLLBACK PREPARED them"
        )
    slots = session.query(
        "SELECT slot_name FROM pg_replication_slots WHERE database = %s ORDER BY 1", name
    )
    if slots:
        found.append(
            f"replication slots belong to the database: {', '.join(slot for (slot,) in slots)}; "
            "drop them with pg_drop_replication_slot when their reader is gone"
        )
    subscriptions = session.query(
        """SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
            WHERE d.datname = %s ORDER BY 1""",
        name,
    )
    if subscriptions:
        found.append(
            f"subscriptions belong to the database: {', '.join(sub for (sub,) in subscriptions)}; "
            "drop them first, and create them again afterwards"
        )
    return found
