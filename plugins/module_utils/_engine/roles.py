# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles of the cluster: read for the manifest, and created where a restore finds one missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from .catalog import major_version, set_setting
from .errors import ServerError
from .model import DatabaseProperties, Membership, Role
from .server import Session, composed, quote_identifier, quote_literal

_ATTRIBUTES = (
    "superuser",
    "inherit",
    "createrole",
    "createdb",
    "login",
    "replication",
    "bypassrls",
)
_DANGEROUS = ("superuser", "replication", "bypassrls")
_UNLOGGED = (
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("log_min_error_statement", "panic"),
)

_NAMED = """
SELECT r.rolname FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
 WHERE s.refclassid = 'pg_authid'::regclass
   AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION SELECT rolname FROM pg_roles WHERE oid = 10"""


def read_roles(
    session: Session, properties: DatabaseProperties, *, passwords: bool
) -> tuple[Role, ...]:
    """Every role but the built-in ones; those that the session's database names, or needs with them, are marked.

    :param passwords: keep the password verifiers too, where this role may read them.
    """
    named = {name for (name,) in session.query(_NAMED)} | {properties.owner}
    named.update(grantee for grantee, unused, unused_too in properties.acl or () if grantee)
    named.update(role for role, unused in properties.settings if role)
    superuser = session.value("SELECT rolname FROM pg_roles WHERE oid = 10")
    source, secret = "pg_authid", "coalesce(rolpassword, '')"
    if not passwords or not session.value("SELECT has_table_privilege('pg_authid', 'SELECT')"):
        source, secret = "pg_roles", "''"
    rows: list[tuple[Any, ...]] = session.query(
        f"""SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
                   rolbypassrls, rolconnlimit, coalesce(rolvaliduntil::text, ''), {secret}
              FROM {source} WHERE rolname !~ '^pg_' ORDER BY 1"""
    )
    settings = session.query(
        """SELECT r.rolname, unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
            WHERE s.setdatabase = 0"""
    )
    options = "NULL, NULL"
    if major_version(session) >= 16:
        options = "bool_or(a.inherit_option), bool_or(a.set_option)"
    members = session.query(
        f"""SELECT m.rolname, g.rolname, bool_or(a.admin_option), {options}
             FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
            GROUP BY 1, 2 ORDER BY 1, 2"""
    )
    # The superuser has no privileges from a group, and gives none away as one.
    named |= _related(
        named, [m[:2] for m in members if superuser not in m and m[3:] != (False, False)]
    )
    found = []
    for row in rows:
        role = Role(*row)
        found.append(
            replace(
                role,
                settings=tuple(setting for name, setting in settings if name == role.name),
                member_of=tuple(
                    Membership(*entry) for name, *entry in members if name == role.name
                ),
                named_by_database=role.name in named,
            )
        )
    return tuple(found)


def _related(named: Iterable[str], pairs: Sequence[tuple[str, str]]) -> set[str]:
    """The members of `named` roles, who have their privileges, and the groups that all of these are in.

    :param pairs: every member with each of its groups.
    """
    found = set(named)
    while more := {member for member, group in pairs if group in found} - found:
        found |= more
    while more := {group for member, group in pairs if member in found} - found:
        found |= more
    return found


def missing(roles: Iterable[Role], present: Iterable[str], *, every: bool = False) -> list[Role]:
    """The roles that the cluster lacks: those that the archive names, or with `every` all of the set."""
    there = set(present)
    return [role for role in roles if (every or role.named_by_database) and role.name not in there]


def joining(roles: Iterable[Role], created: Iterable[Role]) -> list[Role]:
    """The roles that are there, with their memberships in `created` ones, which nobody can be a member of yet."""
    new = {role.name for role in created}
    found = []
    for role in roles:
        groups = tuple(entry for entry in role.member_of if entry.group in new)
        if groups and role.named_by_database and role.name not in new:
            found.append(replace(role, member_of=groups))
    return found


def alterable(session: Session, roles: Iterable[Role], present: Iterable[str]) -> list[Role]:
    """The roles that a fresh cluster has and a restore into it may alter: not its superuser, nor who is connected."""
    ours = session.query("SELECT rolname FROM pg_roles WHERE oid = 10 OR rolname = current_user")
    there = set(present) - {name for (name,) in ours}
    return [role for role in roles if role.name in there]


