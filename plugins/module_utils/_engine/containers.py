# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Containers: find them, start and stop them, make a throwaway server and remove what is ours."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import AbsentError, FiredrillError, HostError, TargetError
from .run import Run, owner_lives

try:
    import docker
    import requests.exceptions
    from docker.errors import APIError, DockerException, ImageNotFound, NotFound
    from docker.types import LogConfig, Mount

    HAS_DOCKER = True
except ImportError:
    HAS_DOCKER = False

LABEL = "firedrill"
_OWNER = f"{LABEL}.owner"
_RUN = f"{LABEL}.run"
_COMPOSE = "com.docker.compose."
_PROJECT = f"{_COMPOSE}project"
_SERVICE = f"{_COMPOSE}service"
_ONEOFF = f"{_COMPOSE}oneoff"
_STOP_GRACE_S = 30
#: A container has 1024 of them unless told otherwise.
_FEW_SHARES = 128
#: When memory is short the kernel ends our own containers before any server that somebody needs (proc(5)).
OOM_SCORE_ADJ = 500
_DATA_DIRECTORY = "/var/lib/postgresql/data"


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Turns the library's errors into words."""
    try:
        yield
    except NotFound as error:
        raise TargetError(f"{what}: there is no such thing ({error.explanation})") from error
    except APIError as error:
        message = str(error.explanation or error)
        if "no space left" in message:
            raise HostError(
                f"{what}: the disk of the Docker engine is full", todo="Free some disk space"
            ) from error
        raise HostError(f"{what}: the Docker engine refused: {message}") from error
    except (DockerException, requests.exceptions.RequestException, OSError) as error:
        raise HostError(f"{what}: the Docker engine no longer answers ({error})") from error


@contextlib.contextmanager
def _removing(what: str, by_hand: str) -> Iterator[None]:
    """Turns the errors of removing something of our own into words; that it is gone already is none."""
    try:
        yield
    except NotFound:
        pass
    except (DockerException, requests.exceptions.RequestException) as error:
        if "already in progress" in str(error):
            return
        raise HostError(
            f"Our own {what} could not be removed: {error}",
            todo=f"Remove it with `{by_hand}`; the next run tries it too",
        ) from error


def cpu_shares() -> int | None:
    """The processor shares of our own containers: few when we are niced, which containers do not inherit."""
    return _FEW_SHARES if os.getpriority(os.PRIO_PROCESS, 0) > 0 else None


@dataclass(frozen=True)
class Container:
    """A running container as it was when it was looked at."""

    id: str
    name: str
    pid: int
    started_at: str
    image: str
    image_id: str
    image_digest: str
    environment: dict[str, str] = field(repr=False)
    shm_bytes: int = 0
    project: str = ""
    service: str = ""
    address: str = ""


