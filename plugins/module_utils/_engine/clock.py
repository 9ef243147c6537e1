# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether this host's clock can be believed: a board without a battery starts in the past until the network sets it."""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone
from pathlib import Path

from .errors import HostError
from .model import human_seconds, iso, utc_now

#: No clock that is right shows less: this engine is younger.
FLOOR = datetime(2026, 1, 1, tzinfo=timezone.utc)
#: So long after the boot the network may still set the clock.
_SETTLING_S = 600.0
_PAUSE_S = 5.0
#: Two clocks that are right may differ by so much.
TOLERANCE_S = 300.0


def doubt(now: datetime, newest: datetime | None) -> str:
    """Why `now` cannot be right, in words; "" when it may be. `newest`: when the newest set was made."""
    if now < FLOOR:
        return f"the clock says {iso(now)}: it is not set"
    if newest and is_ahead(newest, now):
        return f"the clock says {iso(now)}, but the newest set is of {iso(newest)}"
    return ""


def is_ahead(moment: datetime, now: datetime) -> bool:
    """Whether a set of `moment` is of the future. A clock that is not set does not know."""
    return now >= FLOOR and (moment - now).total_seconds() > TOLERANCE_S


def await_clock(newest: datetime | None, wait_s: float = _SETTLING_S) -> str:
    """Waits, soon after the boot only, until the clock can be believed; at most `wait_s`.

    :returns: a doubt that is left; there is a backup all the same, since the date of the set may be what is wrong.
    :raises HostError: the clock is not set.
    """
    deadline = time.monotonic() + min(wait_s, max(0.0, _SETTLING_S - uptime_s()))
    while True:
        now = utc_now()
        found = doubt(now, newest)
        if not found:
            return ""
        if time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE_S)
    if now < FLOOR:
        raise HostError(
            f"Nothing was begun, since {found}",
            state="A set would get a date that says nothing",
            todo="Set it (`timedatectl`), or let this host reach a time server; the next run tries again",
        )
    return f"{found}; {human_seconds((newest - now).total_seconds())} lie between" if newest else ""


def uptime_s() -> float:
    """Seconds since this host was started; a container has its own start."""
    machine_s = float(Path("/proc/uptime").read_text().split()[0])
    began = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    return max(0.0, machine_s - began / os.sysconf("SC_CLK_TCK"))