def differing(roles: Iterable[Role], present: Iterable[Role]) -> list[str]:
    """In words: named roles whose attributes are not those of the manifest. They are left as they are."""
    there = {role.name: role for role in present}
    found = []
    for role in roles:
        other = there.get(role.name)
        if other is None or not role.named_by_database:
            continue
        unlike = [name for name in _ATTRIBUTES if getattr(role, name) != getattr(other, name)]
        if unlike:
            found.append(
                f"role {role.name} differs from the manifest in {', '.join(unlike)} and was left as it is"
            )
    return found


def create_roles(
    session: Session,
    roles: Sequence[Role],
    *,
    superusers: bool,
    passwords: bool,
    altered: Sequence[Role] = (),
    joining: Sequence[Role] = (),
) -> list[str]:
    """Creates roles that are missing and their memberships; returns what was left out, in words.

    :param superusers: give SUPERUSER, REPLICATION and BYPASSRLS where the manifest has them.
    :param passwords: set the password verifiers of the manifest.
    :param altered: roles of a fresh cluster that are there already and become what they are in the manifest.
    :param joining: roles that become members of created ones, and are left as they are otherwise.
    """
    notes = []
    for verb, some in (("CREATE", roles), ("ALTER", altered)):
        for role in some:
            left_out = [name for name in _DANGEROUS if getattr(role, name) and not superusers]
            if left_out:
                names = ", ".join(left_out).upper()
                notes.append(f"role {role.name} was not given {names} (see restore_superusers)")
            with session.transaction():
                # The statement holds a password verifier: it must not reach the server's log.
                for setting, value in _UNLOGGED:
                    session.execute(f"SET LOCAL {setting} = {quote_literal(value)}")
                session.execute(_statement(verb, role, left_out, passwords=passwords))
    for role in altered:
        _strip(session, role)
    for role in (*roles, *altered, *joining):
        for entry in role.member_of:
            try:
                session.execute(_grant(entry, role.name))
            except ServerError as error:
                notes.append(f"role {role.name} is not a member of {entry.group}: {error.what}")
    for role in (*roles, *altered):
        subject = quote_identifier(role.name)
        for setting in role.settings:
            try:
                set_setting(session, f"ALTER ROLE {subject}", setting)
            except ServerError as error:
                notes.append(
                    f"role {role.name} has not got its setting {setting.partition('=')[0]}: {error.what}"
                )
    return notes


def _statement(verb: str, role: Role, left_out: Iterable[str], *, passwords: bool) -> str:
    words = [f"{verb} ROLE {quote_identifier(role.name)} WITH"]
    words += [
        ("" if getattr(role, name) else "NO") + name.upper()
        for name in _ATTRIBUTES
        if name not in left_out
    ]
    words.append(f"CONNECTION LIMIT {role.connection_limit}")
    if passwords and role.password_hash:
        words.append(f"PASSWORD {quote_literal(role.password_hash)}")
    valid_until = role.valid_until or ("infinity" if verb == "ALTER" else "")
    if valid_until:
        words.append(f"VALID UNTIL {quote_literal(valid_until)}")
    return " ".join(words)


def _grant(entry: Membership, member: str) -> str:
    grant = composed("GRANT {} TO {}", entry.group, member)
    if entry.inherit is None:
        return grant + (" WITH ADMIN OPTION" if entry.admin else "")
    return f"{grant} WITH ADMIN {entry.admin}, INHERIT {entry.inherit}, SET {entry.set_role}"


def _strip(session: Session, role: Role) -> None:
    """Takes the settings and memberships away that the scripts of a fresh cluster gave a role."""
    session.execute(composed("ALTER ROLE {} RESET ALL", role.name))
    groups = session.query(
        """SELECT DISTINCT g.rolname FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid
            WHERE a.member = (SELECT oid FROM pg_roles WHERE rolname = %s)""",
        role.name,
    )
    for (group,) in groups:
        session.execute(composed("REVOKE {} FROM {} CASCADE", group, role.name))
