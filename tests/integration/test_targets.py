# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Targets that are not there, not what they seem, or not where one looks first."""

from __future__ import annotations

import os
import re
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pytest
from servers import (
    IMAGES,
    LABEL,
    Postgres,
    await_that,
    docker,
    engine_process,
    own_containers,
    remove,
    start_postgres,
)

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    server as server_room,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.containers import (
    Containers,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.drill import (
    DrillRequest,
    drill,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import (
    BackupRequest,
    backup,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    ConfigError,
    FiredrillError,
    HostError,
    TargetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Target
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import owner_mark

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.newest_only]

#: What is said about containers does not depend on the server in them.
IMAGE = IMAGES[0]


def refused(directory: Path, kind: type[FiredrillError] = TargetError, **target: object) -> str:
    """What is said to who wants to dump it; nothing was written and nothing is left."""
    with pytest.raises(kind) as caught:
        backup(BackupRequest(Target(**{"database": "app", **target}), directory))  # type: ignore[arg-type]
    assert not directory.exists()
    assert not own_containers()
    return str(caught.value)


@pytest.fixture
def container() -> Iterator[Callable[..., str]]:
    """Makes containers in which no server runs."""
    names = []

    def make(*arguments: str, name: str = "") -> str:
        names.append(name or f"fdt-{uuid.uuid4().hex[:10]}")
        settings = ["--network", "none", "--label", LABEL, "--entrypoint", "sleep"]
        docker("run", "-d", "--name", names[-1], *settings, *arguments, IMAGE, "600")
        return names[-1]

    yield make
    for name in names:
        remove(name)


# -- containers ------------------------------------------------------------------------------------


def test_an_absent_container_is_said_with_what_is_like_it(
    container: Callable[..., str], sets: Path
) -> None:
    name = container()
    text = refused(sets, container=f"{name}-db")
    assert f'no container "{name}-db"' in text
    assert "there is " in text
    assert name in text
    assert "Nothing was changed" in text
    assert "docker ps -a" in text


@pytest.mark.parametrize(
    ("done", "state", "cure"),
    [("stop", "exited", "docker start"), ("pause", "paused", "docker unpause")],
)
def test_a_container_that_does_not_run_is_said_with_its_cure(
    container: Callable[..., str], sets: Path, done: str, state: str, cure: str
) -> None:
    name = container("--stop-signal", "KILL")
    docker(done, name)
    text = refused(sets, container=name)
    assert f"{name} is {state}" in text
    assert f"{cure} {name}" in text
    assert docker("inspect", "-f", "{{.State.Status}}", name) == state


def test_a_container_without_a_server_is_said(container: Callable[..., str], sets: Path) -> None:
    name = container()
    text = refused(sets, container=name)
    assert f"{name} has no socket of a PostgreSQL server" in text
    assert f"docker logs {name}" in text


def test_a_target_that_is_half_named_is_a_mistake_in_the_request(sets: Path) -> None:
    half = {"project": "shop"}, {}, {"container": "x", "project": "shop", "service": "db"}
    for target in half:
        assert "container" in refused(sets, ConfigError, **target)
    assert "database" in refused(sets, ConfigError, database="", container="x")


def compose(project: str, *more: str) -> list[str]:
    labels = [f"com.docker.compose.project={project}", "com.docker.compose.service=db", *more]
    return [word for label in labels for word in ("--label", label)]


def test_a_service_with_several_containers_is_refused_with_their_names(
    container: Callable[..., str], sets: Path
) -> None:
    project = f"p{uuid.uuid4().hex[:8]}"
    names = sorted(container(*compose(project)) for unused in range(2))
    text = refused(sets, project=project, service="db")
    assert ", ".join(names) in text
    assert "`container`" in text


def test_a_service_that_is_not_there_is_said_with_its_project(sets: Path) -> None:
    text = refused(sets, project="nowhere", service="db")
    assert 'service "db"' in text
    assert 'project "nowhere"' in text


def test_a_service_is_found_by_its_labels_and_one_off_containers_are_not_it(
    image: str, container: Callable[..., str], sets: Path
) -> None:
    project = f"p{uuid.uuid4().hex[:8]}"
    one_off = container(*compose(project, "com.docker.compose.oneoff=True"))
    assert "no container of service" in refused(sets, project=project, service="db")
    server = start_postgres(image, *compose(project, "com.docker.compose.oneoff=False"))
    try:
        server.create("app", "CREATE TABLE t (x int)")
        ident = docker("inspect", "-f", "{{.Id}}", server.name)
        # A name goes before an id that begins like it, as everywhere in Docker.
        namesake = container(name=ident[:12])
        assert f"Container {namesake} has no socket" in refused(sets, container=namesake)
        for target in ({"project": project, "service": "db"}, {"container": ident[:20]}):
            report = backup(BackupRequest(Target("app", **target), sets, globals=False))  # type: ignore[arg-type]
            assert report.container == server.name != one_off
    finally:
        remove(server.name)


@pytest.fixture
def built(image: str) -> Iterator[tuple[str, str]]:
    """An image that Compose built for the service `db` of a project, and the project: it labels its images."""
    project = f"p{uuid.uuid4().hex[:8]}"
    pattern = docker("create", "--label", LABEL, image)
    labels = compose(project)[1::2]
    made = docker("commit", *(f"--change=LABEL {label}" for label in labels), pattern)
    remove(pattern)
    yield made, project
    docker("rmi", "-f", made)


def test_our_own_containers_of_an_image_that_compose_built_are_none_of_its_service(
    built: tuple[str, str], sets: Path
) -> None:
    made, project = built
    server = start_postgres(made, *compose(project))
    engine = Containers().api
    of_service: set[str] = set()
    kinds: set[str] = set()

    def look(*unused_progress: object) -> None:
        for one in engine.containers(all=True):
            if one["Labels"].get("com.docker.compose.project") == project:
                of_service.add(one["Names"][0][1:])
            if one["Labels"].get("firedrill.owner") == owner_mark():
                kinds.add(one["Labels"]["firedrill.kind"])

    try:
        server.create("app", "CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
        target = Target("app", project=project, service="db")
        assert backup(BackupRequest(target, sets), look).changed
        assert drill(DrillRequest(target, sets), look).verdict == "pass"
    finally:
        remove(server.name)
    # Compose would take any other for a replica too many and might remove the database's own.
    assert of_service == {server.name}
    assert kinds == {"sidecar", "drill"}


# -- the Docker engine -----------------------------------------------------------------------------


def test_an_engine_that_does_not_answer_is_said_with_its_address(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(HostError) as caught:
        backup(BackupRequest(Target("app", container="db"), sets))
    text = str(caught.value)
    assert "/nonexistent/docker.sock" in text
    assert "systemctl start docker" in text
    assert not sets.exists()


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:2375", "ssh://root@pi.invalid"])
def test_an_engine_on_another_host_is_refused_at_once(
    sets: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(HostError) as caught:
        backup(BackupRequest(Target("app", container="db"), sets))
    assert address in str(caught.value)
    assert "on the host of the containers" in str(caught.value)
    assert not sets.exists()


_AS_SOMEBODY = """
import os
from pathlib import Path
from _engine.dump import BackupRequest, backup
from _engine.errors import FiredrillError
from _engine.model import Target
{become}
try:
    backup(BackupRequest(Target("app", container="db"), Path({directory!r})))
except FiredrillError as error:
    print(type(error).__name__, error)
"""


def test_an_ordinary_user_is_told_to_be_root(sets: Path) -> None:
    become = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    process = engine_process(_AS_SOMEBODY.format(become=become, directory=str(sets)))
    told, errors = process.communicate(timeout=180)
    assert errors == ""
    assert told.startswith("HostError")
    assert "must run as root" in told
    assert "sudo" in told
    assert not sets.exists()


def test_an_engine_that_does_not_let_us_in_is_said(sets: Path, tmp_path: Path) -> None:
    """A root user without the capability that makes file modes irrelevant to it, as in a hardened unit."""
    closed = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(closed))
        listener.listen()
        os.chown(closed, 65534, 65534)
        closed.chmod(0o600)
        # PR_CAPBSET_DROP, then an exec, would take it for good; dropping it from the effective set is enough.
        become = (
            "import ctypes\n"
            "head = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
            "sets = (ctypes.c_uint32 * 6)()\n"
            "libc = ctypes.CDLL(None)\n"
            "assert libc.capget(head, sets) == 0\n"
            "sets[0] &= ~0b110\n"
            "assert libc.capset(head, sets) == 0\n"
        )
        process = engine_process(
            _AS_SOMEBODY.format(become=become, directory=str(sets)), DOCKER_HOST=f"unix://{closed}"
        )
        told, errors = process.communicate(timeout=180)
    assert errors == ""
    assert told.startswith("HostError")
    assert str(closed) in told
    assert "does not permit" in told
    assert not sets.exists()


# -- the server ------------------------------------------------------------------------------------


def test_an_absent_database_is_said_with_how_to_list_them(postgres: Postgres, sets: Path) -> None:
    text = refused(sets, container=postgres.name, database="no'such \"one")
    assert f'no database "no\'such "one" in container {postgres.name}' in text
    assert f"docker exec {postgres.name} psql -U postgres -l" in text


def test_an_absent_role_is_said_with_what_to_set(postgres: Postgres, sets: Path) -> None:
    text = refused(sets, container=postgres.name, database="postgres", user="nobody")
    assert f'no role "nobody" in container {postgres.name}' in text
    assert "`user`" in text


def test_a_role_that_may_not_read_everything_makes_no_half_dump(
    postgres: Postgres, sets: Path
) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    name = postgres.create(
        content=f"CREATE ROLE {role} LOGIN; CREATE TABLE mine (x int); ALTER TABLE mine OWNER TO {role};"
        " CREATE TABLE secret (x int)"
    )
    text = refused_after_looking(sets, container=postgres.name, database=name, user=role)
    assert "secret" in text
    assert "superuser" in text
    postgres.sql(f'DROP DATABASE "{name}"; DROP ROLE {role}')


def refused_after_looking(directory: Path, **target: object) -> str:
    """As refused(), when the directory is made already."""
    with pytest.raises(FiredrillError) as caught:
        backup(BackupRequest(Target(**target), directory))  # type: ignore[arg-type]
    assert list(directory.iterdir()) == []
    assert not own_containers()
    return str(caught.value)


def test_a_server_that_is_too_old_is_said(
    postgres: Postgres, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None that is older than 13 can be had here: so what is too old is moved."""
    monkeypatch.setattr(server_room, "LOWEST_MAJOR", 99)
    text = refused(sets, container=postgres.name, database="postgres")
    assert f"PostgreSQL {postgres.major}" in text
    assert "99 is the oldest" in text


@pytest.fixture
def network() -> Iterator[str]:
    name = f"fdt-{uuid.uuid4().hex[:10]}"
    docker("network", "create", "--label", LABEL, name)
    yield name
    docker("network", "rm", name)


def test_a_server_at_another_port_is_found_and_tcp_works_where_it_is_wanted(
    image: str, network: str, sets: Path
) -> None:
    server = start_postgres(image, "--network", network, "-e", "PGPORT=6543")
    try:
        server.create("app", "CREATE TABLE t AS SELECT generate_series(1, 5)")
        assert backup(BackupRequest(server.target("app"), sets)).details["rows"] == {"public.t": 5}
        address = docker(
            "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", server.name
        )
        remote = server.target("app", login_host=address, login_port=6543)
        report = backup(BackupRequest(remote, sets))
        assert report.details["rows"] == {"public.t": 5}
        nowhere = server.target("app", login_host=address, login_port=1)
        with pytest.raises(TargetError, match=f"at {re.escape(address)}:1: Connection refused"):
            backup(BackupRequest(nowhere, sets))
    finally:
        remove(server.name)


def test_a_server_whose_socket_is_elsewhere_is_found(own_postgres: Postgres, sets: Path) -> None:
    server = own_postgres
    server.create("app", "CREATE TABLE t AS SELECT generate_series(1, 5)")
    docker("exec", "-u", "postgres", server.name, "mkdir", "/tmp/a place")
    server.sql("ALTER SYSTEM SET unix_socket_directories = '/tmp/a place'")
    docker("restart", server.name)
    ready = ["exec", server.name, "pg_isready", "-h", "/tmp/a place"]
    await_that(lambda: "accepting" in docker(*ready, check=False), "the server is up")
    assert backup(BackupRequest(server.target("app"), sets)).details["rows"] == {"public.t": 5}


# -- sockets that lead elsewhere -------------------------------------------------------------------


class Stranger:
    """Something on the host that listens where a server might, and keeps what it is sent."""

    def __init__(self, directory: Path) -> None:
        self.connections = 0
        self.received = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            connection, unused_address = self._listener.accept()
            with connection:
                connection.settimeout(10)
                while part := connection.recv(1000):
                    if part == b"end":
                        return
                    self.received += part
            self.connections += 1

    def end(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._listener.getsockname())
            last.sendall(b"end")
            self._thread.join()
        self._listener.close()


@contextmanager
def stranger_in(directory: Path) -> Iterator[Stranger]:
    stranger = Stranger(directory)
    try:
        yield stranger
    finally:
        stranger.end()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    path = Path(f"/tmp/fdt-{uuid.uuid4().hex[:8]}")
    path.mkdir()
    yield path
    for entry in path.iterdir():
        entry.unlink()
    path.rmdir()


_LINK_IN_DIRECTORY = (
    "rm -rf /run/postgresql; mkdir -p /run/postgresql; ln -s {} /run/postgresql/.s.PGSQL.5432"
)
_LINK_FOR_DIRECTORY = "rm -rf /run/postgresql; ln -s {} /run/postgresql"


@pytest.mark.parametrize("way", ["its directory mounted", "a linked socket", "a linked directory"])
def test_a_socket_of_a_stranger_is_refused_and_sent_nothing(
    container: Callable[..., str], place: Path, sets: Path, way: str
) -> None:
    with stranger_in(place) as stranger:
        mounted = way == "its directory mounted"
        name = container("-v", f"{place}:{'/run/postgresql' if mounted else '/elsewhere'}")
        if way == "a linked socket":
            link = _LINK_IN_DIRECTORY.format("/elsewhere/.s.PGSQL.5432")
            docker("exec", "-u", "root", name, "sh", "-c", link)
        elif way == "a linked directory":
            docker("exec", "-u", "root", name, "sh", "-c", _LINK_FOR_DIRECTORY.format("/elsewhere"))
        text = refused(sets, container=name, login_password="not for strangers")
        assert f"container {name} belongs to a server outside" in text
        assert "Nothing was sent" in text
        await_that(lambda: stranger.connections, "the stranger saw it go")
    assert stranger.received == b""


@pytest.mark.parametrize("link", [_LINK_IN_DIRECTORY, _LINK_FOR_DIRECTORY])
@pytest.mark.parametrize("through", ["", "/proc/{}/root", "/proc/1/root", "../../../../.."])
def test_a_link_out_of_the_container_leads_nowhere(
    container: Callable[..., str], place: Path, sets: Path, link: str, through: str
) -> None:
    with stranger_in(place) as stranger:
        name = container(*(["--pid", "host"] if "{}" in through else []))
        aim = f"{through.format(os.getpid())}{place}"
        aim += "/.s.PGSQL.5432" if link == _LINK_IN_DIRECTORY else ""
        docker("exec", "-u", "root", name, "sh", "-c", link.format(aim))
        text = refused(sets, container=name, login_password="not for strangers")
        assert f"{name} has no socket" in text
    assert (stranger.connections, stranger.received) == (0, b"")


def test_a_socket_that_a_dead_server_left_is_said(
    container: Callable[..., str], place: Path, sets: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / ".s.PGSQL.5432"))
    name = container("-v", f"{place}:/run/postgresql")
    text = refused(sets, container=name)
    assert f"server in container {name} is not running" in text
    assert f"docker logs {name}" in text


def test_a_server_that_shares_its_socket_directory_is_not_taken_for_the_other(
    image: str, container: Callable[..., str], place: Path, sets: Path
) -> None:
    server = start_postgres(image, "-v", f"{place}:/var/run/postgresql")
    try:
        server.create("app", "CREATE TABLE t (x int)")
        name = container("-v", f"{place}:/run/postgresql")
        assert "outside that container" in refused(sets, container=name)
        report = backup(BackupRequest(server.target("app"), sets, globals=False))
        assert report.container == server.name
    finally:
        remove(server.name)
