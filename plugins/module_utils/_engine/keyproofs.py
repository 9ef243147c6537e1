# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Proofs that somebody still has a private key that opens the sets: when it was last shown, and by which public key."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from .clock import is_ahead
from .durable import read_object, replace_file
from .errors import ConfigError, HostError, SetError
from .filenames import file_base
from .keyring import identity_of
from .listing import Listed
from .model import Problem, Report, iso, parse_time, utc_now
from .mounts import not_mounted
from .neighbours import last_backup
from .run import Progress
from .vault import Vault
from .verify import VerifyRequest, verify

_OLDEST_DAYS = 90
_DAY_S = 86400.0
_TODO = "`firedrill keycheck --identity-file FILE` proves one"


@dataclass(frozen=True)
class Proof:
    """A set was opened and read whole: when, which one, its recipients, and the public keys that belong to the private
    one, as far as they can be told."""

    at: str
    set_name: str
    recipients: tuple[str, ...]
    keys: tuple[str, ...]

    @classmethod
    def now(cls, set_name: str, recipients: tuple[str, ...], keys: tuple[str, ...]) -> Proof:
        return cls(iso(utc_now()), set_name, recipients, keys)

    def counts_for(self, recipients: tuple[str, ...]) -> bool:
        """Whether the same private key opens what is encrypted to `recipients`."""
        return bool(set(self.keys) & set(recipients)) or self.recipients == recipients


def _path(directory: Path, database: str) -> Path:
    return directory / f"{file_base(database)}.keyproof"


def last_proof(directory: Path, database: str) -> Proof | None:
    """The latest proof of a database; None when there is none that can be read."""
    found = read_object(_path(directory, database))
    with suppress(KeyError, TypeError, ValueError):
        parse_time(found["at"])
        recipients, keys = (tuple(map(str, found[name])) for name in ("recipients", "keys"))
        return Proof(str(found["at"]), str(found["set_name"]), recipients, keys)
    return None


def check_key(
    request: VerifyRequest, progress: Progress | None = None, *, note: bool = True
) -> Report:
    """Opens the set with the private key of the request, reads it to its last byte, and notes that.

    The verdict is that of verify(); only `intact` is noted.

    :param note: whether it is to be noted; what is read and reported is the same.
    :raises ConfigError: no private key was given, or its file cannot be read.
    :raises LockedError: it opens nothing here.
    :raises SetError: there is no such set, or it is not encrypted.
    :raises HostError: the proof could not be noted.
    """
    identity = identity_of(request.identity, request.identity_file)
    if not identity.text.strip():
        raise ConfigError(
            f"No private key can be proved: {identity.lacking}",
            state="Nothing was proved",
            todo=identity.todo,
        )
    report = verify(request, progress)
    report.action = "keycheck"
    if report.verdict != "intact":
        return report
    if not report.details["recipients"]:
        raise SetError(
            f"{report.set_name} is not encrypted: it needs no key",
            state="Nothing was proved",
            todo="Set `encryption`, and make a backup",
        )
    if note:
        recipients, keys = (tuple(report.details[name]) for name in ("recipients", "keys"))
        note_proof(request.directory, report.database, Proof.now(report.set_name, recipients, keys))
    # Without a note it is what one would change.
    report.changed = True
    whose = ", ".join(report.details["keys"]) or "one whose public part is not told"
    report.msg = f"The private key opens the set ({whose}). {report.msg}"
    return report


def note_proof(directory: Path, database: str, proof: Proof) -> None:
    """Notes that a set was opened and read to its last byte, unless a proof of more worth is noted already: an old set
    may have been opened with a key that does not open the newest.

    :raises HostError: it could not be noted.
    """
    what = f"The key opens {proof.set_name}, but that cannot be noted in {directory}"
    if absent := not_mounted(directory):
        raise HostError(f"{what}: {absent}", todo="Mount the disk, then run this again")
    present, wanted = last_proof(directory, database), _newest_recipients(directory, database)
    if present and present.counts_for(wanted) and not proof.counts_for(wanted):
        return
    try:
        replace_file(_path(directory, database), json.dumps(asdict(proof), indent=1) + "\n")
    except OSError as error:
        raise HostError(f"{what}: {error.strerror}", todo="Is the file system writable?") from error


def _newest_recipients(directory: Path, database: str) -> tuple[str, ...]:
    """Whom the newest backup there is encrypted to; nobody where there is none, or it is not."""
    newest = last_backup(Vault(directory).sets(database))
    encryption = newest.require_manifest().encryption if newest else None
    return encryption.recipients if encryption else ()


def key_problems(
    directory: Path, database: str, newest: Listed | None, now: datetime
) -> list[Problem]:
    """What `status` says of the keys of a database whose newest set is `newest`; nothing where that is not encrypted."""
    manifest = newest.recovery_set.manifest if newest else None
    if manifest is None or manifest.encryption is None:
        return []
    proof = last_proof(directory, database)
    if proof is None:
        words = f"nobody has proved yet that a private key opens the sets: {_TODO}"
        return [Problem("key-unproved", words)]
    if not proof.counts_for(manifest.encryption.recipients):
        words = f"no private key was proved for the present recipients: {_TODO}"
        return [Problem("key-of-others", words)]
    age_s = (now - parse_time(proof.at)).total_seconds()
    if is_ahead(parse_time(proof.at), now):
        words = f"the clock was wrong when a private key was proved, at {proof.at}: {_TODO}"
        return [Problem("key-proof-ahead", words)]
    if age_s > _OLDEST_DAYS * _DAY_S:
        words = f"no private key was proved to open the sets since {proof.at}: {_TODO}"
        return [Problem("key-proof-old", words)]
    return []
