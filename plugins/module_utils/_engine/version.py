# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which engine this is: its version, and where it was installed on a host also which build."""

from __future__ import annotations

from pathlib import Path

from . import __version__


def _installed_as(directory: Path) -> str:
    # /usr/local/lib/firedrill/0.1.0-5f1c02d9a3e7/firedrill_engine
    name = directory.parent.name
    return name if name.startswith(f"{__version__}-") else __version__


VERSION = _installed_as(Path(__file__).resolve().parent)
