# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small notes beside the sets, of what was tried and told. While that disk cannot be written, or is not mounted, they are
kept until the next boot where the runs are: what cannot be noted would be tried and told again every hour."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import run
from .durable import read_object, replace_file
from .mounts import not_mounted


def read_note(path: Path) -> dict[str, Any]:
    """The JSON object of a note; an empty one when there is none that can be read."""
    return read_object(_stand_in(path)) or read_object(path)


def write_note(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a note.

    :raises OSError: it could be written at neither place.
    """
    text, stand_in = json.dumps(content, indent=1), _stand_in(path)
    if not not_mounted(path.parent):
        with contextlib.suppress(OSError):
            replace_file(path, text)
            # It is the older one now.
            stand_in.unlink(missing_ok=True)
            return
    run.RUNTIME_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    replace_file(stand_in, text)


def _stand_in(path: Path) -> Path:
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return run.RUNTIME_DIRECTORY / f"{digest}.note"
