# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guide beside the sets: how to recover with plain commands, for whoever has the files and not this tool."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from .durable import replace_file
from .filenames import CIPHERS, DUMP, GLOBALS, SEALED
from .manifest import Manifest
from .model import human_bytes
from .recovery_set import RecoverySet
from .server import quote_identifier
from .vault import Vault

GUIDE = "RECOVERY.md"
#: From here on the official image keeps its data one directory further up.
_VOLUME_ABOVE_MAJOR = 18
#: Settings of the database would bind the restore, too; these outrank them (libpq-connect.html, options).
_OPTIONS = (
    *("default_transaction_read_only=off", "statement_timeout=0", "lock_timeout=0"),
    "idle_in_transaction_session_timeout=0",
)
_OPTIONS_17 = ("transaction_timeout=0", "event_triggers=off")

_HEAD = """\
# How to recover these databases without Firedrill

Beside this file lie recovery sets of PostgreSQL databases. Everything below needs a Linux host with Docker, bash and the
usual small programs ({programs}), and nothing else. It is written anew with each backup, for the
newest set of each database; set `SET` to the name of another one for that, whose files have to end alike.

Run the commands with bash, as root, in the directory of the sets, one block after the other. When one fails, stop there
and read what it says: nothing that is live is touched before.
"""

#: Each file of a set as sha256sum reads it; the keys of a manifest are sorted.
_SUMS = """awk -F'"' '$2 == "name" { n = $4 } $2 == "sha256" { print $4 "  " n }' "$SET.json" | sha256sum --check"""

#: As Manifest.rows has it; nothing where that is not known.
_ROWS = """\
ROWS=$(awk -F'[ ,:]+' '$2 == "\\"level\\"" { level = $3 } $2 == "\\"rows\\"" { n += $3 } $2 == "\\"total_rows\\"" { total = $3 }
  END { if (level ~ /sealed|none/) { if (total == "null") exit; n = total } printf "%.0f", n }' "$SET.json")"""

_COUNT = """\
SELECT format('SELECT %L, count(*) FROM ONLY %I.%I', n.nspname || '.' || c.relname, n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname \\gexec"""

#: A person types it, and only after a look: nothing that runs by itself may drop a database.
_DROP = (
    " One that the start of a new server has made, and in which nobody misses anything, goes with "
    '`docker exec "$CONTAINER" dropdb --username="$SUPERUSER" -- "$DATABASE"`.'
)

_ONLY_MISSING = """\
awk 'BEGIN { n = split(ENVIRON["EXISTING"], known, "\\n") }
     { for (i = 1; i <= n; i++)
         if (index($0, "CREATE ROLE " known[i] ";") == 1 || index($0, "ALTER ROLE " known[i] " ") == 1) next
       print }'"""


def update_guide(directory: Path) -> None:
    """Writes the guide of a directory, for the newest backup of each of its databases that has all its files.

    :raises OSError: it cannot be written; the one before is still there.
    :raises HostError: the directory cannot be read.
    """
    newest: dict[str, Manifest] = {}
    for recovery_set in Vault(directory).sets():
        manifest = recovery_set.require_manifest()
        if manifest.purpose == "backup" and _has_files(recovery_set):
            newest.setdefault(manifest.database, manifest)
    path = directory / GUIDE
    text = guide(newest[name] for name in sorted(newest))
    if not path.exists() or path.read_text(encoding="utf-8", errors="surrogateescape") != text:
        replace_file(path, text)


def guide(manifests: Iterable[Manifest]) -> str:
    """The text, in Markdown. It says no more of an encrypted set than its plain manifest, and holds no secret.

    :param manifests: one set each of the databases, as they lie beside it.
    """
    found = list(manifests)
    methods = {manifest.encryption.method for manifest in found if manifest.encryption}
    programs = ["sha256sum", "awk", "sed", *sorted(methods)]
    head = _HEAD.format(programs=", ".join(programs))
    return "\n".join([head, *(_Chapter(manifest).text() for manifest in found)])


def _has_files(recovery_set: RecoverySet) -> bool:
    manifest = recovery_set.require_manifest()
    return all(recovery_set.file_of(entry).exists() for entry in manifest.entries)


