# Copyright (c) Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a plain checkout importable as `ansible_collections.firedrill.postgres`, whatever runs the tests."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COLLECTIONS = ROOT / ".ansible" / "collections"


def link_collection() -> None:
    """Make the link that tools/setup.sh makes, where it is missing; two test processes may do so at once."""
    link = COLLECTIONS / "ansible_collections" / "firedrill" / "postgres"
    if link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(Path("../../../.."))
    except FileExistsError:
        pass


# Inside `.../ansible_collections/firedrill/postgres` the collection is found already, under that very path.
if ROOT.parts[-3:] != ("ansible_collections", "firedrill", "postgres"):
    link_collection()
    sys.path.insert(0, str(COLLECTIONS))
