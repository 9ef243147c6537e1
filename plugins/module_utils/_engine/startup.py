# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The start of a server on a new data directory: the entrypoint has a temporary one, which answers first."""

from __future__ import annotations

from .access import Access
from .errors import FiredrillError
from .relay import ContainerSocket
from .server import wait_until


def trouble_at_start(access: Access, timeout_s: float) -> str:
    """Waits for the container's final server; returns why it is not there within `timeout_s` seconds, or nothing."""
    gone = False
    last = ""

    def ready() -> bool:
        nonlocal gone, last
        gone = not access.containers.unchanged(access.container)
        if gone:
            return True
        try:
            if _final_server_answers(access):
                return True
            last = "what answers is the temporary server of the container's entrypoint"
        except FiredrillError as error:
            last = error.what
        return False

    in_time = wait_until(ready, timeout_s)
    if gone:
        return "ended"
    return "" if in_time else f"was not ready within {timeout_s:.0f} s: {last}"


def _final_server_answers(access: Access) -> bool:
    """Whether it is the server that the entrypoint becomes, not the one that it plays its init directory into.

    That one never listens by TCP, and the final one is the container's first process, but for images and Compose
    files with an init before it (docker-entrypoint.sh of docker-library/postgres).

    :raises FiredrillError: nobody answers yet.
    """
    endpoint = access.server.endpoint
    is_first = isinstance(endpoint, ContainerSocket) and endpoint.listener() == access.container.pid
    with access.server.session("template1") as session:
        return is_first or session.value("SELECT current_setting('listen_addresses')") != ""