class _Chapter:
    """One database. Every name that others chose is quoted for the shell, and nothing else is composed of it."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._source = manifest.source
        self._method = manifest.encryption.method if manifest.encryption else ""
        self._number = 0

    def text(self) -> str:
        parts = [self._introduction(), *self._beginning(), *self._server()]
        return "\n".join([*parts, *self._roles(), *self._restore(), *self._check()])

    # -- what it is ----------------------------------------------------------------------------------

    def _introduction(self) -> str:
        manifest, source = self._manifest, self._source
        origin = (
            f"The set {manifest.name} was made on {manifest.created_at} from PostgreSQL {source.server_version}, image "
            f"{_shown(source.image)} ({_shown(source.image_digest or source.image_id)}), in container "
            f"{_shown(source.container)} on host {_shown(source.host)}. Its dump has {human_bytes(manifest.dump.bytes)}."
        )
        said = [f"## Database {_shown(manifest.database)}", "", origin, ""]
        if manifest.encryption:
            keys = ", ".join(_shown(key) for key in manifest.encryption.recipients)
            said += [
                f"It is encrypted with {self._method} to {keys}: you need one of the private keys.",
                "",
            ]
        else:
            properties = manifest.properties
            nature = (
                f"It belongs to role {_shown(properties.owner)}, in encoding {_shown(properties.encoding)} and locale "
                f"{_shown(properties.locale or properties.collate)}; the archive creates it so."
            )
            said += [nature, ""]
            if manifest.extensions:
                names = ", ".join(
                    f"{_shown(one.name)} {one.version}" for one in manifest.extensions
                )
                said += [f"The image has to bring its extensions: {names}.", ""]
        return "\n".join(said)

    # -- the steps -----------------------------------------------------------------------------------

    def _beginning(self) -> list[str]:
        options = [*_OPTIONS, *(_OPTIONS_17 if self._source.major >= 17 else ())]
        lines = [
            "set -o pipefail",
            f"SET={self._manifest.name}",
            f"DATABASE={shlex.quote(self._manifest.database)}",
            "CONTAINER=${CONTAINER:-recovered}",
            f"OPTIONS={shlex.quote(' '.join(f'-c {option}' for option in options))}",
        ]
        if not self._method:
            lines += [
                f"SUPERUSER={shlex.quote(self._source.superuser or 'postgres')}",
                f"PRELOAD={shlex.quote(self._source.preload_libraries)}",
            ]
            return [*self._step("Say which set, and check its files", *lines, _SUMS)]
        if self._method == "age":
            words = "`KEY` is the file with the private key."
            lines += [
                "KEY=${KEY:-key.txt}",
                'decrypt() { age --decrypt --identity "$KEY" "$1"; }',
            ]
        else:
            words = (
                "The private key has to be in your keyring: `gpg --import` the file that you kept."
            )
            lines.append('decrypt() { gpg --quiet --batch --decrypt "$1"; }')
        sealed = f"decrypt {self._file(SEALED)}"
        return [
            *self._step("Say which set, and check its files", *lines, _SUMS, words=words),
            *self._step(
                "Read what the new server needs",
                *(
                    f"{name}=$({sealed} | sed -n 's/^ *\"{key}\": \"\\(.*\\)\",\\{{0,1\\}}$/\\1/p' | sed 's/\\\\\\(.\\)/\\1/g')"
                    for name, key in (("SUPERUSER", "superuser"), ("PRELOAD", "preload_libraries"))
                ),
            ),
        ]

    def _server(self) -> list[str]:
        place = "/var/lib/postgresql"
        if self._source.major < _VOLUME_ABOVE_MAJOR:
            place += "/data"
        return self._step(
            "Start a server of the same image",
            'export POSTGRES_PASSWORD="$(head -c 18 /dev/urandom | base64)"',
            f'docker run --detach --name "$CONTAINER" --volume "$CONTAINER-data:{place}" \\',
            '  --env POSTGRES_PASSWORD --env "POSTGRES_USER=$SUPERUSER" --env POSTGRES_DB=postgres \\',
            f"  {shlex.quote(self._source.image)} \\",
            '  ${PRELOAD:+-c} ${PRELOAD:+"shared_preload_libraries=$PRELOAD"}',
            'for second in $(seq 300); do docker exec "$CONTAINER" pg_isready -q -h 127.0.0.1 && break; sleep 1; done',
            words="Where your own Compose file has brought the server up already, set `CONTAINER` to its name instead, and "
            "skip this step. The new server has a password of its own, which nobody has seen: "
            '`docker exec -it "$CONTAINER" psql -U "$SUPERUSER" -c \'\\password\'` sets another.',
        )

    def _roles(self) -> list[str]:
        words = "Only roles that are missing are created; those that are there stay as they are."
        if self._manifest.globals is None:
            return self._roles_without_globals(words)
        reading = ("decrypt" if self._method else "cat") + f" {self._file(GLOBALS)} |"
        return self._step(
            "Create the roles",
            f"EXISTING=$({_psql('SELECT quote_ident(rolname) FROM pg_roles')})",
            "export EXISTING",
            reading,
            "  sed -n \"s/^CREATE TABLESPACE .* LOCATION '\\(.*\\)';\\$/\\1/p\" |",
            '  while IFS= read -r place; do docker exec "$CONTAINER" install -d -o postgres -m 700 "$place"; done',
            reading,
            f"  {_ONLY_MISSING} |",
            f"  {_psql()}",
            words=words,
        )

    def _roles_without_globals(self, words: str) -> list[str]:
        source = self._source.superuser
        missing = [
            role for role in self._manifest.roles if role.named_by_database and role.name != source
        ]
        if self._method or not missing:
            return []
        statements = [
            f"CREATE ROLE {quote_identifier(role.name)}{' LOGIN' if role.login else ''};"
            for role in missing
        ]
        return self._step(
            "Create the roles",
            f"{_psql(chr(10).join(statements))}",
            words="The set was made without passwords and memberships: give the roles new ones.",
        )

    def _restore(self) -> list[str]:
        # A new server has a database of that name already.
        where = ["--dbname=postgres"]
        if self._manifest.database == "postgres":
            where = ["--clean", "--if-exists", "--dbname=template1"]
        nobody = self._method and self._manifest.globals is None
        options = ["--create", "--exit-on-error", "--no-tablespaces", "--no-subscriptions", *where]
        options += ["--no-owner", "--no-privileges"] if nobody else []
        command = f'docker exec --interactive --env "PGOPTIONS=$OPTIONS" "$CONTAINER" \\\n  pg_restore --username="$SUPERUSER" {" ".join(options)}'
        if self._method:
            lines = [f"decrypt {self._file(DUMP)} |", f"  {command}"]
        else:
            lines = [f"{command} < {self._file(DUMP)}"]
        return self._step(
            "Restore",
            *lines,
            words="The database is created as it was, with its owner, encoding, locale, grants and settings, and must not be there "
            f"yet.{_DROP if self._manifest.database != 'postgres' else ''}",
        )

    def _check(self) -> list[str]:
        there = '--env "PGDATABASE=$DATABASE" --env "PGOPTIONS=$OPTIONS" "$CONTAINER" \\\n'
        psql = '  psql --username="$SUPERUSER" --no-psqlrc --quiet'
        rows = self._manifest.rows
        words = "This set does not say how many rows there have to be."
        if rows is not None:
            words = f"The last line has to say the same number twice, of this set {rows} rows of {rows}."
        return self._step(
            "Gather statistics, and count the rows",
            _ROWS,
            f"docker exec {there}{psql} --command=ANALYZE",
            f"docker exec --interactive {there}{psql} --tuples-only --no-align --set=ON_ERROR_STOP=1 <<'SQL' |",
            _COUNT,
            "SQL",
            "  awk -F'|' -v want=\"$ROWS\" '{ print; n += $NF }",
            '    END { printf "%.0f rows%s\\n", n, want == "" ? "" : " of " want; exit want != "" && n != want }\'',
            words=words,
        )

    def _file(self, kind: str) -> str:
        return f'"$SET{kind}{CIPHERS.get(self._method, "")}"'

    def _step(self, title: str, *lines: str, words: str = "") -> list[str]:
        self._number += 1
        code = "\n".join(lines)
        # A name may hold backticks.
        longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
        fence = "`" * max(3, longest + 1)
        said = [words, ""] if words else []
        return [f"### {self._number}. {title}", "", *said, f"{fence}bash", code, fence, ""]


def _psql(sql: str = "") -> str:
    """psql in the container, with a statement or with what it reads from its standard input, whose answers are dropped."""
    words = '"$CONTAINER" psql --username="$SUPERUSER" --dbname=postgres --no-psqlrc --quiet'
    if sql:
        return f"docker exec {words} --tuples-only --no-align --command={shlex.quote(sql)}"
    return f"docker exec --interactive {words} --output=/dev/null"


def _shown(text: str) -> str:
    """A name in the text: nothing in it ends the line or the code span."""
    plain = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return f"`{plain.replace('`', chr(39))}`"
