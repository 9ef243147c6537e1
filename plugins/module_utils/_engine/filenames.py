# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names of the files of a recovery set: what belongs together, and which file is what."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime

from .model import parse_time

MANIFEST = ".json"
DUMP = ".dump"
GLOBALS = ".globals.sql"
#: What in the manifest tells about content; a file of its own in an encrypted set only.
SEALED = ".sealed.json"
#: What an encrypted file's name ends with, by the program that encrypts it.
CIPHERS = {"age": ".age", "gpg": ".gpg"}

_ENDS = ("", *CIPHERS.values())
_DUMP = re.compile(r"(?P<name>.+)\.dump(?:\.age|\.gpg)?", re.DOTALL)
_STAMPED = re.compile(r".+_(?P<stamp>\d{8}_\d{6})(?:_\d+)?", re.DOTALL)
_PART = re.compile(
    r"(?P<name>.+?)(?:\.json|(?:\.globals\.sql|\.sealed\.json)(?:\.age|\.gpg)?)", re.DOTALL
)


def file_base(database: str) -> str:
    """A database's name as a file name: what is unsafe in one is percent-encoded byte by byte."""
    safe = re.sub(
        rb"[^A-Za-z0-9_.-]",
        lambda m: b"%%%02X" % m.group()[0],
        database.encode("utf-8", "surrogateescape"),
    ).decode()
    return re.sub(r"^[.-]", lambda m: f"%{ord(m.group()):02X}", safe)


def is_dump(file: str) -> bool:
    """Whether a file of that name is the dump of a set, encrypted or not."""
    return bool(_DUMP.fullmatch(file))


def set_name(file: str) -> str:
    """The name of the set that a dump of that name belongs to; any other name stays as it is."""
    found = _DUMP.fullmatch(file)
    return found["name"] if found else file


def dump_names(name: str) -> list[str]:
    """How the dump of the set `name` may be called."""
    return [f"{name}{DUMP}{end}" for end in _ENDS]


def stamp_of(name: str) -> datetime | None:
    """When the snapshot of the set `name` was taken, as its name says; None where it does not."""
    stamped = _STAMPED.fullmatch(name)
    if stamped:
        with contextlib.suppress(ValueError):
            return parse_time(stamped["stamp"])
    return None


def names_meant(source: str, database: str) -> tuple[str, str]:
    """Which names a set may have that `source` names: as it is, or the timestamp of one of the database."""
    # An unquoted 20260219_020000 is a number with a separator in YAML, and arrives without it.
    repaired = re.sub(r"^(\d{8})(\d{6})$", r"\1_\2", source)
    return repaired, f"{file_base(database)}_{repaired}"


def method_of(file: str) -> str:
    """How a file of that name is encrypted; "" when it is not."""
    return next((method for method, end in CIPHERS.items() if file.endswith(end)), "")


def set_of_part(file: str) -> str:
    """The name of the set that another file than the dump belongs to; "" for a file of any other kind."""
    found = _PART.fullmatch(file)
    return found["name"] if found else ""


def every_name(name: str) -> list[str]:
    """All names that files of the set `name` may have, the manifest first."""
    parts = [f"{name}{kind}{end}" for kind in (DUMP, GLOBALS, SEALED) for end in _ENDS]
    return [f"{name}{MANIFEST}", *parts]