class Containers:
    """The host's Docker engine.

    :raises HostError: the library is missing, the engine does not answer or does not let us in.
    """

    def __init__(self) -> None:
        if not HAS_DOCKER:
            raise HostError(
                f"The docker library is missing for {sys.executable} on this host",
                todo="Install the package python3-docker (or `pip install docker`)",
            )
        address = os.environ.get("DOCKER_HOST", "") or "unix:///var/run/docker.sock"
        if not address.startswith("unix://"):
            raise HostError(
                f"DOCKER_HOST is {address}: the engine has to be on this host, since files and the "
                "server's socket are reached through it",
                todo="Run this on the host of the containers",
            )
        path = address[len("unix://") :]
        try:
            self._client = docker.DockerClient(base_url=address, version="auto", timeout=120)
            self.api = self._client.api
        except DockerException as error:
            raise self._unreachable(path, error) from error

    @staticmethod
    def _unreachable(path: str, error: Exception) -> HostError:
        if "Permission denied" in str(error) or "PermissionError" in str(error):
            return HostError(
                f"The Docker engine at {path} does not permit this user",
                todo="Run as root (sudo, or `become: true`)",
            )
        return HostError(
            f"No Docker engine answers at {path}",
            todo="Start it (`sudo systemctl start docker`), then run this again",
        )

    # -- finding -----------------------------------------------------------------------------------

    def find(self, *, name: str = "", project: str = "", service: str = "") -> Container:
        """The one running container of that name, or of that Compose project and service.

        :raises AbsentError: none.
        :raises TargetError: more than one, or one that is not running.
        """
        if name:
            info = self._by_name(name)
        else:
            found = self._by_labels(project, service)
            if not found:
                raise AbsentError(
                    f'There is no container of service "{service}" in Compose project "{project}"',
                    state="Nothing was changed",
                    todo="Compare with `docker ps -a`; is the project up, are both names right?",
                )
            if len(found) > 1:
                names = ", ".join(sorted(info["Name"].lstrip("/") for info in found))
                raise TargetError(
                    f'Service "{service}" of project "{project}" has several containers: {names}',
                    state="Nothing was changed",
                    todo="Say which one with `container`",
                )
            info = found[0]
        return self._running(info)

    def _by_name(self, name: str) -> dict[str, Any]:
        with asking(f"Looking for container {name}"):
            every = self.api.containers(all=True)
        exact = [entry for entry in every if f"/{name}" in (entry["Names"] or [])]
        # An id may be shortened, as everywhere in Docker.
        found = exact or [
            entry for entry in every if len(name) >= 6 and entry["Id"].startswith(name)
        ]
        if not found:
            like = sorted(
                n.lstrip("/")
                for entry in every
                for n in (entry["Names"] or [])
                if name in n or n[1:] in name
            )
            hint = f" (there is {', '.join(like[:5])})" if like else ""
            raise AbsentError(
                f'There is no container "{name}"{hint}',
                state="Nothing was changed",
                todo="Compare with `docker ps -a`",
            )
        if len(found) > 1:
            names = ", ".join(sorted(entry["Names"][0].lstrip("/") for entry in found))
            raise TargetError(
                f'"{name}" is ambiguous, it begins the ids of several containers: {names}',
                state="Nothing was changed",
                todo="Give the whole name",
            )
        return self._inspect(found[0]["Id"])

    def _inspect(self, ident: str) -> dict[str, Any]:
        with asking(f"Looking at container {ident[:12]}"):
            info: dict[str, Any] = self.api.inspect_container(ident)
        return info

    def _by_labels(self, project: str, service: str) -> list[dict[str, Any]]:
        with asking(f"Looking for {project}/{service}"):
            entries = self.api.containers(
                all=True, filters={"label": [f"{_PROJECT}={project}", f"{_SERVICE}={service}"]}
            )
        # What `docker compose run` left is no instance of the service.
        entries = [entry for entry in entries if entry["Labels"].get(_ONEOFF, "False") != "True"]
        return [self._inspect(entry["Id"]) for entry in entries]

    def _running(self, info: dict[str, Any]) -> Container:
        name = info["Name"].lstrip("/")
        state = info["State"]
        status = "paused" if state.get("Paused") else state.get("Status", "not running")
        if status != "running":
            cure = {"paused": f"docker unpause {name}", "restarting": f"docker logs {name}"}.get(
                status, f"docker start {name}"
            )
            raise TargetError(
                f"Container {name} is {status}, it has to run",
                state="Nothing was changed",
                todo=f"See `{cure}`, then run this again",
            )
        pid = int(state["Pid"])
        if not Path(f"/proc/{pid}").exists():
            raise HostError(
                f"Container {name} runs, but its processes cannot be seen from here",
                todo="Run on the host itself; rootless and remote engines are not supported",
            )
        return self._container(info, pid)

    def _container(self, info: dict[str, Any], pid: int) -> Container:
        labels = info["Config"].get("Labels") or {}
        pairs = (entry.partition("=") for entry in info["Config"].get("Env") or [])
        networks = (info.get("NetworkSettings") or {}).get("Networks") or {}
        addresses = [network.get("IPAddress") for network in networks.values()]
        try:
            digests = self.api.inspect_image(info["Image"]).get("RepoDigests") or [""]
        except (ImageNotFound, NotFound):
            digests = [""]
        return Container(
            id=info["Id"],
            name=info["Name"].lstrip("/"),
            pid=pid,
            started_at=info["State"]["StartedAt"],
            image=info["Config"]["Image"],
            image_id=info["Image"],
            image_digest=digests[0],
            environment={key: value for key, unused_sep, value in pairs},
            shm_bytes=int(info["HostConfig"].get("ShmSize") or 0),
            project=labels.get(_PROJECT, ""),
            service=labels.get(_SERVICE, ""),
            address=next((address for address in addresses if address), ""),
        )

    def image_id(self, names: Sequence[str]) -> str:
        """The id of the first of these images (by id, digest or name) that this host has; "" when it has none."""
        for name in filter(None, names):
            with contextlib.suppress(TargetError), asking(f"Looking for image {name}"):
                return str(self.api.inspect_image(name)["Id"])
        return ""

    def unchanged(self, container: Container) -> bool:
        """Whether it still runs, and is the same start of it."""
        try:
            state = self._inspect(container.id)["State"]
        except FiredrillError:
            return False
        return bool(state["Running"]) and state["StartedAt"] == container.started_at

    # -- the application's services ----------------------------------------------------------------

    def services(self, project: str, names: Sequence[str]) -> dict[str, bool]:
        """Containers behind `names` (Compose services of the project, or containers): id -> running.

        :raises TargetError: a name that is neither.
        """
        found: dict[str, bool] = {}
        for name in names:
            infos = self._by_labels(project, name) if project else []
            for info in infos or [self._by_name(name)]:
                found[info["Id"]] = bool(info["State"]["Running"])
        return found

    def runs(self, ident: str) -> bool:
        """Whether that container exists and runs."""
        try:
            return bool(self._inspect(ident)["State"]["Running"])
        except TargetError:
            return False

    def name_of(self, ident: str) -> str:
        """Its name; of one that is gone, its short id."""
        try:
            return str(self._inspect(ident)["Name"]).lstrip("/")
        except TargetError:
            return ident[:12]

    def stop(self, ident: str) -> None:
        with asking(f"Stopping container {ident[:12]}"):
            self.api.stop(ident, timeout=_STOP_GRACE_S)

    def start(self, ident: str) -> None:
        with asking(f"Starting container {ident[:12]}"):
            self.api.start(ident)

    def health(self, ident: str) -> str:
        """`healthy`, `unhealthy`, `starting`; without a health check `running` or the status; or `gone`."""
        try:
            state = self._inspect(ident)["State"]
        except TargetError:
            return "gone"
        if not state["Running"]:
            return str(state["Status"])
        return str((state.get("Health") or {}).get("Status") or "running")

    def logs(self, ident: str, lines: int = 20) -> str:
        """The last lines of a container's log; empty when there is none to be had."""
        try:
            return str(self.api.logs(ident, tail=lines).decode(errors="replace")).strip()
        except (DockerException, requests.exceptions.RequestException):
            return ""

    # -- containers of our own ---------------------------------------------------------------------

    @staticmethod
    def labels(run: Run, kind: str, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
        """What marks a container or volume as ours: its kind, the run that made it and that run's process.

        :param inherited: labels of the image. Compose writes its own on what it builds, and a container of ours that
            had them would pass for one of the service, here and to Compose.
        """
        blank = {key: "" for key in inherited or {} if key.startswith(_COMPOSE)}
        return {**blank, f"{LABEL}.kind": kind, _RUN: run.id, _OWNER: run.mark}

    def volumes_directory(self) -> str:
        """Where the engine keeps the data of volumes, by its own account: it may be a path that is not seen from here."""
        with asking("Looking for the directory of volumes"):
            return f"{self.api.info()['DockerRootDir']}/volumes"

    @contextlib.contextmanager
    def throwaway(
        self,
        run: Run,
        image_id: str,
        command: Sequence[str],
        *,
        environment: dict[str, str],
        masked: Sequence[str],
        shm_bytes: int,
    ) -> Iterator[Container]:
        """A server of the same image with no network and a volume of its own; both are gone afterwards."""
        name = f"firedrill-drill-{run.id}"
        ident = ""
        try:
            with asking("Preparing the throwaway server"):
                config = self.api.inspect_image(image_id)["Config"]
                volumes = list(config.get("Volumes") or {})
                data = next((e[7:] for e in config.get("Env") or [] if e.startswith("PGDATA=")), "")
                data = next(
                    (path for path in volumes if data.startswith(path)), data or _DATA_DIRECTORY
                )
                host = self.api.create_host_config(
                    network_mode="none",
                    cpu_shares=cpu_shares(),
                    oom_score_adj=OOM_SCORE_ADJ,
                    shm_size=shm_bytes or None,
                    # What the image's entrypoint needs to prepare the data directory and to leave root.
                    cap_drop=["ALL"],
                    cap_add=["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"],
                    security_opt=["no-new-privileges"],
                    log_config=LogConfig(
                        type="json-file", config={"max-size": "1m", "max-file": "1"}
                    ),
                    tmpfs={path: "" for path in [*masked, *volumes] if path != data},
                    mounts=[Mount(target=data, source=name, type="volume")],
                )
            # The engine makes them whether or not anybody is left to hear of it.
            with asking("Making the throwaway server"), run.undisturbed():
                self.api.create_volume(name, labels=self.labels(run, "drill"))
                ident = self.api.create_container(
                    image_id,
                    name=name,
                    command=list(command),
                    environment=environment,
                    labels=self.labels(run, "drill", config.get("Labels")),
                    host_config=host,
                )["Id"]
            with asking("Starting the throwaway server"):
                self.api.start(ident)
                info = self._inspect(ident)
            yield self._container(info, int(info["State"]["Pid"]))
        finally:
            if ident:
                self.remove(ident)
            with _removing(f"volume {name}", f"docker volume rm {name}"):
                self.api.remove_volume(name, force=True)

    def remove(self, ident: str) -> None:
        """Removes a container of our own with its anonymous volumes; one that is gone already is fine.

        :raises HostError: it could not be removed.
        """
        short = ident[:12]
        with _removing(f"container {short}", f"docker rm -f -v {short}"):
            self.api.remove_container(ident, force=True, v=True)

    def sweep(self) -> list[str]:
        """Removes what runs left behind that were killed; returns the names.

        What cannot be removed now, for instance because another run is just removing it, is left to the next run.
        """
        removed = []
        with asking("Looking for leftovers"):
            entries = self.api.containers(all=True, filters={"label": [_OWNER]})
            volumes = self.api.volumes(filters={"label": [_OWNER]}).get("Volumes") or []
        for entry in entries:
            if not owner_lives(entry["Labels"][_OWNER]):
                with contextlib.suppress(FiredrillError):
                    self.remove(entry["Id"])
                    removed.append(entry["Names"][0].lstrip("/"))
        for volume in volumes:
            if not owner_lives(volume["Labels"][_OWNER]):
                with contextlib.suppress(FiredrillError), asking("Removing a leftover volume"):
                    self.api.remove_volume(volume["Name"], force=True)
                    removed.append(f"volume {volume['Name']}")
        return removed
