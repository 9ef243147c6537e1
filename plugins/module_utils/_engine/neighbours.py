# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is odd about a new set beside the earlier ones of its database. Sets are given newest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .manifest import Manifest
from .recovery_set import RecoverySet
from .retention import Candidate, loss_before


def last_backup(sets: Iterable[RecoverySet]) -> RecoverySet | None:
    """The first that is a backup, and not what a restore dumped for safety."""
    return next((one for one in sets if one.manifest and one.manifest.purpose == "backup"), None)


def encrypted_before(earlier: Sequence[RecoverySet]) -> str:
    """The name of the last backup, if that is encrypted; else ""."""
    last = last_backup(earlier)
    return last.name if last and last.require_manifest().encryption else ""


def unencrypted(*, encrypted: bool, earlier: Sequence[RecoverySet]) -> str:
    """A warning when a set that is not encrypted follows one that is.

    :param encrypted: whether the new one is.
    """
    before = "" if encrypted else encrypted_before(earlier)
    return f"this set is NOT encrypted, {before} before it is" if before else ""


def shared(manifest: Manifest, earlier: Sequence[RecoverySet]) -> str:
    """A warning when another container puts sets of a database of that name into the same directory."""
    sources = [one.manifest.source for one in earlier if one.manifest]
    others = [one for one in sources if one.origin != manifest.source.origin]
    # Where there are no more of the other it is this one, under its former name.
    if not others or sources[0] not in others or len(others) == len(sources):
        return ""
    return (
        f'sets of a database "{manifest.database}" of container {others[0].container} lie in the same directory: retention '
        "takes all of them for those of one database, so give each a backup_dir of its own"
    )


def shrunk(manifest: Manifest, earlier: Sequence[RecoverySet]) -> str:
    """A warning when there are far fewer rows than in the backup before."""
    origin = manifest.source.origin
    sources = [one.manifest for one in earlier if one.manifest]
    known = [Candidate.of(one) for one in sources if one.source.origin == origin]
    loss = loss_before(known, Candidate.of(manifest))
    return f"{loss}: was data lost before the dump?" if loss else ""
