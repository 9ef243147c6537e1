# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where copies of the sets go: the offsite targets of the settings, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union, cast

from . import kinds
from .filenames import file_base
from .retention import SETTINGS as RETENTION_SETTINGS
from .retention import Policy

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
#: Where rclone looks when it is run by root.
_RCLONE_CONFIG = Path("/root/.config/rclone/rclone.conf")
#: The runbook keeps copies for 30 days.
_KEEP = Policy(days=30)


@dataclass(frozen=True)
class RcloneTarget:
    """A remote of rclone: `remote` is `name:path`, described in `config_file`. 0 bytes a second: no limit."""

    name: str
    remote: str
    config_file: Path = _RCLONE_CONFIG
    max_bytes_per_s: int = 0
    retention: Policy = _KEEP

    @property
    def place(self) -> str:
        """For messages."""
        return self.remote


@dataclass(frozen=True)
class RsyncTarget:
    """A directory that rsync reaches over SSH. The host's key has to be in `known_hosts_file`."""

    name: str
    host: str
    path: str
    identity_file: Path
    known_hosts_file: Path
    user: str = "root"
    port: int = 22
    max_bytes_per_s: int = 0
    retention: Policy = _KEEP

    @property
    def place(self) -> str:
        return f"{self.user}@{self.host}:{self.path}"


OffsiteTarget = Union[RcloneTarget, RsyncTarget]


@dataclass(frozen=True)
class Offsite:
    """The targets of one database; its sets lie in a directory `folder` of each of them."""

    targets: tuple[OffsiteTarget, ...] = ()
    folder: str = ""

    @property
    def names(self) -> list[str]:
        return [target.name for target in self.targets]


def folder_of(section: str) -> str:
    """The directory at the targets for the sets of a database that the settings call `section`."""
    return file_base(section)


def _path_there(place: str, value: Any, problems: list[str]) -> str:
    path = kinds.text(place, value, problems)
    if re.search(r"[\s\\'\"`$~*?\[\]{};&|<>()!#]", path):
        problems.append(
            f"{place} must not hold blanks, or characters that mean something to a shell"
        )
    return path.rstrip("/") or "/"


def _word(place: str, value: Any, problems: list[str]) -> str:
    """A host or a user: an argument of ssh, which must not look like an option."""
    word = kinds.text(place, value, problems)
    if word and not re.fullmatch(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\[\]-]*", word):
        problems.append(f"{place} must hold letters, digits and . _ - only")
    return word


def _remote(place: str, value: Any, problems: list[str]) -> str:
    remote = kinds.text(place, value, problems)
    if remote and not re.fullmatch(r"[A-Za-z0-9_][^:,]*:[^\0]*", remote):
        problems.append(f"{place} has to be a remote of rclone and a path, as in nas:backups/shop")
    return remote.rstrip("/")


def _retention(place: str, value: Any, problems: list[str]) -> Policy:
    return replace(_KEEP, **RETENTION_SETTINGS(place, value, problems))


_COMMON = {
    "type": kinds.choice(("rclone", "rsync")),
    "max_bytes_per_s": kinds.number(1, whole=True),
    "retention": _retention,
}
_TYPES: dict[str, tuple[Any, kinds.Kind, tuple[str, ...]]] = {
    "rclone": (
        RcloneTarget,
        kinds.fields({**_COMMON, "remote": _remote, "config_file": kinds.path}),
        ("remote",),
    ),
    "rsync": (
        RsyncTarget,
        kinds.fields(
            {
                **_COMMON,
                "host": _word,
                "user": _word,
                "port": kinds.number(1, whole=True),
                "path": _path_there,
                "identity_file": kinds.path,
                "known_hosts_file": kinds.path,
            }
        ),
        ("host", "path", "identity_file", "known_hosts_file"),
    ),
}


def _target(place: str, value: Any, problems: list[str]) -> Any:
    wanted = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(wanted, str) or wanted not in _TYPES:
        problems.append(f"{place}.type has to be rclone or rsync")
        return None
    kind, shape, needed = _TYPES[wanted]
    found = shape(place, value, problems)
    missing = [f"{place}.{key} is missing" for key in needed if key not in found]
    problems += missing
    if missing:
        return None
    name = place.rpartition(".")[2]
    return kind(name=name, **{key: entry for key, entry in found.items() if key != "type"})


def targets_kind(place: str, value: Any, problems: list[str]) -> tuple[OffsiteTarget, ...]:
    """The key `offsite` of the settings: targets by name."""
    for name in value if isinstance(value, dict) else ():
        if isinstance(name, str) and not (_NAME.fullmatch(name) and name != "latest"):
            problems.append(f"{place}.{name} is no good name: use letters, digits, and _ - inside")
    found = kinds.map_of(_target)(place, value, problems)
    return cast("tuple[OffsiteTarget, ...]", tuple(found.values()))
