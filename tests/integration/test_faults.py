# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults in the middle of a restore's load: something is killed, or a second run comes."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from restoring import start_app
from scenes import LIVE, RESTORED, WAIT_S, Scene, end, staged, words
from servers import (
    LABEL,
    Postgres,
    await_final_server,
    await_that,
    docker,
    engine_process,
    own_containers,
    own_directories,
    remove,
)

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    BusyError,
    RefusedError,
    SetError,
    ToolError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import SqlScript
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import (
    RUNTIME_DIRECTORY,
    owner_mark,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.settling import (
    SettleRequest,
    settle_interrupted,
)

pytestmark = [pytest.mark.integration, pytest.mark.newest_only, pytest.mark.slow]


@pytest.fixture(scope="module")
def stage(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with staged(postgres, tmp_path_factory.mktemp("stage") / "sets") as scene:
        yield scene


@pytest.fixture
def scene(stage, sets: Path, clean_up_after: None) -> Iterator[Scene]:
    scene = stage(sets)
    yield scene
    end(scene)


# -- swap --------------------------------------------------------------------------------------------


def test_sigterm_in_a_load_leaves_the_live_database_and_the_application_untouched(scene):
    before = scene.server.started(), scene.oid(), scene.app_starts(), scene.files()
    process = scene.start_held_restore()
    process.terminate()
    said = words(process)
    assert "SIGTERM" in said
    assert "live database was not touched" in said
    assert "Run it again" in said
    after = scene.server.started(), scene.oid(), scene.app_starts()
    assert after == before[:3]
    assert scene.data() == LIVE
    assert scene.beside() == []
    assert own_containers(process.pid) == []
    assert own_directories(process.pid) == []
    assert [n for n in scene.files() if n not in before[3] and not n.endswith(".journal")] == []


def test_after_a_sigkill_in_a_load_the_next_run_explains_clears_up_and_restores(scene):
    before = scene.server.started(), scene.oid(), scene.app_starts()
    process = scene.start_held_restore(jobs=2)
    process.kill()
    process.wait(WAIT_S)
    (copy,) = scene.beside()
    # The server sees the end of a connection when its COPY goes on.
    scene.release()
    await_that(lambda: scene.sessions() == 0, "the sessions of the killed restore end")
    assert (scene.server.started(), scene.oid(), scene.app_starts()) == before
    assert scene.data() == LIVE
    report = scene.server.restore(scene.directory, scene.database)
    said = " ".join(report.warnings)
    assert "killed" in said
    assert scene.set_name in said
    assert copy in said
    assert report.changed
    assert scene.data() == RESTORED
    assert scene.beside() == [report.details["previous"]]
    # Other runs on this host remove leftovers, too; one may be at it.
    await_that(lambda: not own_containers(process.pid), "its containers are gone")
    assert own_directories(process.pid) == []


def test_a_killed_pg_restore_is_reported_and_nothing_is_lost(scene):
    before = scene.server.started(), scene.oid(), scene.app_starts()
    process = scene.start_held_restore()
    (sidecar,) = own_containers(process.pid)
    docker("kill", sidecar)
    said = words(process)
    assert "pg_restore was killed" in said
    assert "live database was not touched" in said
    assert (scene.server.started(), scene.oid(), scene.app_starts()) == before
    assert scene.data() == LIVE
    assert scene.beside() == []
    assert own_containers(process.pid) == []


def test_a_database_container_killed_in_a_load_is_named_and_the_next_run_clears_up(
    own_postgres, tmp_path
):
    with staged(own_postgres, tmp_path / "stage") as stage:
        scene = stage(tmp_path / "sets")
        starts = scene.app_starts()
        process = scene.start_held_restore()
        docker("kill", own_postgres.name)
        said = words(process)
        assert own_postgres.name in said
        assert "live database was not touched" in said
        assert f"docker logs {own_postgres.name}" in said
        assert own_containers(process.pid) == []
        docker("start", own_postgres.name)
        await_final_server(own_postgres)
        scene.release()
        assert scene.data() == LIVE
        assert scene.app_starts() == starts
        (copy,) = scene.beside()
        assert copy in said
        report = own_postgres.restore(scene.directory, scene.database)
        assert copy in " ".join(report.warnings)
        assert copy not in scene.beside()
        assert scene.data() == RESTORED


# -- replace -----------------------------------------------------------------------------------------


def test_sigterm_in_a_replace_puts_the_safety_dump_back_and_starts_the_application(scene):
    started, oid = scene.server.started(), scene.oid()
    process = scene.start_held_restore(method="replace")
    assert scene.oid() != oid
    assert scene.running() == [False, False]
    process.terminate()
    said = words(process)
    assert "SIGTERM" in said
    assert "put back" in said
    assert "application was started again" in said
    assert scene.data() == LIVE
    assert scene.running() == [True, True]
    assert scene.server.started() == started
    assert own_containers(process.pid) == []
    # The next run has nothing to settle.
    assert scene.journal()[-1]["step"] == "failed"


def safety_set(scene: Scene) -> str:
    """The set that a replace made before it dropped anything."""
    (name,) = {line["safety_set"] for line in scene.journal()} - {""}
    return str(name)


@pytest.fixture
def half_replaced(scene: Scene) -> Scene:
    """A replace was killed in the middle of its load."""
    scene.server.sql(
        f"ALTER DATABASE {scene.database} SET work_mem = '7MB';"
        f"COMMENT ON DATABASE {scene.database} IS 'the shop';"
        f"ALTER DATABASE {scene.database} CONNECTION LIMIT 44;"
    )
    started = scene.server.started()
    process = scene.start_held_restore(method="replace")
    process.kill()
    process.wait(WAIT_S)
    scene.release()
    await_that(lambda: scene.sessions() == 0, "the sessions of the killed restore end")
    assert scene.server.started() == started
    assert scene.running() == [False, False]
    return scene


def test_settle_does_not_start_an_application_without_its_database(half_replaced):
    scene = half_replaced
    request = SettleRequest(scene.server.target(scene.database), scene.directory)
    for unused_one in range(2):
        with pytest.raises(SetError) as caught:
            settle_interrupted(request)
        assert "The application stays stopped" in str(caught.value)
        assert "firedrill restore latest" in str(caught.value)
        assert scene.running() == [False, False]


def test_what_a_killed_replace_left_is_not_dumped_and_the_next_restore_completes_it(half_replaced):
    scene = half_replaced
    files = scene.files()
    with pytest.raises(SetError) as failure:
        scene.server.backup(scene.directory, scene.database)
    said = str(failure.value)
    assert "is not back" in said
    assert scene.database in said
    assert safety_set(scene) in said
    assert "Restore a set first" in said
    # That it was tried and failed is remembered, nothing else.
    assert scene.files() == sorted([*files, f"{scene.database}.attempts"])
    assert scene.running() == [False, False]
    report = scene.server.restore(scene.directory, scene.database)
    said = " ".join(report.warnings)
    assert "killed" in said
    assert "is not back" in said
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]
    # What is half full is nothing to go back to.
    assert scene.beside() == []
    assert scene.server.backup(scene.directory, scene.database).changed


def test_what_a_killed_replace_left_is_no_fresh_cluster(half_replaced):
    scene = half_replaced
    with pytest.raises(RefusedError) as refused:
        scene.server.restore(scene.directory, scene.database, fresh_cluster=True)
    assert "was killed" in str(refused.value)
    assert "without `fresh_cluster`" in str(refused.value)
    assert scene.oid() == ""
    assert scene.server.restore(scene.directory, scene.database).changed


def test_the_safety_dump_of_a_killed_replace_brings_data_and_properties_back(half_replaced):
    scene = half_replaced
    scene.server.restore(scene.directory, scene.database, source=safety_set(scene))
    assert scene.data() == LIVE
    assert scene.running() == [True, True]
    properties = scene.server.sql(
        "SELECT datconnlimit, shobj_description(d.oid, 'pg_database'), setconfig FROM pg_database d"
        " LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0"
        f" WHERE datname = '{scene.database}'"
    )
    assert properties == "44|the shop|{work_mem=7MB}"


def test_a_failed_attempt_after_a_killed_replace_does_not_make_the_remains_good(half_replaced):
    scene = half_replaced
    safety = safety_set(scene)
    scripts = (SqlScript(sql="SELECT 1 / 0"),)
    with pytest.raises(ToolError, match="division by zero"):
        scene.server.restore(scene.directory, scene.database, method="replace", post_sql=scripts)
    # Either what was live is back, or it is still known that it is not.
    if scene.running() == [True, True]:
        assert scene.data() == LIVE
    else:
        with pytest.raises(SetError, match="is not back"):
            scene.server.backup(scene.directory, scene.database)
        scene.server.restore(scene.directory, scene.database, source=safety)
        assert scene.running() == [True, True]
        assert scene.data() == LIVE


# -- two at once -------------------------------------------------------------------------------------


def test_a_second_run_is_told_that_a_restore_is_at_work_and_the_first_is_not_disturbed(scene):
    process = scene.start_held_restore()
    files, starts = scene.files(), scene.app_starts()
    with pytest.raises(BusyError) as failure:
        scene.server.restore(scene.directory, scene.database, timeout_s=120)
    said = str(failure.value)
    assert f"a restore, process {process.pid}" in said
    assert scene.database in said
    assert "Nothing was changed" in said
    assert "Wait" in said
    with pytest.raises(BusyError, match=f"a restore, process {process.pid}"):
        scene.server.backup(scene.directory, scene.database)
    assert scene.files() == files
    assert scene.app_starts() == starts
    scene.release()
    out, error = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, error
    assert scene.set_name in out
    assert scene.data() == RESTORED


def test_a_restore_while_a_backup_runs_is_refused_and_the_backup_is_made(scene):
    """The second run begins where the first is in the middle of its dump."""
    refusals = []

    def meanwhile(phase: str, done: int, unused_total: int) -> None:
        if phase == "dump" and done and not refusals:
            with pytest.raises(BusyError) as failure:
                scene.server.restore(scene.directory, scene.database, timeout_s=120)
            refusals.append(str(failure.value))

    report = scene.server.backup(scene.directory, scene.database, progress=meanwhile)
    (said,) = refusals
    assert f"a backup, process {os.getpid()}" in said
    assert report.details["rows"]["public.people"] == 301
    assert scene.data() == LIVE


# -- leftovers ---------------------------------------------------------------------------------------


@pytest.fixture
def dead() -> str:
    """The mark of an owner that lives no more."""
    process = engine_process("from _engine.run import owner_mark; print(owner_mark())")
    return process.communicate(timeout=WAIT_S)[0].strip()


def containers() -> list[str]:
    return docker("ps", "-aq", "--no-trunc").split()


def volumes() -> list[str]:
    return docker("volume", "ls", "-q").split()


def test_leftovers_of_dead_runs_are_removed_and_those_of_living_runs_are_not(scene, dead):
    left = {}
    try:
        for mark in (dead, owner_mark()):
            labels = ("--label", f"firedrill.owner={mark}", "--label", LABEL)
            directory = RUNTIME_DIRECTORY / f"test-{uuid.uuid4().hex[:8]}"
            (directory / "relay-1").mkdir(parents=True)
            # Whole at once, as a run makes it: what is empty has no owner that lives.
            (directory / "mark").write_text(mark)
            (directory / "mark").rename(directory / "owner")
            container = docker("create", *labels, "--network", "none", scene.server.image)
            left[mark] = (container, docker("volume", "create", *labels), directory)
        scene.server.backup(scene.directory, scene.database, check=True)
        for mark, (container, volume, directory) in left.items():
            # Other runs on this host remove leftovers, too; one may be at it.
            if mark == dead:
                await_that(lambda c=container: c not in containers(), "its container is gone")
                await_that(lambda v=volume: v not in volumes(), "its volume is gone")
                await_that(lambda d=directory: not d.exists(), "its directory is gone")
            else:
                assert container in containers()
                assert volume in volumes()
                assert directory.exists()
    finally:
        for container, volume, directory in left.values():
            remove(container)
            docker("volume", "rm", "-f", volume, check=False)
            shutil.rmtree(directory, ignore_errors=True)


def test_a_leftover_that_cannot_be_removed_now_stops_no_run(scene, dead):
    """Another run may be removing it at this moment."""
    volume = docker("volume", "create", "--label", f"firedrill.owner={dead}", "--label", LABEL)
    user = start_app(scene.server.image, "-v", f"{volume}:/used")
    try:
        assert scene.server.backup(scene.directory, scene.database, check=True).changed
    finally:
        remove(user)
        docker("volume", "rm", "-f", volume)
