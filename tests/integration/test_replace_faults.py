# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults around the moment at which a restore gives up what was live: no row is lost, and none that is half full is used."""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from far_ends import small_disk
from restoring import start_app
from scenes import LIVE, RESTORED, WAIT_S, Scene, end, staged, words
from servers import LABEL, Postgres, await_that, docker, remove

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    cutover,
    preflight,
    restore_methods,
    swap,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
    HostError,
    InterruptedRun,
    RefusedError,
    SetError,
    TargetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import Manifest
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Report,
    SqlScript,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.restore import (
    RestoreRequest,
    restore,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.rollback import roll_back
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.settling import (
    SettleRequest,
    settle_interrupted,
)

pytestmark = [pytest.mark.integration, pytest.mark.newest_only, pytest.mark.slow]

FAILING = (SqlScript(sql="SELECT 1 / 0"),)
IMPORTS = """
from _engine import restore_methods
from _engine.model import SqlScript
"""
#: A kill between the rename and what the journal says of it.
RENAMED = """
exchange = restore_methods.exchange
def exchange_and_die(*arguments, **options):
    exchange(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
restore_methods.exchange = exchange_and_die
"""
LATE = "INSERT INTO people VALUES (2000, 'written late')"


@pytest.fixture(scope="module")
def stage(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with staged(postgres, tmp_path_factory.mktemp("stage") / "sets") as scene:
        yield scene


@pytest.fixture
def scene(stage: Any, sets: Path, clean_up_after: None) -> Iterator[Scene]:
    scene = stage(sets)
    yield scene
    end(scene)


@pytest.fixture
def half_replaced(scene: Scene) -> Scene:
    """A replace was killed in the middle of its load."""
    process = scene.start_held_restore(method="replace")
    process.kill()
    process.wait(WAIT_S)
    scene.release()
    await_that(lambda: scene.sessions() == 0, "the sessions of the killed restore end")
    assert scene.running() == [False, False]
    return scene


def restored(scene: Scene, progress: Any = None, **options: Any) -> Report:
    options.setdefault("stop_services", scene.services)
    target = scene.server.target(scene.database)
    return restore(RestoreRequest(target, scene.directory, **options), progress)


def settled(scene: Scene) -> Report:
    return settle_interrupted(SettleRequest(scene.server.target(scene.database), scene.directory))


def killed(scene: Scene, patch: str, **options: Any) -> None:
    """Has a replace kill itself."""
    process = scene.start_restore(IMPORTS + patch, method="replace", **options)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == -9


def safety_set(scene: Scene) -> str:
    """The set that was made before anything was dropped."""
    (name,) = {line["safety_set"] for line in scene.journal()} - {""}
    return str(name)


# -- nothing that was written is lost ----------------------------------------------------------------


def test_what_is_written_until_the_application_stops_is_in_the_safety_dump_of_a_replace(scene):
    seen = []

    def look(phase: str, *unused: int) -> None:
        if phase == "downtime" and not seen:
            scene.server.sql(LATE, scene.database)
        if phase in ("downtime", "safety dump"):
            seen.append((phase, scene.running()))

    report = restored(scene, look, method="replace")
    assert scene.data() == RESTORED
    assert [entry for entry in seen if entry[0] == "safety dump"] == [
        ("safety dump", [False, False])
    ]
    restored(scene, source=report.details["safety_set"])
    assert scene.data() == "302|2000"


def test_an_interruption_of_the_safety_dump_leaves_all_as_it_was_and_starts_the_application(scene):
    oid, starts = scene.oid(), scene.app_starts()

    def interrupt(phase: str, *unused: int) -> None:
        if phase == "safety dump":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedRun) as caught:
        restored(scene, interrupt, method="replace")
    assert "live database is as it was; the application was started again" in str(caught.value)
    assert (scene.oid(), scene.data()) == (oid, LIVE)
    assert scene.running() == [True, True]
    assert scene.app_starts() != starts
    assert scene.journal()[-1]["step"] == "failed"


def test_without_keep_previous_it_is_kept_all_the_same_if_it_was_written_to_after_its_dump(scene):
    def write(phase: str, *unused: int) -> None:
        if phase == "load":
            scene.server.sql(LATE, scene.database)

    report = restored(scene, write, keep_previous=False)
    assert scene.data() == RESTORED
    (kept,) = scene.beside()
    assert report.details["previous"] == kept
    (said,) = [text for text in report.warnings if kept in text]
    assert "people" in said
    assert report.details["safety_set"] in said
    assert scene.data(kept) == "302|2000"


def test_a_database_that_somebody_made_after_a_killed_replace_is_not_taken_for_its_remains(
    half_replaced,
):
    scene = half_replaced
    scene.server.sql(f"CREATE DATABASE {scene.database} TEMPLATE pristine_{scene.database}")
    scene.server.sql(LATE, scene.database)
    report = restored(scene)
    said = " ".join(report.warnings)
    assert "was killed" in said
    assert "made by somebody else" in said
    assert safety_set(scene) in said
    assert f"docker start {' '.join(scene.services)}" in said
    assert scene.data() == RESTORED
    (kept,) = scene.beside()
    assert scene.data(kept) == "302|2000"


# -- the DROP ----------------------------------------------------------------------------------------


def test_a_drop_that_the_server_refuses_leaves_all_as_it_was_and_starts_the_application(scene):
    oid = scene.oid()

    def obstruct(phase: str, *unused: int) -> None:
        if phase == "safety dump":
            scene.server.sql(f"BEGIN; {LATE}; PREPARE TRANSACTION 'late'", scene.database)

    try:
        with pytest.raises(FiredrillError) as caught:
            restored(scene, obstruct, method="replace")
    finally:
        scene.server.sql("ROLLBACK PREPARED 'late'", scene.database)
    said = str(caught.value)
    assert "could not be dropped" in said
    assert "live database is as it was" in said
    assert safety_set(scene) in said
    assert (scene.oid(), scene.data()) == (oid, LIVE)
    assert scene.running() == [True, True]
    assert scene.journal()[-1]["step"] == "failed"


def test_a_template_is_not_replaced_and_nothing_is_stopped(scene):
    starts, files = scene.app_starts(), scene.files()
    scene.server.sql(f"ALTER DATABASE {scene.database} IS_TEMPLATE true")
    try:
        with pytest.raises(RefusedError, match="is a template"):
            restored(scene, method="replace")
    finally:
        scene.server.sql(f"ALTER DATABASE {scene.database} IS_TEMPLATE false")
    assert scene.app_starts() == starts
    assert scene.files() == sorted([*files, f"{scene.database}.journal"])
    assert scene.data() == LIVE


def test_a_signal_in_the_drop_puts_the_safety_dump_back(scene):
    patch = """
drop = restore_methods.drop_database
def drop_and_be_told(session, name):
    restore_methods.drop_database = drop
    drop(session, name)
    os.kill(os.getpid(), signal.SIGTERM)
restore_methods.drop_database = drop_and_be_told
"""
    said = words(scene.start_restore(IMPORTS + patch, method="replace"))
    assert "SIGTERM" in said
    assert "put back" in said
    assert "the application was started again" in said
    assert scene.data() == LIVE
    assert scene.running() == [True, True]
    assert scene.journal()[-1]["step"] == "failed"


# -- the way back ------------------------------------------------------------------------------------


def test_a_signal_on_the_way_back_does_not_end_it(scene):
    patch = """
load = restore_methods.load
def be_told_and_load(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    load(*arguments, **options)
restore_methods.load = be_told_and_load
"""
    said = words(scene.start_restore(IMPORTS + patch, method="replace", post_sql=FAILING))
    assert "put back" in said
    assert safety_set(scene) in said
    assert scene.data() == LIVE
    assert scene.running() == [True, True]
    assert scene.journal()[-1]["step"] == "failed"


@pytest.mark.parametrize(
    "patch",
    [
        """
def die(*unused, **options):
    os.kill(os.getpid(), signal.SIGKILL)
restore_methods.load = die
""",
        """
create = restore_methods.create_database
def create_twice_and_die(*arguments):
    create(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
def create_once(*arguments):
    restore_methods.create_database = create_twice_and_die
    return create(*arguments)
restore_methods.create_database = create_once
""",
        """
load = restore_methods.load
def load_and_die(*arguments, **options):
    load(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
restore_methods.load = load_and_die
""",
    ],
    ids=["before the load", "after the create", "after the load"],
)
def test_a_way_back_that_was_killed_is_no_live_database(scene, patch):
    killed(scene, patch, post_sql=FAILING)
    for unused_one in range(2):
        with pytest.raises(SetError) as caught:
            settled(scene)
        assert "is not back" in str(caught.value)
        assert safety_set(scene) in str(caught.value)
    assert scene.running() == [False, False]
    restored(scene, source=safety_set(scene), stop_services=())
    assert scene.data() == LIVE
    assert scene.running() == [True, True]
    assert scene.beside() == []


def test_a_way_back_that_was_killed_after_its_end_is_known_to_be_complete(scene):
    killed(scene, RENAMED, post_sql=FAILING)
    safety = safety_set(scene)
    assert safety in settled(scene).msg
    assert scene.data() == LIVE
    assert scene.running() == [True, True]
    # What is in the database is not what was to be restored.
    assert restored(scene).changed
    assert scene.data() == RESTORED


def test_a_property_that_the_way_back_cannot_set_is_told(scene):
    patch = """
def refuse(session, name, properties):
    return ["work_mem of nobody"]
restore_methods.apply_properties = refuse
"""
    said = words(scene.start_restore(IMPORTS + patch, method="replace", post_sql=FAILING))
    assert "put back" in said
    assert "could not be set: work_mem of nobody" in said
    assert scene.data() == LIVE
    assert scene.running() == [True, True]


def test_a_server_that_the_load_brought_down_is_waited_for_on_the_way_back(scene):
    crash = SqlScript(sql="COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'")
    with pytest.raises(FiredrillError) as caught:
        restored(scene, method="replace", post_sql=(crash,))
    assert "put back from the set" in str(caught.value)
    assert scene.data() == LIVE
    assert scene.running() == [True, True]
    assert scene.beside() == []


def test_the_copy_of_a_swap_whose_load_brought_the_server_down_goes_when_it_is_up_again(scene):
    crash = SqlScript(sql="COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'")
    with pytest.raises(FiredrillError, match="live database was not touched") as caught:
        restored(scene, post_sql=(crash,))
    assert "still there" not in str(caught.value)
    assert scene.beside() == []
    assert scene.data() == LIVE


def test_a_disk_of_the_sets_that_fills_up_after_the_drop_keeps_no_restore_from_its_end(
    stage, tmp_path, clean_up_after
):
    with small_disk(tmp_path / "disk", "8m") as disk:
        scene = stage(disk / "sets")
        filler, journal = disk / "filler", disk / "sets" / f"{scene.database}.journal"

        def fill(phase: str, *unused: int) -> None:
            if phase != "analyze" or filler.exists():
                return
            with journal.open("a") as file:
                # As one of many restores, it ends where a block ends.
                file.write(" " * (-journal.stat().st_size % os.statvfs(disk).f_bsize))
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(4096)):
                    pass

        try:
            restored(scene, fill, method="replace", safety_dump=False)
            assert filler.exists()
            assert scene.data() == RESTORED
            assert scene.running() == [True, True]
            assert not settled(scene).changed
            assert not restored(scene).changed
        finally:
            end(scene)


