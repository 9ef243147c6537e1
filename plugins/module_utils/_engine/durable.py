# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small files that survive a power cut: replaced whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import HostError


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Puts a small file in the place of the one before; it is on the disk when this returns.

    :raises OSError: it could not be written; the one before is still there.
    """
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_directory(path.parent)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one when there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_text(path: Path, what: str) -> str:
    """The text of a small file that somebody named; `what` it holds, for the message.

    :raises HostError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise HostError(
            f"{what} in {path} cannot be read: {why}",
            state="Nothing was changed",
            todo="The path is looked up on the database's host; is it right?",
        ) from error


def sync_directory(directory: Path) -> None:
    """The names in a directory are on the disk afterwards."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
