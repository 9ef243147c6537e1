# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A drill that is ended in the middle leaves no container, no volume and no network, then or by the next drill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker import APIClient
from scenes import WAIT_S, words
from servers import (
    Postgres,
    await_that,
    docker,
    engine_process,
    own_containers,
    own_directories,
    own_volumes,
)

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.drill import (
    DrillRequest,
    drill,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    InterruptedRun,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Target

pytestmark = [pytest.mark.integration, pytest.mark.newest_only, pytest.mark.slow]

#: In a throwaway server, which runs without fsync, the load of the set never ends.
_ENDLESS = """
CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  WHILE pg_catalog.current_setting('fsync') = 'off' LOOP
    PERFORM pg_catalog.pg_sleep(0.05);
  END LOOP;
  RETURN true;
END $$;
CREATE TABLE gated (id int CONSTRAINT held CHECK (gate()));
INSERT INTO gated VALUES (1);
"""
_LOADING = (
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND wait_event = 'PgSleep'"
)


@dataclass
class Plant:
    server: Postgres
    directory: Path
    database: str

    def start(self, progress: str = "None", timeout_s: float = 0) -> subprocess.Popen[str]:
        """A drill in a process of its own."""
        return engine_process(f"""
import signal
from pathlib import Path
from _engine import errors, model
from _engine.drill import DrillRequest, drill
target = model.Target(database={self.database!r}, container={self.server.name!r})
try:
    directory = Path({str(self.directory)!r})
    record = directory / "drills.md"
    request = DrillRequest(target, directory, jobs=2, timeout_s={timeout_s}, record_file=record)
    print(drill(request, {progress}).msg)
except errors.FiredrillError as error:
    raise SystemExit(str(error))
""")

    def start_endless(self) -> subprocess.Popen[str]:
        """A drill in a process of its own that is in the middle of its load."""
        process = self.start()
        await_that(lambda: _loading(process), "the drill is in the middle of its load", WAIT_S)
        return process


def _loading(process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()
    psql = ("psql", "-XqAt", "-U", "postgres", "-c", _LOADING)
    names = docker("ps", "--format", "{{.Names}}", "--filter", "name=firedrill-drill-").split()
    ours = [name for name in names if name in own_volumes(process.pid)]
    return any(docker("exec", name, *psql, check=False) == "1" for name in ours)


@pytest.fixture(scope="module")
def plant(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Plant:
    database = postgres.create(content=_ENDLESS)
    directory = tmp_path_factory.mktemp("endless") / "sets"
    postgres.backup(directory, database)
    return Plant(postgres, directory, database)


@pytest.fixture(autouse=True)
def production(plant: Plant, clean_up_after: None) -> Iterator[None]:
    """Whatever ends a drill, production has not seen it."""
    before = plant.server.started(), plant.server.names()
    yield
    assert (plant.server.started(), plant.server.names()) == before


def assert_nothing_left(pid: int) -> None:
    # Another run on this host may be removing it at this moment.
    await_that(lambda: not own_containers(pid), "no container is left")
    await_that(lambda: not own_volumes(pid), "no volume is left")
    assert docker("network", "ls", "-q", "--filter", "label=firedrill.owner") == ""
    assert own_directories(pid) == []


def assert_on_record(plant: Plant, cause: str) -> None:
    entry = json.loads((plant.directory / "drills.jsonl").read_text().splitlines()[-1])
    assert (entry["action"], entry["database"]) == ("drill", plant.database)
    assert entry["verdict"] == "not_tested"
    assert cause in entry["reason"]
    assert entry["set_name"]
    assert entry["phases"]["load"] > 0
    document = (plant.directory / "drills.md").read_text()
    last = document[document.rindex("### DRILL-") :]
    assert "Verdict: not\\_tested" in last or "Verdict: not_tested" in last
    assert cause in last


def test_sigterm_in_the_middle_of_a_drill_leaves_nothing_but_a_record(plant):
    process = plant.start_endless()
    assert own_volumes(process.pid)
    process.terminate()
    said = words(process)
    assert "drill" in said
    assert "SIGTERM" in said
    assert "Production was not touched" in said
    assert_nothing_left(process.pid)
    assert_on_record(plant, "the signal SIGTERM")


def test_a_drill_whose_time_is_over_leaves_nothing_but_a_record(plant):
    # The time limit is moved to the moment at which the load begins.
    hurry = "lambda phase, *n: phase == 'load' and signal.setitimer(signal.ITIMER_REAL, 1)"
    process = plant.start(hurry, timeout_s=300)
    said = words(process)
    assert "time limit of 300 s" in said
    assert "Production was not touched" in said
    assert_nothing_left(process.pid)
    assert_on_record(plant, "its time limit of 300 s")


@pytest.mark.parametrize("throwaway", [False, True], ids=["program", "server"])
def test_a_signal_while_docker_makes_a_container_leaves_none(plant, monkeypatch, throwaway):
    make = APIClient.create_container

    def make_and_be_ended(self, *arguments, **options):
        made = make(self, *arguments, **options)
        if bool(options.get("name")) == throwaway:
            # It is there, and nobody knows its id yet.
            os.kill(os.getpid(), signal.SIGTERM)
        return made

    monkeypatch.setattr(APIClient, "create_container", make_and_be_ended)
    with pytest.raises(InterruptedRun, match="SIGTERM"):
        drill(DrillRequest(plant.server.target(plant.database), plant.directory))
    assert_nothing_left(os.getpid())


@pytest.mark.parametrize("elsewhere", [False, True], ids=["beside the server", "elsewhere"])
def test_what_a_killed_drill_left_is_removed_by_the_next_one(plant, tmp_path, elsewhere):
    process = plant.start_endless()
    process.kill()
    process.communicate(timeout=WAIT_S)
    if elsewhere:
        drill(DrillRequest(Target(database=plant.database), plant.directory, check=True))
    else:
        report = drill(DrillRequest(plant.server.target(plant.database), tmp_path))
        assert report.verdict == "not_tested"
    assert_nothing_left(process.pid)


def _pg_restore(pid: int, *, worker: bool) -> int:
    """The process id of the pg_restore that drill `pid` runs, or of one of its workers."""
    mark = "label=firedrill.kind=sidecar"
    running = docker("ps", "--no-trunc", "--format", "{{.ID}}", "--filter", mark).split()
    (sidecar,) = set(own_containers(pid)) & set(running)
    leader = int(docker("inspect", "-f", "{{.State.Pid}}", sidecar))
    if not worker:
        return leader
    return int(Path(f"/proc/{leader}/task/{leader}/children").read_text().split()[0])


@pytest.mark.parametrize("worker", [False, True], ids=["whole", "worker"])
def test_a_killed_pg_restore_does_not_blame_the_backup(plant, worker):
    """As the kernel kills where memory is short; without a memory cgroup the engine knows nothing of it."""
    process = plant.start_endless()
    os.kill(_pg_restore(process.pid, worker=worker), signal.SIGKILL)
    said, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    assert said.startswith("environment: ")
    assert "pg_restore was killed" in said
    assert "memory" in said
    assert_nothing_left(process.pid)