def test_a_failure_without_a_safety_dump_leaves_no_copy_that_fills_the_disk(scene):
    with pytest.raises(FiredrillError, match="was dropped and is not back"):
        restored(scene, method="replace", safety_dump=False, post_sql=FAILING)
    assert scene.beside() == []
    restored(scene, stop_services=())
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]


# -- what cannot be restored under another name ------------------------------------------------------


@pytest.fixture
def only_here(scene: Scene) -> Iterator[str]:
    """An extension that the live database has and no database of another name can have, as pg_cron is one."""
    share = docker("exec", scene.server.name, "pg_config", "--sharedir") + "/extension"
    script = (
        f"DO $$ BEGIN IF current_database() <> '{scene.database}'"
        " THEN RAISE EXCEPTION 'not in this database'; END IF; END $$;"
    )
    files = {
        "only_here.control": "default_version = '1'\nrelocatable = true\n",
        "only_here--1.sql": script,
    }
    for name, text in files.items():
        command = f'printf %s "$1" > {share}/{name}'
        docker("exec", "-u", "root", scene.server.name, "sh", "-c", command, "sh", text)
    scene.server.sql("CREATE EXTENSION only_here", scene.database)
    yield "only_here"
    paths = [f"{share}/{name}" for name in files]
    docker("exec", "-u", "root", scene.server.name, "rm", *paths)


