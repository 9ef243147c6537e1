# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an offsite target can do with files: one directory of recovery sets at the far end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from .errors import OffsiteError, SetError
from .filenames import MANIFEST, is_dump, set_name, set_of_part, stamp_of
from .manifest import FileEntry, Manifest


@dataclass(frozen=True)
class FarSet:
    """What lies at a target under the name of one set: file names with their sizes in bytes.

    `created` is when the dump's snapshot was taken, by the name. Without its manifest it is no set yet, or no more.
    """

    name: str
    created: datetime
    files: Mapping[str, int]

    @property
    def manifest_name(self) -> str:
        return f"{self.name}{MANIFEST}"

    @property
    def has_manifest(self) -> bool:
        return self.manifest_name in self.files

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    def has(self, size: int) -> bool:
        """Whether it is a set whose files but the manifest have so many bytes together."""
        return self.has_manifest and self.bytes - self.files[self.manifest_name] == size

    def holds(self, manifest: Manifest) -> bool:
        """Whether all files of the manifest are there with their sizes, and the manifest itself."""
        return self.has_manifest and all(
            self.files.get(entry.name) == entry.bytes for entry in manifest.entries
        )


class Store(ABC):
    """One directory at the far end. Names are of files in it; every method raises OffsiteError when the target fails."""

    def __init__(self, name: str, place: str, scratch: Path) -> None:
        """:param scratch: a private directory of the run, for this store alone: what is killed leaves nothing elsewhere."""
        self.name = name
        #: For messages.
        self.place = place
        self._scratch = scratch

    @abstractmethod
    def connect(self) -> None:
        """Begins what takes its time before the target can be asked, and does not wait for it."""

    @abstractmethod
    def listing(self) -> dict[str, int]:
        """The files by name, with their sizes in bytes; nothing when the directory is not there yet."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """The size in bytes of one file, asked for by itself: a listing may lag behind. None: it is not there."""

    @abstractmethod
    def put(self, *paths: Path) -> None:
        """Uploads files under their own names, with one login, in the place of what was there."""

    @abstractmethod
    def proofs(self, files: Mapping[Path, FileEntry]) -> dict[str, str]:
        """By name how the far end shows that it holds the bytes of the entry, e.g. `md5`; "" when it holds others, or nothing.

        :param files: the same files here, whose SHA-256 has been checked, each under its own name.
        """

    @abstractmethod
    def get(self, name: str, path: Path) -> None:
        """Downloads a file to a new path of mode 0600."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes one file; one that is not there is no error."""

    @abstractmethod
    def close(self) -> None:
        """Ends what was begun to ask the target; the next question begins it anew."""

    # -- sets ----------------------------------------------------------------------------------------

    def sets(self) -> list[FarSet]:
        """What is there, newest first; files that are not of a set are left out."""
        return far_sets(self.listing())

    def remove(self, name: str) -> list[str]:
        """Removes the set of that name, its manifest first: what is half gone is no set. Returns the files' names."""
        files = next((one.files for one in self.sets() if one.name == name), {})
        ordered = sorted(files, key=lambda file: (file != f"{name}{MANIFEST}", file))
        for file in ordered:
            self.delete(file)
        return ordered

    def manifest(self, name: str) -> Manifest:
        """The manifest of a set.

        :raises SetError: it is none, or of another set.
        """
        text = self._read(f"{name}{MANIFEST}").decode("utf-8", "surrogateescape")
        label = f"{self.place}/{name}{MANIFEST}"
        manifest = Manifest.from_json(text, label)
        if manifest.name != name:
            raise SetError(f"{label} is the manifest of another set, {manifest.name}")
        return manifest

    def _read(self, name: str) -> bytes:
        """A small file."""
        path = self._scratch / name
        try:
            self.get(name, path)
            return path.read_bytes()
        except OSError as error:
            raise OffsiteError(f"{name} could not be read from {self.place}: {error}") from error
        finally:
            path.unlink(missing_ok=True)


def names_of(files: Iterable[Path | FileEntry]) -> str:
    """The names of files, for a message."""
    return ", ".join(file.name for file in files)


def far_sets(listing: Mapping[str, int]) -> list[FarSet]:
    """The sets of a listing, newest first, complete or not."""
    groups: dict[str, dict[str, int]] = {}
    for file, size in listing.items():
        name = set_name(file) if is_dump(file) else set_of_part(file)
        # A name is a file name here too, once it was downloaded.
        if name and "/" not in file:
            groups.setdefault(name, {})[file] = size
    found = []
    for name, files in groups.items():
        if created := stamp_of(name):
            found.append(FarSet(name, created, files))
    return sorted(found, key=lambda one: (one.created, one.name), reverse=True)
