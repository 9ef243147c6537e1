# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The upload of one recovery set to one offsite target: its files, then what makes it a set there, each proved."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .errors import FiredrillError, OffsiteError, SetError
from .filenames import MANIFEST
from .hashing import sha256_of
from .manifest import FileEntry
from .recovery_set import RecoverySet
from .stores import FarSet, Store, names_of


class Upload:
    """One set to one target, and the guide beside it."""

    def __init__(
        self,
        store: Store,
        recovery_set: RecoverySet,
        found: FarSet | None,
        beside: Path | None,
        *,
        anew: bool,
    ) -> None:
        """:param anew: what is there goes up again, whatever the far end says of it."""
        self._store = store
        self._anew = anew
        self._set = recovery_set
        self._files = dict(found.files) if found else {}
        self._manifest = recovery_set.require_manifest()
        self._path = recovery_set.path.with_name(f"{recovery_set.name}{MANIFEST}")
        self._beside = beside

    def run(self) -> tuple[str, int]:
        """How the far end proved the dump, and the bytes that were sent.

        :raises SetError: the set here was renamed, or another one has its name there.
        :raises OffsiteError: the target failed; nothing that looks complete was left there by this.
        """
        files = {self._set.file_of(entry): entry for entry in self._manifest.entries}
        for path, entry in files.items():
            if path.name != entry.name:
                raise SetError(f"{path} is called {entry.name} in its manifest: it was renamed")
        written = _entry_of(self._path)
        proofs = self._there(
            {self._path: written} if self._anew else {**files, self._path: written}
        )
        if written.name in self._files and not proofs.get(written.name):
            self._make_way()
        lacking = {path: entry for path, entry in files.items() if not proofs.get(entry.name)}
        if lacking:
            # Without its manifest it is no set while it is changed.
            if written.name in self._files:
                self._store.delete(written.name)
                del self._files[written.name]
            proofs.update(self._put(lacking))
        sent = dict(lacking)
        if written.name not in self._files:
            sent[self._path] = written
        # The guide speaks of the files that are proved by now, and waits for no start of its own.
        last = {path: entry for path, entry in sent.items() if path not in files}
        if self._beside:
            last[self._beside] = _entry_of(self._beside)
        if last:
            self._put(last)
        return proofs[self._manifest.dump.name], sum(entry.bytes for entry in sent.values())

    def _there(self, files: Mapping[Path, FileEntry]) -> dict[str, str]:
        """The proofs of what an upload before has left there; nothing is asked where no size is right."""
        likely = {
            path: entry
            for path, entry in files.items()
            if self._files.get(entry.name) == entry.bytes
        }
        return self._store.proofs(likely) if likely else {}

    def _put(self, files: Mapping[Path, FileEntry]) -> dict[str, str]:
        """Brings files there and proves them, all in one: each start of a program is a handshake."""
        try:
            self._store.put(*files)
            proofs = self._store.proofs(files)
        except FiredrillError:
            # A disk that is full there must not stay so because of half a file.
            with suppress(FiredrillError):
                for entry in files.values():
                    if self._store.size(entry.name) not in (None, entry.bytes):
                        self._store.delete(entry.name)
            raise
        wrong = [entry for entry in files.values() if not proofs[entry.name]]
        for entry in wrong:
            with suppress(FiredrillError):
                self._store.delete(entry.name)
        if wrong:
            raise OffsiteError(
                f"{self._store.place} does not hold {names_of(wrong)} as uploaded: size or hash is another",
                todo="Run `firedrill copy` again; if it happens again, the storage or the way to it is faulty",
            )
        return proofs

    def _make_way(self) -> None:
        """Another manifest of that name is there.

        :raises SetError: it is a good one, so it belongs to somebody else.
        """
        try:
            other = self._store.manifest(self._set.name)
        except SetError:
            # What is no manifest belongs to no set.
            self._store.delete(self._path.name)
            del self._files[self._path.name]
            return
        raise SetError(
            f"{self._store.place} holds another set that is called {self._set.name} too, "
            f"of host {other.source.host}: nothing there is replaced",
            todo="Give each host a directory of its own at the target",
        )


def _entry_of(path: Path) -> FileEntry:
    return FileEntry(path.name, path.stat().st_size, sha256_of(path))