def test_an_extension_that_the_way_back_cannot_have_is_told_before_anything_is_stopped(
    scene, only_here
):
    oid, starts, files = scene.oid(), scene.app_starts(), scene.files()
    with pytest.raises(RefusedError) as caught:
        restored(scene, method="replace")
    said = str(caught.value)
    assert "extension only_here cannot be created" in said
    assert "not in this database" in said
    assert "application was not stopped" in said
    assert "RECOVERY.md" in said
    assert (scene.oid(), scene.data(), scene.app_starts()) == (oid, LIVE, starts)
    assert scene.beside() == []
    # No safety dump was made for it.
    assert scene.files() == sorted([*files, f"{scene.database}.journal"])
    assert scene.journal()[-1]["step"] == "failed"


def test_an_extension_of_the_live_database_alone_keeps_no_swap_from_being_made(scene, only_here):
    restored(scene)
    assert scene.data() == RESTORED
    extension = "SELECT count(*) FROM pg_extension WHERE extname = 'only_here'"
    assert scene.server.sql(extension, scene.database) == "0"


@pytest.mark.parametrize("method", ["swap", "replace"])
def test_an_extension_that_the_copy_cannot_have_is_told_before_anything_is_stopped(
    scene, only_here, method
):
    scene.server.backup(scene.directory, scene.database)
    oid, starts = scene.oid(), scene.app_starts()
    with pytest.raises(RefusedError, match="extension only_here cannot be created"):
        restored(scene, method=method, safety_dump=False)
    assert (scene.oid(), scene.data(), scene.app_starts()) == (oid, LIVE, starts)
    assert scene.beside() == []


