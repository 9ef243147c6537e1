# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a set is taken from: the backup directory, or an offsite target, from which it is downloaded for as long as needed."""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from .clock import is_ahead
from .durable import maker_mark
from .errors import ConfigError, HostError, OffsiteError, SetError
from .filenames import MANIFEST, names_meant
from .hashing import sha256_of
from .keyring import Key
from .ledger import DAMAGED, Ledger
from .manifest import FileEntry, Manifest
from .model import Target, human_bytes, iso, utc_now
from .recovery_set import RecoverySet, limit_of, set_of_future
from .remotes import store_of
from .run import Run
from .sealed import unseal
from .stores import FarSet, Store
from .targets import Offsite
from .vault import DOWNLOADS, Vault

#: What the source of a set begins with that lies at an offsite target.
FAR = "offsite:"
_SPARE_BYTES = 10_000_000


@dataclass(frozen=True)
class Located:
    """A set that was found. Of one at a target only the manifest was read; here() brings its files."""

    recovery_set: RecoverySet
    warnings: tuple[str, ...] = ()
    #: The targets that list it whole, the one that its manifest is of first; none when it is on this host.
    stores: tuple[Store, ...] = ()
    run: Run | None = field(default=None, repr=False)
    vault: Vault | None = field(default=None, repr=False)

    @property
    def is_far(self) -> bool:
        return bool(self.stores)

    def opened(self, key: Key, warnings: list[str]) -> RecoverySet:
        """The set with its whole manifest, if it is encrypted. Of one at a target only the sealed part is downloaded, so
        that a wrong key is told before everything is.

        :param warnings: gets what was wrong at targets, when another one had it.
        :raises LockedError: there is no key, or another one is needed.
        :raises OffsiteError: every target failed.
        :raises SetError: the sealed part is damaged.
        """
        manifest = self.recovery_set.manifest
        if not (self.stores and self.run and manifest and manifest.sealed):
            return unseal(self.recovery_set, key)
        private = self.run.private_directory("sealed")
        self._bring(manifest, manifest.sealed, list(self.stores), private, warnings)
        found = unseal(RecoverySet(private / manifest.dump.name, manifest), key)
        return replace(found, path=self.recovery_set.path)

    @contextlib.contextmanager
    def here(self, warnings: list[str]) -> Iterator[RecoverySet]:
        """The set with its files on this host; what was downloaded for it is removed after the block.

        :param warnings: gets what was wrong at targets, when another one had it.
        :raises OffsiteError: every target failed.
        :raises HostError: there is no room for it.
        :raises SetError: what came is not what the manifest says.
        """
        if not (self.stores and self.run and self.vault):
            yield self.recovery_set
            return
        manifest = self.recovery_set.require_manifest()
        self.vault.prepare()
        self.vault.sweep()
        self._check_room(manifest, self.vault)
        private = self.vault.directory / f"{DOWNLOADS}{maker_mark()}"
        try:
            with _writing(private):
                private.mkdir(mode=0o700)
            with self.run.phase("download"):
                dump = self._download(manifest, self.run, private, warnings)
            # The server that is restored on needs the memory.
            for store in self.stores:
                store.close()
            yield RecoverySet(dump, manifest)
        finally:
            shutil.rmtree(private, ignore_errors=True)

    @staticmethod
    def _check_room(manifest: Manifest, vault: Vault) -> None:
        needed, free = sum(entry.bytes for entry in manifest.entries), vault.free_bytes()
        if free < needed + _SPARE_BYTES:
            raise HostError(
                f"The disk of {vault.directory} has {human_bytes(free)} free, {manifest.name} needs "
                f"{human_bytes(needed)} to be downloaded",
                state="Nothing was changed",
                todo="Free some space, or set backup_dir to a larger disk",
            )

    def _download(self, manifest: Manifest, run: Run, private: Path, warnings: list[str]) -> Path:
        stores = list(self.stores)
        total = sum(entry.bytes for entry in manifest.entries)
        done = 0
        for entry in manifest.entries:
            self._bring(manifest, entry, stores, private, warnings)
            done += entry.bytes
            run.advance(done, total)
        # With the manifest it is a set like any other.
        beside = private / f"{manifest.name}{MANIFEST}"
        with _writing(beside):
            beside.write_text(manifest.to_json(), encoding="utf-8", errors="surrogateescape")
        return private / manifest.dump.name

    def _bring(
        self,
        manifest: Manifest,
        entry: FileEntry,
        stores: list[Store],
        private: Path,
        warnings: list[str],
    ) -> None:
        """Downloads a file from the first of these targets that has it as its manifest says, and puts that one first.

        :raises OffsiteError: every target failed.
        :raises SetError: what came is not what the manifest says, from one target at least.
        """
        refusals: list[OffsiteError | SetError] = []
        path = private / entry.name
        for store in stores:
            try:
                _bring_from(store, entry, path)
            except (OffsiteError, SetError) as error:
                refusals.append(error)
                if isinstance(error, SetError):
                    self._disprove(manifest, store)
                # By its size and date the next program may take it for the file that is wanted.
                path.unlink(missing_ok=True)
                continue
            told = [f"{error.what}; {entry.name} was taken from {store.name}" for error in refusals]
            warnings += [one for one in told if one not in warnings]
            stores.sort(key=lambda one: one is not store)
            return
        worst = next((one for one in refusals if isinstance(one, SetError)), refusals[0])
        what = "; ".join(error.what for error in refusals)
        raise type(worst)(what, state=worst.state, todo=worst.todo)

    def _disprove(self, manifest: Manifest, store: Store) -> None:
        """The copy was confirmed and is not what was: the next run of copies has to send it, and until then it is none."""
        if self.vault:
            ledger = Ledger(self.vault.directory, manifest.database)
            # What the set is wanted for does not fail because of it.
            with contextlib.suppress(HostError):
                ledger.missed(manifest.name, store.name, DAMAGED, utc_now())


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """:raises HostError: it cannot be written."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{path} cannot be written: {error.strerror}",
            todo="Is the disk full, is the file system writable?",
        ) from error


def _bring_from(store: Store, entry: FileEntry, path: Path) -> None:
    store.get(entry.name, path)
    if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
        raise SetError(
            f"{entry.name} of {store.place} is damaged: its size or SHA-256 is not the one of its manifest",
            state="Nothing was changed",
            todo="Use another set, or another target",
        )


def locate(run: Run, vault: Vault, source: str, target: Target, offsite: Offsite) -> Located:
    """The set that `source` means: as Vault.resolve() says, or `offsite:` and one of `latest`, `before:<time>`, a name
    or a timestamp, with a target and a slash before it where only that one is meant. `latest` and `before:` mean a set
    that this host has made; where it has made none, one of the only host that has, with a warning.

    :raises SetError: there is none, or several other hosts have made some.
    :raises OffsiteError: no target could be asked.
    :raises ConfigError: there is no such target, or the time cannot be read.
    """
    if source.startswith(FAR):
        return _Search(run, vault, source, target.database, offsite).find()
    found = vault.resolve(source, target.database, target)
    return Located(found, tuple(vault.passed_over(found, target)) if source == "latest" else ())


#: Something, and the target at which it is.
_T = TypeVar("_T")
_At = tuple[_T, Store]


class _Search:
    def __init__(
        self, run: Run, vault: Vault, source: str, database: str, offsite: Offsite
    ) -> None:
        self._run = run
        self._vault = vault
        self._source = source
        self._database = database
        self._warnings: list[str] = []
        self._now = utc_now()
        name, slash, wanted = source[len(FAR) :].partition("/")
        self._wanted = wanted if slash else name
        targets = [one for one in offsite.targets if not slash or one.name == name]
        if not targets or not self._wanted:
            known = ", ".join(offsite.names) or "none"
            raise ConfigError(
                f'"{source}" names no offsite target of the settings (they have {known})'
                if self._wanted
                else f'"{source}" names no set',
                state="Nothing was changed",
                todo="Write offsite:latest, offsite:TARGET/latest or offsite:TARGET/NAME",
            )
        self._stores = [store_of(one, offsite.folder, run) for one in targets]

    def find(self) -> Located:
        known: list[_At[FarSet]] = []
        own: list[_At[Manifest]] = []
        others: list[_At[Manifest]] = []
        refusals = []
        with self._run.phase("look offsite"):
            for store in self._stores:
                try:
                    known += [(one, store) for one in store.sets() if one.has_manifest]
                except OffsiteError as error:
                    refusals.append(error)
            self._warnings += [f"could not be asked: {error.what}" for error in refusals]
            known.sort(key=lambda pair: (pair[0].created, pair[0].name), reverse=True)
            for far, store in known:
                if self._is_meant(far) and (manifest := self._manifest(far, store)):
                    is_own = manifest.source.host == platform.node() or not self._any_newest
                    (own if is_own else others).append((manifest, store))
                    if is_own and not self._is_passed_over(far.created):
                        break
        if own or others:
            manifest, store = self._newest(own or self._of_one_host(others))
            # That a file there is the same one, its SHA-256 shows once it has come.
            further = [
                other
                for far, other in known
                if far.name == manifest.name and other is not store and far.holds(manifest)
            ]
            return self._located(manifest, store, *further)
        if refusals:
            raise refusals[0]
        names = ", ".join(one.name for one, unused_store in known[:5]) or "none"
        raise SetError(
            f'There is no complete set "{self._source}" of database "{self._database}"'
            + (f": {'; '.join(self._warnings)}" if self._warnings else ""),
            state="Nothing was changed",
            todo=f"The newest sets there: {names}",
        )

    @property
    def _any_newest(self) -> bool:
        """Whether no certain set was named."""
        return self._wanted == "latest" or self._wanted.startswith("before:")

    def _is_passed_over(self, created: datetime) -> bool:
        return self._wanted == "latest" and is_ahead(created, self._now)

    def _newest(self, found: list[_At[Manifest]]) -> _At[Manifest]:
        """The first of sets, newest first, unless its date is in the future and that of another is not."""
        good = [one for one in found if not self._is_passed_over(one[0].created)]
        if not good:
            return found[0]
        ahead = {one.name: one.created for one, unused_store in found[: found.index(good[0])]}
        self._warnings += [set_of_future(*one) for one in ahead.items()]
        return good[0]

    def _of_one_host(self, others: list[_At[Manifest]]) -> list[_At[Manifest]]:
        """Sets of other hosts, when they are of one.

        :raises SetError: it is not known whose set is meant.
        """
        newest = {one.source.host: one.name for one, unused_store in reversed(others)}
        if len(newest) > 1:
            told = ", ".join(f"{name} of {host}" for host, name in newest.items())
            raise SetError(
                f'"{self._source}" may be of several hosts, none of which is this one ({platform.node()}): {told}',
                state="Nothing was changed",
                todo="Name the set that is meant, as in offsite:TARGET/NAME",
            )
        return others

    def _located(self, manifest: Manifest, store: Store, *further: Store) -> Located:
        source = manifest.source
        if source.host != platform.node():
            self._warnings.append(
                f"{manifest.name} at {store.name} was made by host {source.host}, of container {source.container}, "
                f"at {manifest.created_at}; this host is {platform.node()}"
            )
        for other in self._stores:
            if other not in (store, *further):
                other.close()
        found = RecoverySet(Path(f"{store.place}/{manifest.dump.name}"), manifest)
        return Located(found, tuple(self._warnings), (store, *further), self._run, self._vault)

    def _is_meant(self, far: FarSet) -> bool:
        wanted = self._wanted
        if wanted == "latest" or wanted.startswith("before:"):
            limit = limit_of(wanted)
            return limit is None or far.created < limit
        return far.name in names_meant(wanted, self._database)

    def _manifest(self, far: FarSet, store: Store) -> Manifest | None:
        """The manifest of a complete set; None for one that has to be passed over."""
        try:
            manifest = store.manifest(far.name)
        except (SetError, OffsiteError) as error:
            self._warnings.append(f"{far.name} was passed over: {error.what}")
            return None
        if self._any_newest and (
            manifest.database != self._database or manifest.purpose != "backup"
        ):
            return None
        if not far.holds(manifest):
            self._warnings.append(
                f"{far.name} of {iso(far.created)} was passed over: it is not complete at {store.name}"
            )
            return None
        return manifest
