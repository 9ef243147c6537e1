# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The application's services around a restore: what is stopped is started again, in every outcome."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from .containers import Containers
from .errors import FiredrillError
from .run import Run
from .server import wait_until

_HEALTH_WAIT_S = 120.0


def running(containers: Containers, project: str, names: Sequence[str]) -> tuple[str, ...]:
    """Ids of the containers of `names` that run now.

    :raises TargetError: a name is neither a service of the project nor a container.
    """
    return tuple(ident for ident, runs in containers.services(project, names).items() if runs)


def stop(run: Run, containers: Containers, idents: Iterable[str]) -> None:
    """Stops containers, one after the other.

    A stop that has begun is awaited: the engine goes on with it, whoever hangs up, and a start meanwhile does nothing.
    """
    for ident in idents:
        with run.undisturbed():
            containers.stop(ident)


def start(containers: Containers, idents: Iterable[str]) -> list[str]:
    """Starts all of them, whatever happens to one; returns what went wrong, in words."""
    return list(failing(containers, idents).values())


def failing(containers: Containers, idents: Iterable[str]) -> dict[str, str]:
    """As start(); returns for each that does not start what went wrong, in words.

    The last that was stopped comes first. What shares the network of another starts after that one only, so that
    each which failed is tried once more.
    """
    troubles: dict[str, str] = {}
    for ident in tuple(idents)[::-1]:
        _start(containers, ident, troubles)
    for ident in tuple(troubles):
        _start(containers, ident, troubles)
    return troubles


def _start(containers: Containers, ident: str, troubles: dict[str, str]) -> None:
    troubles.pop(ident, None)
    try:
        containers.start(ident)
    except FiredrillError as error:
        troubles[ident] = (
            f"container {ident[:12]} could not be started: {error.what}; try `docker start {ident[:12]}`"
        )
        if gone(containers, ident):
            troubles[ident] = f"container {ident[:12]} is gone"


def gone(containers: Containers, ident: str) -> bool:
    """Whether a container is known to exist no more."""
    try:
        return containers.health(ident) == "gone"
    except FiredrillError:
        return False


def _settled(containers: Containers, ident: str) -> bool:
    return containers.health(ident) != "starting"


def await_health(containers: Containers, idents: Sequence[str]) -> list[str]:
    """Waits until each is healthy, or runs where it has no health check; returns what is not, in words."""
    troubles = []
    for ident in idents:
        wait_until(partial(_settled, containers, ident), _HEALTH_WAIT_S)
        health = containers.health(ident)
        if health == "gone":
            troubles.append(f"container {ident[:12]} is gone")
        elif health not in ("healthy", "running"):
            name = containers.name_of(ident)
            troubles.append(
                f"container {name} is {health} after the restore; see `docker logs {name}`"
            )
    return troubles
