# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ports of this machine on which nothing listens until a test does."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import suppress

LOCAL = "127.0.0.1"

#: Below those that the kernel gives to connections (ip_local_port_range), and a thousand for each worker of
#: pytest-xdist: nobody else takes one between its choice and its use.
_numbers = itertools.count(
    20000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
)


def free_port() -> int:
    """Another one with each call."""
    return next(number for number in _numbers if not answers(number))


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOCAL, port), timeout=5):
        return True
    return False