# -- where there was no database ---------------------------------------------------------------------


@pytest.fixture
def blank(scene: Scene) -> Scene:
    scene.server.sql(f"DROP DATABASE {scene.database}")
    return scene


def test_a_failure_where_there_was_no_database_leaves_none_and_starts_the_application(blank):
    with pytest.raises(FiredrillError) as caught:
        restored(blank, post_sql=FAILING)
    said = str(caught.value)
    assert f'There is no database "{blank.database}", as before' in said
    assert "the application was started again" in said
    assert "dropped" not in said
    assert blank.oid() == ""
    assert blank.beside() == []
    assert blank.running() == [True, True]
    assert blank.journal()[-1]["step"] == "failed"


def test_a_kill_where_there_was_no_database_is_no_reason_to_refuse_a_fresh_cluster(blank):
    process = blank.start_held_restore()
    process.kill()
    process.wait(WAIT_S)
    blank.release()
    await_that(lambda: blank.sessions() == 0, "the sessions of the killed restore end")
    report = restored(blank, fresh_cluster=True)
    said = " ".join(report.warnings)
    assert f'there is no database "{blank.database}"' in said
    assert "unfinished copy" in said
    assert blank.data() == RESTORED
    assert blank.running() == [True, True]
    assert blank.beside() == []


# -- who comes meanwhile -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["swap", "replace"])
def test_a_database_that_comes_or_goes_between_the_look_and_the_rename_is_dealt_with(
    scene, monkeypatch, method
):
    original, looks = swap.database_oid, []

    def look(session: Any, name: str) -> int | None:
        found = original(session, name)
        if name == scene.database and not looks:
            looks.append(found)
            if found is None:
                scene.server.sql(f"CREATE DATABASE {name} TEMPLATE pristine_{name}")
            else:
                scene.server.sql(f"DROP DATABASE {name} WITH (FORCE)")
        return found

    def exchange(*arguments: Any, **options: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(swap, "database_oid", look)
            swap.exchange(*arguments, **options)

    module = cutover if method == "swap" else restore_methods
    monkeypatch.setattr(module, "exchange", exchange)
    restored(scene, method=method)
    assert len(looks) == 1
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]
    assert [scene.data(name) for name in scene.beside()] == ([] if method == "swap" else [LIVE])


