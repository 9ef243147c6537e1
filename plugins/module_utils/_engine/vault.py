# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory of recovery sets: files appear in it whole or not at all, the manifest last."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from .durable import hidden_name, is_left, is_present, mark_of
from .errors import ConfigError, HostError, SetError
from .filenames import (
    dump_names,
    every_name,
    file_base,
    is_dump,
    names_meant,
    set_of_part,
)
from .hashing import HashingFile
from .model import Target, iso
from .mounts import FSTAB, lost_link, not_mounted, unreadable, write_failure
from .recovery_set import (
    RecoverySet,
    is_of,
    limit_of,
    load_set,
    newest_backup,
    origins,
    set_of_future,
)

#: What a download from an offsite target is called while it lies beside the sets, and by whom it was begun.
DOWNLOADS = ".offsite-"


class Vault:
    """One directory of recovery sets, of one or many databases."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> bool:
        """Creates the directory with mode 0700; returns whether it had to.

        :raises HostError: it cannot be created or is no directory, or its disk is not mounted.
        """
        self.require_disk()
        try:
            made = not is_present(self.directory)
            # What a link leads to is not made: nobody can tell on which disk it was to be.
            if made and (lost := lost_link(self.directory)):
                raise HostError(
                    f"The backup directory {self.directory} cannot be used: {lost}",
                    state="Nothing was changed",
                    todo="Mount the disk, make what the link leads to, or correct the link",
                )
            if made:
                self.directory.mkdir(mode=0o700, parents=True)
            if not self.directory.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            return made
        except OSError as error:
            raise HostError(
                f"The backup directory {self.directory} cannot be used: {error.strerror}",
                state="Nothing was changed",
                todo="Is the disk mounted, is the path right?",
            ) from error

    def require_disk(self) -> None:
        """:raises HostError: the disk of the directory is not mounted."""
        if absent := not_mounted(self.directory):
            raise HostError(
                f"The disk of the backup directory {self.directory} seems not to be mounted: {absent}",
                state="Nothing was changed",
                todo=f"Mount it; if the sets are to lie there without a disk of their own, make {self.directory}, or take "
                f"the disk out of {FSTAB}",
            )

    def exposed(self, file: Path) -> str:
        """A warning when others may look into the directory, in which `file` was made for nobody else; else ""."""
        mode = stat.S_IMODE(self.directory.stat().st_mode)
        if not mode & 0o077:
            return ""
        told = f"{self.directory} has mode {mode:04o}: others can"
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            return (
                f"{told} read the sets, for its file system keeps no modes and `chmod` does nothing; mount it with "
                "`umask=077`, a share with `dir_mode=0700,file_mode=0600`"
            )
        return f"{told} list the sets; `chmod 700` it"

    def free_bytes(self) -> int:
        """Free space in bytes, at the nearest parent that exists.

        :raises HostError: it cannot be asked for.
        """
        place = self.directory
        try:
            while not is_present(place):
                place = place.parent
            room = os.statvfs(place)
        except OSError as error:
            raise unreadable(self.directory, error) from error
        return room.f_bavail * room.f_frsize

    def open(self) -> int:
        """A descriptor of the directory.

        :raises HostError: it is not there, or may not be read.
        """
        try:
            return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(self.directory, error) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Holds the directory while sets are published or removed; waits for its turn."""
        descriptor = self.open()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                raise HostError(
                    f"The backup directory {self.directory} cannot be locked: {error.strerror}",
                    todo="Does its file system know locks? NFS needs a server that does, or the mount option `local_lock=flock`",
                ) from error
            yield descriptor
        finally:
            os.close(descriptor)

    # -- reading -----------------------------------------------------------------------------------

    def sets(self, database: str | None = None) -> list[RecoverySet]:
        """The complete sets, newest first; of one database or of all."""
        return [
            s for s in self.everything() if s.manifest and database in (None, s.manifest.database)
        ]

    def names(self) -> list[str]:
        """The names of what is in the directory; none where there is no directory.

        :raises HostError: it cannot be read.
        """
        try:
            # Path.glob() takes what it cannot read for nothing, and of Python 3.13 on a disk that fails, too.
            return os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise unreadable(self.directory, error) from error

    def everything(self) -> list[RecoverySet]:
        """Every dump file of the directory, newest first, with or without a good manifest; none where there is no directory.

        :raises HostError: it cannot be read, all of it: a list that lacks some would be a lie.
        """
        paths = [self.directory / name for name in self.names() if is_dump(name)]
        paths = [path for path in paths if self._is_file(path)]
        return sorted(
            (load_set(path) for path in paths), key=lambda s: (s.created, s.name), reverse=True
        )

    def _is_file(self, path: Path) -> bool:
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            # Removed since it was listed, or a link to what is not there.
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return False
            raise unreadable(self.directory, error) from error

    def resolve(self, source: str, database: str, target: Target | None = None) -> RecoverySet:
        """The set that `source` means: a path, a file name, a timestamp, `latest` or `before:<time>`.

        :param target: whose sets `latest` and `before:` mean, where the directory has some; else those of the only container
            that has made any.
        :raises SetError: there is none, or several other containers have made some.
        :raises ConfigError: the time cannot be read.
        :raises HostError: the disk of the directory, which is needed for all but a path, is not mounted.
        """
        if not source:
            raise ConfigError(
                "No dump was named", todo="Set it to `latest`, a file, or `before:<time>`"
            )
        is_relative = source == "latest" or source.startswith("before:")
        if "/" in source and not is_relative:
            return self._of_file(Path(source))
        self.require_disk()
        if is_relative:
            return self._newest(source, database, target)
        named = self.directory / source
        if named.is_file():
            return self._of_file(named)
        wanted = {dump for name in names_meant(source, database) for dump in dump_names(name)}
        found = [s for s in self.everything() if s.path.name in wanted]
        if found:
            return found[0]
        names = ", ".join(s.name for s in self.sets(database)[:5]) or "none"
        raise SetError(
            f'There is no set "{source}" in {self.directory}',
            state="Nothing was changed",
            todo=f'The newest sets of database "{database}": {names}',
        )

    def _newest(self, source: str, database: str, target: Target | None) -> RecoverySet:
        moment = limit_of(source)
        known = self.sets(database)
        own = [one for one in known if target is None or is_of(one, target)]
        if taken := newest_backup(own, moment):
            return taken
        if taken := newest_backup(known, moment):
            made_by = origins(known)
            if len(made_by) == 1:
                return taken
            raise SetError(
                f'"{source}" may be of several containers with a database "{database}", none of which is this one: '
                f"{self.directory} has sets of {', '.join(made_by)}",
                state="Nothing was changed",
                todo="Name the set that is meant (`firedrill list` shows them)",
            )
        limit = f" from before {iso(moment)}" if moment else ""
        others = sorted({s.manifest.database for s in self.sets() if s.manifest})
        hint = f"; it holds sets of {', '.join(others)}" if others else ""
        raise SetError(
            f'There is no complete set of database "{database}"{limit} in {self.directory}{hint}',
            state="Nothing was changed",
            todo="Is it the right directory? `firedrill list` shows what is there",
        )

    def passed_over(self, taken: RecoverySet, target: Target) -> list[str]:
        """In words: newer dumps of the database that `latest` does not mean, for want of a good manifest or date, or of
        another container; and whether the one taken is."""
        database = target.database
        source = taken.require_manifest().source
        strange = (
            []
            if is_of(taken, target)
            else [
                f"{taken.name} is of container {source.container} on {source.host}, not of {target}"
            ]
        )
        prefix = f"{file_base(database)}_"
        newer = [other for other in self.everything() if other.created > taken.created]
        return (
            strange
            + [
                f"{other.path.name} is newer than {taken.name}, but {other.problem}"
                for other in newer
                if not other.manifest and other.name.startswith(prefix)
            ]
            + [
                f"{other.name} was passed over: it is of container {other.manifest.source.container}"
                if is_of(taken, target) and not is_of(other, target)
                else set_of_future(other.name, other.created)
                for other in newer
                if other.manifest
                and other.manifest.database == database
                and other.manifest.purpose == "backup"
            ]
        )

    @staticmethod
    def _of_file(path: Path) -> RecoverySet:
        if name := set_of_part(path.name):
            dumps = [path.with_name(dump) for dump in dump_names(name)]
            path = next((dump for dump in dumps if dump.exists()), dumps[0])
        try:
            with path.open("rb") as file:
                empty = not file.read(1)
        except OSError as error:
            raise SetError(
                f"{path} cannot be read: {error.strerror}",
                state="Nothing was changed",
                todo="The path is looked up on the database's host; is it right?",
            ) from error
        if empty:
            raise SetError(f"{path} is empty", state="Nothing was changed", todo="Use another set")
        return load_set(path)

    # -- writing -----------------------------------------------------------------------------------

    def free_name(self, database: str, moment: datetime) -> str:
        """The runbook's `<db>_<YYYYmmdd_HHMMSS>`, with a number when a second has several."""
        base = f"{file_base(database)}_{moment.astimezone(timezone.utc).strftime('%Y%m%d_%H%M%S')}"
        name, number = base, 1
        while any((self.directory / file).exists() for file in every_name(name)):
            number += 1
            name = f"{base}_{number}"
        return name

    @contextlib.contextmanager
    def unnamed(self) -> Iterator[HashingFile]:
        """A new file of mode 0600 that is gone after the block unless it was published.

        It has no name at all where the file system can do that (O_TMPFILE of open(2)), so that even
        SIGKILL leaves nothing; elsewhere a hidden name that the next run removes.
        """
        directory = self.open()
        hidden = ""
        try:
            try:
                descriptor = os.open(
                    ".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory
                )
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                    raise
                hidden = hidden_name()
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                descriptor = os.open(hidden, flags, 0o600, dir_fd=directory)
            with os.fdopen(descriptor, "w+b") as file:
                yield HashingFile(file, directory, hidden)
        except OSError as error:
            raise write_failure(self.directory, error) from error
        finally:
            if hidden:
                with contextlib.suppress(OSError):
                    os.unlink(hidden, dir_fd=directory)
            os.close(directory)

    def sweep(self) -> None:
        """Removes what runs that were killed have left: downloads and hidden files. One that stays keeps nobody from work.

        :raises HostError: the directory cannot be read.
        """
        for name in self.names():
            path = self.directory / name
            download = name[len(DOWNLOADS) :] if name.startswith(DOWNLOADS) else ""
            mark = download or mark_of(name)
            with contextlib.suppress(OSError):
                if mark and is_left(path, mark):
                    shutil.rmtree(path, ignore_errors=True) if download else path.unlink()

    def remove(self, recovery_set: RecoverySet) -> None:
        """Removes a set, its manifest first: what is half gone is no set."""
        for path in recovery_set.files():
            path.unlink(missing_ok=True)
