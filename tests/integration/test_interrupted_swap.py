# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A run that ends between stopping the application and starting it again, and the run that comes after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenes import LIVE, RESTORED, WAIT_S, Scene, end, staged, words
from servers import Postgres, own_containers

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import cutover
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
    HostError,
    SetError,
    TargetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.restore import (
    RestoreRequest,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.rollback import roll_back
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.settling import (
    SettleRequest,
    settle_interrupted,
)

pytestmark = [pytest.mark.integration, pytest.mark.newest_only, pytest.mark.slow]

#: Code that makes a process send itself a signal at a moment of its cut-over.
MOMENTS = {
    "while it stops the application": """
stop = services.stop
def stop_one_and_die(run, containers, idents):
    stop(run, containers, idents[:1])
    os.kill(os.getpid(), signal.{signal})
services.stop = stop_one_and_die
""",
    "before the swap": """
def die(*arguments, **options):
    os.kill(os.getpid(), signal.{signal})
cutover.exchange = die
""",
    "after the swap": """
exchange = cutover.exchange
def exchange_and_die(*arguments, **options):
    exchange(*arguments, **options)
    os.kill(os.getpid(), signal.{signal})
cutover.exchange = exchange_and_die
""",
    "while it starts the application": """
from _engine.containers import Containers
start = Containers.start
def start_one_and_die(self, ident):
    start(self, ident)
    os.kill(os.getpid(), signal.{signal})
Containers.start = start_one_and_die
""",
}
SWAPPED = ("after the swap", "while it starts the application")


@pytest.fixture(scope="module")
def stage(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with staged(postgres, tmp_path_factory.mktemp("stage") / "sets") as scene:
        yield scene


@pytest.fixture
def scene(stage: Any, sets: Path, clean_up_after: None) -> Iterator[Scene]:
    scene = stage(sets)
    yield scene
    end(scene)


def rolled_back(scene: Scene) -> Report:
    request = RestoreRequest(
        scene.server.target(scene.database), scene.directory, stop_services=scene.services
    )
    return roll_back(request)


def kill(scene: Scene, moment: str, function: str = "restore.restore", **options: Any) -> str:
    """Has a run kill itself; returns when the server's postmaster started before."""
    started = scene.server.started()
    patch = MOMENTS[moment].format(signal="SIGKILL")
    process = scene.start(function, patch, stop_services=scene.services, **options)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == -9
    assert not all(scene.running())
    assert own_containers(process.pid) == []
    return started


def assert_settled(scene: Scene, said: str, started: str) -> None:
    """The run after a killed one explained it, and nothing of it is left."""
    assert "killed" in said
    assert scene.set_name in said
    assert "started again" in said
    assert scene.running() == [True, True]
    assert scene.server.started() == started
    assert [name for name in scene.beside() if "_restore_" in name] == []
    assert scene.journal()[-1]["step"] in ("done", "failed")


# -- SIGKILL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment", ["while it stops the application", "while it starts the application"]
)
def test_a_backup_settles_a_killed_swap_before_it_dumps(scene, moment):
    started = kill(scene, moment)
    report = scene.server.backup(scene.directory, scene.database)
    assert_settled(scene, " ".join(report.warnings), started)
    swapped = moment in SWAPPED
    assert scene.data() == (RESTORED if swapped else LIVE)
    assert report.details["rows"]["public.people"] == (300 if swapped else 301)
    assert len(scene.beside()) == swapped


@pytest.mark.parametrize("moment", ["before the swap", "after the swap"])
def test_a_restore_settles_a_killed_swap_by_oid_and_does_what_is_left(scene, moment):
    started = kill(scene, moment)
    report = scene.server.restore(scene.directory, scene.database, stop_services=scene.services)
    assert_settled(scene, " ".join(report.warnings), started)
    # After the swap this set is what is in the database.
    assert report.changed == (moment == "before the swap")
    assert scene.data() == RESTORED
    # And the way back is as ever.
    assert rolled_back(scene).changed
    assert scene.data() == LIVE
    assert scene.running() == [True, True]


def test_a_rollback_after_a_kill_before_the_swap_starts_the_application_and_says_why(scene):
    started = kill(scene, "before the swap")
    oid = scene.oid()
    with pytest.raises(SetError) as failure:
        rolled_back(scene)
    assert scene.oid() == oid
    assert scene.data() == LIVE
    assert scene.running() == [True, True]
    assert_settled(scene, str(failure.value), started)


def test_a_rollback_after_a_kill_after_the_swap_brings_back_what_was_live(scene):
    oid = scene.oid()
    started = kill(scene, "after the swap")
    report = rolled_back(scene)
    assert_settled(scene, " ".join(report.warnings), started)
    assert report.changed
    assert scene.oid() == oid
    assert scene.data() == LIVE


@pytest.mark.parametrize("moment", ["before the swap", "after the swap"])
def test_a_killed_rollback_is_settled_by_the_next_one(scene, moment):
    oid = scene.oid()
    scene.server.restore(scene.directory, scene.database, stop_services=scene.services)
    restored = scene.oid()
    started = kill(scene, moment, "rollback.roll_back")
    report = rolled_back(scene)
    assert_settled(scene, " ".join(report.warnings), started)
    assert report.changed == (moment == "before the swap")
    assert scene.oid() == oid
    assert scene.data() == LIVE
    # What was restored is kept.
    (kept,) = scene.beside()
    assert scene.server.sql(f"SELECT oid FROM pg_database WHERE datname = '{kept}'") == restored


def test_a_replace_that_was_killed_after_its_load_is_known_to_be_complete(scene):
    started = kill(scene, "while it starts the application", method="replace")
    report = scene.server.backup(scene.directory, scene.database)
    assert_settled(scene, " ".join(report.warnings), started)
    assert "is not back" not in " ".join(report.warnings)
    assert scene.data() == RESTORED
    assert not scene.server.restore(scene.directory, scene.database, source=scene.set_name).changed


# -- SIGTERM and errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigterm_in_a_swap_starts_the_application_and_tells_which_database_is_live(scene, moment):
    oid, started = scene.oid(), scene.server.started()
    patch = MOMENTS[moment].format(signal="SIGTERM")
    process = scene.start_restore(patch)
    said = words(process)
    assert "SIGTERM" in said
    assert "application was started again" in said
    assert scene.running() == [True, True]
    assert scene.server.started() == started
    swapped = moment in SWAPPED
    assert ("swap is complete" in said) == swapped
    assert ("live database is as it was" in said) != swapped
    assert scene.data() == (RESTORED if swapped else LIVE)
    assert (scene.oid() == oid) != swapped
    assert len(scene.beside()) == swapped
    # Nothing is left for the next run to settle, and that one knows what is live.
    assert scene.journal()[-1]["step"] == ("done" if swapped else "failed")


def test_a_kill_between_a_swap_that_was_interrupted_and_the_start_leaves_the_start_to_the_next_run(
    scene,
):
    started = scene.server.started()
    patch = (
        MOMENTS["after the swap"].format(signal="SIGTERM")
        + """
from _engine.containers import Containers
def die(*unused):
    os.kill(os.getpid(), signal.SIGKILL)
Containers.start = die
"""
    )
    process = scene.start_restore(patch)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == -9
    assert scene.running() == [False, False]
    report = scene.server.backup(scene.directory, scene.database)
    assert_settled(scene, " ".join(report.warnings), started)
    assert scene.data() == RESTORED
    assert scene.journal()[-1]["step"] == "done"


@pytest.mark.parametrize("moment", ["before the swap", "while it starts the application"])
def test_sigterm_in_a_rollback_starts_the_application_and_the_journal_knows_what_is_live(
    scene, moment
):
    oid = scene.oid()
    scene.server.restore(scene.directory, scene.database, stop_services=scene.services)
    patch = MOMENTS[moment].format(signal="SIGTERM")
    said = words(scene.start("rollback.roll_back", patch, stop_services=scene.services))
    assert "SIGTERM" in said
    assert scene.running() == [True, True]
    assert (scene.oid() == oid) == (moment in SWAPPED)
    report = rolled_back(scene)
    assert report.changed == (moment not in SWAPPED)
    assert scene.oid() == oid


def test_a_swap_whose_commit_was_not_answered_is_known_by_its_oid(scene, monkeypatch):
    original = cutover.exchange

    def lose(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        raise TargetError("the connection was lost")

    monkeypatch.setattr(cutover, "exchange", lose)
    with pytest.raises(FiredrillError, match="swap is complete all the same"):
        scene.server.restore(scene.directory, scene.database, stop_services=scene.services)
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]
    monkeypatch.undo()
    assert not scene.server.restore(scene.directory, scene.database).changed
    assert rolled_back(scene).changed
    assert scene.data() == LIVE


# -- settle, without a run after it ------------------------------------------------------------------


def settled(scene: Scene, progress: Any = None, wait_s: float = 0) -> Report:
    target = scene.server.target(scene.database)
    return settle_interrupted(SettleRequest(target, scene.directory, wait_s), progress)


def test_settle_waits_for_the_engine_and_starts_what_was_stopped(scene, tmp_path, monkeypatch):
    started = kill(scene, "before the swap")
    socket = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    tries = []

    def engine_comes_up(phase: str, *unused: int) -> None:
        tries.append(phase)
        if len(tries) == 2:
            socket.symlink_to("/var/run/docker.sock")

    report = settled(scene, engine_comes_up, WAIT_S)
    assert tries == ["wait for the server"] * 2
    assert report.changed
    assert_settled(scene, report.msg, started)
    assert scene.data() == LIVE
    # With nothing to settle nobody is asked.
    socket.unlink()
    again = settled(scene)
    assert (again.changed, again.msg) == (False, "Nothing was interrupted")


def test_settle_that_has_waited_long_enough_says_why_and_can_be_repeated(scene, monkeypatch):
    started = kill(scene, "before the swap")
    journal = scene.journal()
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        with pytest.raises(HostError, match="No Docker engine answers"):
            settled(scene)
    assert scene.journal() == journal
    assert scene.running() != [True, True]
    assert_settled(scene, settled(scene).msg, started)


def test_settle_leaves_a_run_alone_that_is_under_way(scene):
    process = scene.start_held_restore()
    journal = scene.journal()
    report = settled(scene)
    assert not report.changed
    assert "Left alone" in report.msg
    assert str(process.pid) in report.msg
    assert scene.journal() == journal
    scene.release()
    assert process.wait(WAIT_S) == 0
    assert scene.data() == RESTORED