def test_a_client_that_nobody_stopped_finds_no_database_while_it_is_filled(scene):
    answers: dict[str, str] = {}

    def write(phase: str, *unused: int) -> None:
        # The safety dump before is verified too.
        if phase == "load" or (answers and phase in ("verify", "analyze")):
            with pytest.raises(AssertionError) as refused:
                scene.server.sql(LATE, scene.database)
            answers[phase] = str(refused.value)

    restored(scene, write, method="replace")
    assert list(answers) == ["load", "verify", "analyze"]
    assert all("does not exist" in text for text in answers.values())
    assert scene.data() == RESTORED
    assert scene.beside() == []


@pytest.mark.parametrize("options", [{}, {"post_sql": FAILING}], ids=["restored", "put back"])
def test_a_database_that_a_client_made_meanwhile_is_kept_beside(scene, options):
    def make(phase: str, *unused: int) -> None:
        if phase == "load" and not scene.oid():
            scene.server.sql(f"CREATE DATABASE {scene.database} TEMPLATE pristine_{scene.database}")
            scene.server.sql(LATE, scene.database)

    if options:
        with pytest.raises(FiredrillError, match="put back") as caught:
            restored(scene, make, method="replace", **options)
        said = str(caught.value)
    else:
        said = " ".join(restored(scene, make, method="replace", **options).warnings)
    assert scene.data() == (LIVE if options else RESTORED)
    (kept,) = scene.beside()
    assert f'kept as "{kept}"' in said
    assert scene.data(kept) == "302|2000"
    assert scene.running() == [True, True]


def test_an_empty_database_that_a_client_made_after_a_kill_is_none(half_replaced):
    scene = half_replaced
    scene.server.sql(f"CREATE DATABASE {scene.database}")
    with pytest.raises(SetError, match="is not back"):
        settled(scene)
    assert scene.running() == [False, False]
    restored(scene, stop_services=())
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]


# -- what a kill left --------------------------------------------------------------------------------


def test_a_container_that_is_gone_since_keeps_no_restore_from_being_made(scene):
    name = start_app(scene.server.image)
    ident = docker("inspect", "-f", "{{.Id}}", name)
    try:
        process = scene.start(
            "restore.restore",
            IMPORTS,
            stop_services=(name, *scene.services),
            method="replace",
            post_sql=FAILING,
            safety_dump=False,
        )
        assert "is not back" in words(process)
    finally:
        remove(name)
    report = restored(scene, stop_services=())
    assert (
        f"container {ident[:12]}, which the killed restore had stopped, is gone" in report.warnings
    )
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]


def test_half_a_copy_that_somebody_gave_the_live_name_is_not_taken_for_complete(half_replaced):
    scene = half_replaced
    (copy,) = scene.beside()
    scene.server.sql(f"ALTER DATABASE {copy} RENAME TO {scene.database}")
    with pytest.raises(SetError, match="is not back"):
        settled(scene)
    assert scene.running() == [False, False]
    restored(scene, stop_services=())
    assert scene.data() == RESTORED


def test_a_replace_that_was_killed_right_after_its_rename_is_known_to_be_complete(scene):
    killed(scene, RENAMED)
    assert scene.running() == [False, False]
    assert "it is complete" in settled(scene).msg
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]
    assert not restored(scene).changed


def test_a_rename_that_was_not_answered_is_known_by_its_oid(scene, monkeypatch):
    original = restore_methods.exchange

    def lose(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        raise TargetError("the connection was lost")

    monkeypatch.setattr(restore_methods, "exchange", lose)
    with pytest.raises(FiredrillError, match="complete all the same"):
        restored(scene, method="replace")
    monkeypatch.undo()
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]
    assert not restored(scene).changed


def test_an_unfinished_copy_goes_with_the_settlement_and_its_room_is_counted_before(
    half_replaced, monkeypatch
):
    scene = half_replaced
    (copy,) = scene.beside()
    size = int(scene.server.sql(f"SELECT pg_database_size('{copy}')"))
    # As much as is needed, but for what the copy takes.
    needed = preflight.room_for(
        Manifest.from_json(
            (scene.directory / f"{scene.set_name}.json").read_text(), ""
        ).source.database_bytes
    )
    monkeypatch.setattr(preflight, "_wal_growth", lambda *unused: 0)
    monkeypatch.setattr(preflight, "free_bytes_inside", lambda *unused: needed - size)
    assert restored(scene, check=True).changed
    monkeypatch.setattr(preflight, "free_bytes_inside", lambda *unused: needed - size - 1)
    with pytest.raises(RefusedError, match="free some space"):
        restored(scene, check=True)
    monkeypatch.undo()
    with pytest.raises(SetError) as caught:
        settled(scene)
    assert f'its unfinished copy "{copy}" was dropped' in str(caught.value)
    assert scene.beside() == []


