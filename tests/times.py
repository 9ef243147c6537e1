# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Times of day at which the schedules of tests may have something to do."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone


def time_far_off() -> str:
    """Half a day from now, so that it does not pass while a test runs, at whatever hour that is."""
    return f"{datetime.now(timezone.utc).astimezone() + timedelta(hours=12):%H:%M}"
