# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Access to one target: its container, its server, and PostgreSQL's programs beside it."""

from __future__ import annotations

from dataclasses import dataclass

from .containers import Container, Containers
from .errors import ConfigError, TargetError
from .manifest import Source
from .model import Target
from .programs import Programs
from .run import Run
from .server import Server


@dataclass(frozen=True)
class Access:
    """Everything that a run needs to work on one database."""

    run: Run
    target: Target
    containers: Containers
    container: Container
    server: Server
    programs: Programs

    @property
    def lock_identity(self) -> tuple[str, str]:
        """Two runs with the same one never overlap."""
        return self.container.name, self.target.database

    @property
    def has_server(self) -> bool:
        """Whether there is a server to ask; of access_by_image() only the programs are there."""
        return bool(self.container.id)


def open_access(run: Run, target: Target) -> Access:
    """Finds the target and prepares the ways to it; nothing is changed but leftovers of killed runs.

    :raises ConfigError: the target is not named completely.
    :raises FiredrillError: it is not there, or not to be reached.
    """
    if not target.database:
        raise ConfigError("No database was named", todo="Set `database`")
    if bool(target.container) == bool(target.project and target.service):
        raise ConfigError(
            "The database's container is not named",
            todo="Set `container`, or both `project` and `service` of Docker Compose",
        )
    containers = Containers()
    containers.sweep()
    container = containers.find(
        name=target.container, project=target.project, service=target.service
    )
    return access_to(run, containers, container, target)


def access_to(run: Run, containers: Containers, container: Container, target: Target) -> Access:
    """The same for a container that was found or made already."""
    server = Server(containers, run, container, target)
    return Access(run, target, containers, container, server, Programs(containers, run, server))


def access_by_image(run: Run, target: Target, source: Source, refusal: TargetError) -> Access:
    """What can be done with a set where the container that it is of is not to be had: its image, which has the programs.

    :param refusal: why there is no container.
    :raises TargetError: this host has not got the image either.
    """
    containers = Containers()
    # Where only sets are read and drilled, nothing else does it.
    containers.sweep()
    # Another processor has another image of the same release, which only digest and name can tell.
    image_id = containers.image_id([source.image_id, source.image_digest, source.image])
    if not image_id:
        raise TargetError(
            f"{refusal.what}, and this host has not got the image that made the dump, {source.image}",
            state="Nothing was changed",
            todo=f"`docker pull {source.image_digest or source.image}`, or bring it with `docker save` from host "
            f"{source.host} and `docker load`",
        )
    container = Container(
        id="",
        name=source.container,
        pid=0,
        started_at="",
        image=source.image,
        image_id=image_id,
        image_digest=source.image_digest,
        environment={},
    )
    return access_to(run, containers, container, target)