def test_a_second_replace_that_is_killed_before_its_load_does_not_make_the_remains_good(
    half_replaced,
):
    scene = half_replaced
    patch = """
def die(*unused):
    os.kill(os.getpid(), signal.SIGKILL)
restore_methods.create_database = die
"""
    killed(scene, patch)
    with pytest.raises(SetError, match="is not back"):
        settled(scene)
    assert scene.running() == [False, False]
    restored(scene, stop_services=())
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]
    assert scene.beside() == []


def test_a_database_whose_drop_was_cut_short_is_not_used(scene):
    patch = """
def die(*unused):
    os.kill(os.getpid(), signal.SIGKILL)
restore_methods.drop_database = die
"""
    killed(scene, patch)
    # What the server itself leaves when it goes down in the middle of a DROP.
    scene.server.sql(f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{scene.database}'")
    with pytest.raises(SetError) as caught:
        settled(scene)
    assert "is not back" in str(caught.value)
    assert safety_set(scene) in str(caught.value)
    assert scene.running() == [False, False]
    restored(scene, source=safety_set(scene), stop_services=())
    assert scene.data() == LIVE
    assert scene.running() == [True, True]


def test_a_rollback_to_a_database_whose_drop_was_cut_short_is_refused(scene):
    kept = restored(scene).details["previous"]
    scene.server.sql(f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{kept}'")
    request = RestoreRequest(scene.server.target(scene.database), scene.directory)
    with pytest.raises(RefusedError, match="was cut short"):
        roll_back(request)
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]


def test_what_the_engine_started_without_its_database_is_stopped_and_told(half_replaced):
    scene = half_replaced
    docker("start", scene.services[0])
    with pytest.raises(SetError) as caught:
        settled(scene)
    said = str(caught.value)
    assert f"{scene.services[0]} had been started without it and was stopped" in said
    assert scene.services[1] not in said
    assert scene.running() == [False, False]


def test_a_refusal_after_a_killed_replace_forgets_nothing(half_replaced):
    scene = half_replaced
    safety = safety_set(scene)
    for name in (safety, scene.set_name):
        (scene.directory / f"{name}.json").rename(scene.directory / f"{name}.hidden")
    dump = str(scene.directory / f"{scene.set_name}.dump")
    with pytest.raises(RefusedError, match="no live database and no manifest"):
        restored(scene, source=dump, verify=False, stop_services=())
    with pytest.raises(SetError, match=safety):
        settled(scene)
    for name in (safety, scene.set_name):
        (scene.directory / f"{name}.hidden").rename(scene.directory / f"{name}.json")
    restored(scene, stop_services=())
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]


def test_remains_are_restored_in_a_tablespace_that_the_server_has(half_replaced):
    scene = half_replaced
    path = scene.directory / f"{safety_set(scene)}.json"
    manifest = Manifest.from_json(path.read_text(), str(path))
    properties = replace(manifest.properties, tablespace="gone")
    path.write_text(replace(manifest, properties=properties).to_json())
    report = restored(scene, stop_services=())
    assert "no tablespace gone" in " ".join(report.warnings)
    assert scene.data() == RESTORED


# -- the application's containers --------------------------------------------------------------------


def stubborn(image: str) -> str:
    """A container that does not end when it is asked to."""
    name = f"fdt-app-{uuid.uuid4().hex[:8]}"
    settings = ["--network", "none", "--label", LABEL, "--entrypoint", "sh"]
    script = 'trap "" TERM; while :; do sleep 1; done'
    docker("run", "-d", "--name", name, *settings, image, "-c", script)
    return name


