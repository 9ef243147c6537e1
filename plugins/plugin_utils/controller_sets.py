# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Recovery sets that lie on the controller."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import SetError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.filenames import (
    names_meant,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.listing import list_sets
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import (
    RecoverySet,
    Vault,
    limit_of,
    newest_backup,
)


def find_set(place: Path, database: str, source: str) -> RecoverySet:
    """The set of a database that `source` means in a directory, or whose file `place` is.

    :raises SetError: there is none, or it is of another database.
    :raises ConfigError: the time cannot be read.
    """
    if not place.is_dir():
        return _of(database, Vault(place.parent).resolve(str(place), database))
    sets = [
        one.recovery_set
        for one in list_sets(place, database)
        if one.recovery_set.manifest and one.database == database
    ]
    if source == "latest" or source.startswith("before:"):
        found = newest_backup(sets, limit_of(source))
    else:
        found = next((s for s in sets if s.name in names_meant(source, database)), None)
    if found is None:
        raise SetError(
            f'There is no set of database "{database}" for "{source}" in {place} of the controller',
            state="Nothing was changed",
            todo="Is it the right directory?",
        )
    return found


def _of(database: str, found: RecoverySet) -> RecoverySet:
    if found.require_manifest().database != database:
        raise SetError(
            f'{found.path} is a set of database "{found.require_manifest().database}", not of "{database}"',
            state="Nothing was changed",
            todo="Name a set of that database",
        )
    return found
