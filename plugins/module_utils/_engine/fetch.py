# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a set is taken from: the backup directory, or an offsite target, from which it is downloaded for as long as needed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .clock import is_ahead
from .errors import ConfigError, HostError, OffsiteError, SetError
from .filenames import MANIFEST, names_meant
from .manifest import Manifest
from .model import human_bytes, iso, utc_now
from .remotes import store_of
from .run import Run, owner_lives, owner_mark
from .stores import FarSet, Store
from .targets import Offsite
from .vault import RecoverySet, Vault, limit_of, set_of_future, sha256_of

#: What the source of a set begins with that lies at an offsite target.
FAR = "offsite:"
_DOWNLOADS = ".offsite-"
_SPARE_BYTES = 10_000_000


@dataclass(frozen=True)
class Located:
    """A set that was found. Of one at a target only the manifest was read; here() brings its files."""

    recovery_set: RecoverySet
    warnings: tuple[str, ...] = ()
    store: Store | None = None
    run: Run | None = field(default=None, repr=False)
    vault: Vault | None = field(default=None, repr=False)

    @property
    def is_far(self) -> bool:
        return self.store is not None

    @contextlib.contextmanager
    def here(self) -> Iterator[RecoverySet]:
        """The set with its files on this host; what was downloaded for it is removed after the block.

        :raises OffsiteError: the target failed.
        :raises HostError: there is no room for it.
        :raises SetError: what came is not what the manifest says.
        """
        if not (self.store and self.run and self.vault):
            yield self.recovery_set
            return
        manifest = self.recovery_set.require_manifest()
        self.vault.prepare()
        sweep(self.vault.directory)
        self._check_room(manifest, self.vault)
        private = self.vault.directory / f"{_DOWNLOADS}{owner_mark().replace('/', '_')}"
        try:
            private.mkdir(mode=0o700)
            with self.run.phase("download"):
                dump = self._download(manifest, self.store, self.run, private)
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

    @staticmethod
    def _download(manifest: Manifest, store: Store, run: Run, private: Path) -> Path:
        total = sum(entry.bytes for entry in manifest.entries)
        done = 0
        for entry in manifest.entries:
            path = private / entry.name
            store.get(entry.name, path)
            if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
                raise SetError(
                    f"{entry.name} of {store.place} is damaged: its size or SHA-256 is not the one of its manifest",
                    state="Nothing was changed",
                    todo="Use another set, or another target",
                )
            done += entry.bytes
            run.advance(done, total)
        # With the manifest it is a set like any other.
        (private / f"{manifest.name}{MANIFEST}").write_text(
            manifest.to_json(), encoding="utf-8", errors="surrogateescape"
        )
        return private / manifest.dump.name


def locate(run: Run, vault: Vault, source: str, database: str, offsite: Offsite) -> Located:
    """The set that `source` means: as Vault.resolve() says, or `offsite:` and one of `latest`, `before:<time>`, a name
    or a timestamp, with a target and a slash before it where only that one is meant.

    :raises SetError: there is none.
    :raises OffsiteError: no target could be asked.
    :raises ConfigError: there is no such target, or the time cannot be read.
    """
    if source.startswith(FAR):
        return _Search(run, vault, source, database, offsite).find()
    found = vault.resolve(source, database)
    return Located(found, tuple(vault.passed_over(found, database)) if source == "latest" else ())


def sweep(directory: Path) -> None:
    """Removes the downloads of runs that were killed."""
    for path in directory.glob(f"{_DOWNLOADS}*"):
        if not owner_lives(path.name[len(_DOWNLOADS) :].replace("_", "/")):
            shutil.rmtree(path, ignore_errors=True)


class _Search:
    def __init__(
        self, run: Run, vault: Vault, source: str, database: str, offsite: Offsite
    ) -> None:
        self._run = run
        self._vault = vault
        self._source = source
        self._database = database
        self._warnings: list[str] = []
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
        self._stores = [store_of(one, offsite.folder) for one in targets]

    def find(self) -> Located:
        known: list[tuple[FarSet, Store]] = []
        refusals = []
        with self._run.phase("look offsite"):
            for store in self._stores:
                try:
                    known += [(one, store) for one in store.sets() if one.has_manifest]
                except OffsiteError as error:
                    refusals.append(error)
            self._warnings += [f"could not be asked: {error.what}" for error in refusals]
            scratch = self._run.private_directory("manifest")
            known.sort(key=lambda pair: (pair[0].created, pair[0].name), reverse=True)
            now = utc_now()
            ahead: list[tuple[Manifest, Store]] = []
            for far, store in known:
                if self._is_meant(far) and (manifest := self._manifest(far, store, scratch)):
                    if self._wanted == "latest" and is_ahead(far.created, now):
                        ahead.append((manifest, store))
                        continue
                    dates = {one.name: one.created for one, unused_store in ahead}
                    self._warnings += [set_of_future(*one) for one in dates.items()]
                    return self._located(manifest, store)
            if ahead:
                return self._located(*ahead[0])
        if refusals:
            raise refusals[0]
        names = ", ".join(one.name for one, unused_store in known[:5]) or "none"
        raise SetError(
            f'There is no complete set "{self._source}" of database "{self._database}"'
            + (f": {'; '.join(self._warnings)}" if self._warnings else ""),
            state="Nothing was changed",
            todo=f"The newest sets there: {names}",
        )

    def _located(self, manifest: Manifest, store: Store) -> Located:
        found = RecoverySet(Path(f"{store.place}/{manifest.dump.name}"), manifest)
        return Located(found, tuple(self._warnings), store, self._run, self._vault)

    def _is_meant(self, far: FarSet) -> bool:
        wanted = self._wanted
        if wanted == "latest" or wanted.startswith("before:"):
            limit = limit_of(wanted)
            return limit is None or far.created < limit
        return far.name in names_meant(wanted, self._database)

    def _manifest(self, far: FarSet, store: Store, scratch: Path) -> Manifest | None:
        """The manifest of a complete set; None for one that has to be passed over."""
        newest = self._wanted == "latest" or self._wanted.startswith("before:")
        try:
            manifest = store.manifest(far.name, scratch)
        except (SetError, OffsiteError) as error:
            self._warnings.append(f"{far.name} was passed over: {error.what}")
            return None
        if newest and (manifest.database != self._database or manifest.purpose != "backup"):
            return None
        if not far.holds(manifest):
            self._warnings.append(
                f"{far.name} of {iso(far.created)} was passed over: it is not complete at {store.name}"
            )
            return None
        return manifest