def happened(name: str, event: str, since: float) -> bool:
    """Whether the engine told that event of a container."""
    period = ["--since", f"{since:.3f}", "--until", f"{time.time():.3f}"]
    return bool(
        docker("events", *period, "--filter", f"container={name}", "--filter", f"event={event}")
    )


@pytest.mark.parametrize("method", ["swap", "replace"])
def test_a_signal_while_a_container_stops_does_not_leave_it_stopped(scene, method):
    name = stubborn(scene.server.image)
    try:
        since = time.time()
        patch = "from _engine import containers\ncontainers._STOP_GRACE_S = 5"
        process = scene.start("restore.restore", patch, stop_services=(name,), method=method)
        await_that(lambda: happened(name, "kill", since), "its stop begins")
        process.terminate()
        said = words(process)
        assert "SIGTERM" in said
        assert "the application was started again" in said
        await_that(lambda: happened(name, "die", since), "its stop ends", 40)
        await_that(
            lambda: docker("inspect", "-f", "{{.State.Running}}", name) == "true", "it runs", 10
        )
        assert scene.data() == LIVE
    finally:
        remove(name)


@pytest.mark.parametrize("first", [0, 1])
def test_a_container_in_the_network_of_another_starts_after_it_whatever_their_order(scene, first):
    owner = scene.services[0]
    guest = f"fdt-app-{uuid.uuid4().hex[:8]}"
    settings = ["--label", LABEL, "--stop-signal", "SIGKILL", "--entrypoint", "sleep"]
    network = f"container:{owner}"
    docker("run", "-d", "--name", guest, "--network", network, *settings, scene.server.image, "999")
    try:
        pair = (owner, guest) if first == 0 else (guest, owner)
        report = restored(scene, stop_services=pair)
        assert [text for text in report.warnings if "could not be started" in text] == []
        assert scene.running() == [True, True]
        assert docker("inspect", "-f", "{{.State.Running}}", guest) == "true"
    finally:
        remove(guest)


def test_a_settlement_is_not_the_end_while_a_container_does_not_start(scene, tmp_path):
    directory = tmp_path / "of the application"
    directory.mkdir()
    mount = f"type=bind,source={directory},target=/mnt"
    name = start_app(scene.server.image, "--mount", mount)
    try:
        patch = """
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
cutover.exchange = die
"""
        process = scene.start("restore.restore", patch, stop_services=(name, *scene.services))
        process.communicate(timeout=WAIT_S)
        assert process.returncode == -9
        shutil.rmtree(directory)
        for unused_one in range(2):
            with pytest.raises(HostError) as caught:
                settled(scene)
            assert "could not be started" in str(caught.value)
            # Another one does not suffer from it.
            assert scene.running() == [True, True]
        # Nor do the backups.
        report = scene.server.backup(scene.directory, scene.database)
        assert report.changed
        assert "could not be started" in " ".join(report.warnings)
        directory.mkdir()
        assert settled(scene).changed
        assert docker("inspect", "-f", "{{.State.Running}}", name) == "true"
        assert not settled(scene).changed
    finally:
        remove(name)


def test_a_container_that_is_gone_is_waited_for_by_no_settlement(scene):
    name = start_app(scene.server.image)
    try:
        patch = """
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
cutover.exchange = die
"""
        process = scene.start("restore.restore", patch, stop_services=(name, *scene.services))
        process.communicate(timeout=WAIT_S)
        assert process.returncode == -9
    finally:
        remove(name)
    report = settled(scene)
    assert "is gone" in report.msg
    assert scene.running() == [True, True]
    assert not settled(scene).changed


@pytest.mark.parametrize("method", ["swap", "replace"])
def test_a_container_that_is_gone_makes_no_complete_restore_a_failure(scene, method):
    name = start_app(scene.server.image)
    ident = docker("inspect", "-f", "{{.Id}}", name)
    entered = []

    def take_away(phase: str, *unused: int) -> None:
        entered.append(phase)
        # The phase is entered to stop, and once more to start what was stopped.
        if phase == "downtime" and entered.count(phase) == 2:
            remove(name)

    try:
        report = restored(scene, take_away, method=method, stop_services=(name, *scene.services))
    finally:
        remove(name)
    assert report.changed
    assert f"container {ident[:12]} is gone" in report.warnings
    assert scene.data() == RESTORED
    assert scene.running() == [True, True]
