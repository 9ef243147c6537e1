# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages to people, by e-mail, ntfy, Telegram and the like: the program `apprise` delivers them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import HostError
from .host_programs import run_program

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Address:
    """Who gets messages: an address of its own, or all of a file of apprise's. `label` is for messages: it holds no
    password, as the address may."""

    label: str
    url: str = field(default="", repr=False)
    config: Path | None = None

    @property
    def key(self) -> str:
        """What tells it from others, in a file that is to hold no password."""
        return hashlib.sha256(f"{self.url}\0{self.config or ''}".encode()).hexdigest()[:16]


def addresses(urls: Sequence[str], config: Path | None) -> list[Address]:
    """Everybody who is to be told.

    :param urls: addresses as https://github.com/caronc/apprise/wiki lists them.
    :param config: a file of such addresses, which are told together; None for none.
    """
    found = [
        Address(f"address {number} of apprise_urls", url) for number, url in enumerate(urls, 1)
    ]
    return [*found, Address(f"all addresses of {config}", config=config)] if config else found


def notify(address: Address, title: str, body: str) -> None:
    """Delivers one message.

    Addresses hold passwords: they go to the program by its environment, or lie in its own file.

    :raises HostError: it was not delivered.
    """
    options = [f"--config={address.config}"] if address.config else []
    ended = run_program(
        ["apprise", f"--title={title}", *options],
        environment={"APPRISE_URLS": address.url},
        feed=body.encode("utf-8", "replace"),
        timeout_s=_TIMEOUT_S,
    )
    if ended.out_of_time or ended.status:
        # What it says may hold an address, with its password.
        within = f" within {_TIMEOUT_S:.0f} s" if ended.out_of_time else ""
        raise HostError(
            f"The message was not delivered to {address.label}{within}",
            todo="Is the network up, is the address right? `firedrill alarms` tries them all",
        )
