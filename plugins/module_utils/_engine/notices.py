# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages to people, by e-mail, ntfy, Telegram and the like: the program `apprise` delivers them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .errors import HostError
from .host_programs import run_program

_TIMEOUT_S = 60.0


def notify(urls: Sequence[str], config: Path | None, title: str, body: str) -> None:
    """Delivers one message to every address.

    The addresses hold passwords: they go to the program by its environment, or lie in its own file.

    :param urls: addresses as https://github.com/caronc/apprise/wiki lists them.
    :param config: a file of such addresses; None for none.
    :raises HostError: it was not delivered to all of them.
    """
    deliveries: list[tuple[list[str], dict[str, str]]] = []
    if urls:
        deliveries.append(([], {"APPRISE_URLS": " ".join(urls)}))
    if config:
        deliveries.append(([f"--config={config}"], {"APPRISE_URLS": ""}))
    for options, environment in deliveries:
        ended = run_program(
            ["apprise", f"--title={title}", *options],
            environment=environment,
            feed=body.encode("utf-8", "replace"),
            timeout_s=_TIMEOUT_S,
        )
        if ended.out_of_time or ended.status:
            # What it says may hold an address, with its password.
            why = f"within {_TIMEOUT_S:.0f} s" if ended.out_of_time else "to all addresses"
            raise HostError(
                f"The message was not delivered {why}",
                todo="Is the network up, are the addresses right? `firedrill alarms` tries them",
            )
