# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Recovery sets that lie on the controller."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import SetError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.filenames import (
    dump_names,
    file_base,
    is_dump,
    names_meant,
    set_name,
    set_of_part,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.listing import list_sets
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    RecoverySet,
    limit_of,
    load_set,
    newest_backup,
    set_of_future,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault


def find_set(place: Path, database: str, source: str) -> RecoverySet:
    """The set of a database that `source` means in a directory, or whose file `place` is.

    :raises SetError: there is none, it is of another database or without a manifest, or several servers have made some.
    :raises ConfigError: the time cannot be read.
    """
    if not place.is_dir():
        return _of_file(place, database)
    sets = [
        one.recovery_set
        for one in list_sets(place, database)
        if one.recovery_set.manifest and one.database == database
    ]
    if source == "latest" or source.startswith("before:"):
        found = _newest(sets, place, database, source)
    else:
        found = next((s for s in sets if s.name in names_meant(source, database)), None)
    if found is None:
        names = ", ".join(one.name for one in sets[:5]) or "none"
        raise SetError(
            f'There is no set of database "{database}" for "{source}" in {place}',
            state="Nothing was touched",
            todo=f"Is it the right directory? Its newest sets of that database: {names}",
        )
    return found


def _newest(sets: list[RecoverySet], place: Path, database: str, source: str) -> RecoverySet | None:
    """:raises SetError: several servers have made some, and it is not known whose set is meant."""
    limit = limit_of(source)
    newest: dict[tuple[str, ...], RecoverySet] = {}
    for one in sets:
        if newest_backup([one], limit):
            made_by = one.require_manifest().source
            newest.setdefault((made_by.host, *made_by.origin), one)
    if len(newest) > 1:
        told = ", ".join(f"{one.name} of {_maker(one)}" for one in newest.values())
        raise SetError(
            f'"{source}" may be of several servers with a database "{database}": {place} has {told}',
            state="Nothing was touched",
            todo="Name the set that is meant instead",
        )
    return newest_backup(sets, limit)


def passed_over(place: Path, taken: RecoverySet) -> list[str]:
    """In words: newer sets of the database that `latest` does not mean in a directory, for want of a good manifest or date.

    Where only manifests lie there, as copies of those of another host, they are looked at alone.
    """
    database = taken.require_manifest().database
    files = Vault(place).names()
    names = {set_name(file) if is_dump(file) else set_of_part(file) for file in files}
    told = []
    for name in sorted(name for name in names if name.startswith(f"{file_base(database)}_")):
        other = load_set(place / dump_names(name)[0])
        if other.created <= taken.created:
            continue
        if other.manifest is None:
            told.append(f"{name} is newer than {taken.name}, but {other.problem}")
        elif other.manifest.database == database and other.manifest.purpose == "backup":
            told.append(set_of_future(name, other.created))
    return told


def _maker(one: RecoverySet) -> str:
    made_by = one.require_manifest().source
    return f"container {made_by.container} on {made_by.host}"


def _of_file(place: Path, database: str) -> RecoverySet:
    try:
        found = Vault(place.parent).resolve(str(place), database)
    except SetError as error:
        # Where the engine runs, the path is one of the database's host.
        raise SetError(
            error.what,
            state="Nothing was touched",
            todo="The path is looked up on this controller; is it right?",
        ) from error
    if found.manifest is None:
        raise SetError(
            f"{found.path} cannot be brought back, because nothing can be compared with it: {found.problem}",
            state="Nothing was touched",
            todo="Bring its manifest (.json) back beside it, or name another set",
        )
    if found.manifest.database != database:
        raise SetError(
            f'{found.path} is a set of database "{found.manifest.database}", not of "{database}"',
            state="Nothing was touched",
            todo="Name a set of that database",
        )
    return found
