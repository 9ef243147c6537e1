# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults before and in the middle of a dump: each ends in one message and leaves no file behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from servers import (
    Postgres,
    await_final_server,
    await_that,
    bulk,
    docker,
    engine_process,
    own_containers,
    own_directories,
    remove,
    start_postgres,
)

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import (
    BackupRequest,
    backup,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    BusyError,
    FiredrillError,
    HostError,
    InterruptedRun,
    TargetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    load_set,
)

pytestmark = [pytest.mark.integration, pytest.mark.newest_only, pytest.mark.slow]

#: Enough that pg_dump still has most of it to send when the first bytes arrive.
MEGABYTES = 12


@pytest.fixture(scope="module")
def bulky(postgres: Postgres) -> str:
    return postgres.create(content=bulk(MEGABYTES))


@pytest.fixture(scope="module")
def breakable(image: str) -> Iterator[Postgres]:
    server = start_postgres(image)
    server.create("bulky", bulk(MEGABYTES).replace("UNLOGGED", ""))
    yield server
    remove(server.name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of 10 MB, which is more than the dump seems to need and less than it does."""
    directory = tmp_path / "small"
    directory.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m,mode=700", "t", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


def dump(
    server: Postgres, directory: Path, database: str, at: dict[str, Callable[[], object]]
) -> Report:
    """A backup during which something happens, once, when a phase begins; in `dump` when its first bytes are there."""
    left = dict(at)

    def progress(phase: str, done: int, unused_total: int) -> None:
        if phase in left and (done or phase != "dump"):
            left.pop(phase)()

    request = BackupRequest(
        server.target(database), directory, compress="none", globals="globals" in at
    )
    report = backup(request, progress)
    assert not left
    return report


def no_trace(directory: Path, pid: int | None = None) -> bool:
    """No file, not even a hidden one, and no container or private directory of that process."""
    assert own_directories(pid) == []
    assert own_containers(pid) == []
    assert not directory.exists() or list(directory.iterdir()) == []
    return True


# -- refused before it begins ----------------------------------------------------------------------


def test_too_little_room_is_said_with_both_numbers_and_nothing_is_written(
    postgres: Postgres, bulky: str, sets: Path
) -> None:
    with pytest.raises(HostError) as caught:
        postgres.backup(sets, bulky, min_free_bytes=10**18)
    text = str(caught.value)
    assert str(sets) in text
    assert "1000000.0 TB have to stay free" in text
    assert "Nothing was changed" in text
    assert "`firedrill list`" in text
    assert not sets.exists()


def test_check_mode_says_what_would_happen_and_writes_nothing(
    postgres: Postgres, bulky: str, sets: Path
) -> None:
    report = postgres.backup(sets, bulky, check=True)
    assert report.changed
    assert report.msg.startswith("Would dump")
    assert str(sets / f"{bulky}_2") in report.msg
    assert not sets.exists()
    assert no_trace(sets)


def test_a_directory_that_is_none_is_said(postgres: Postgres, bulky: str, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("kept")
    with pytest.raises(HostError, match=str(in_the_way)):
        postgres.backup(in_the_way / "sets", bulky)
    with pytest.raises(HostError, match=str(in_the_way)):
        postgres.backup(in_the_way, bulky)
    assert in_the_way.read_text() == "kept"


def test_a_second_run_is_told_who_is_at_it_and_the_first_goes_on(
    postgres: Postgres, bulky: str, sets: Path
) -> None:
    said = []

    def second_run() -> None:
        with pytest.raises(BusyError) as caught:
            postgres.backup(sets, bulky)
        said.append(str(caught.value))

    report = dump(postgres, sets, bulky, {"dump": second_run})
    assert bulky in said[0]
    assert f"a backup, process {os.getpid()}, since 2" in said[0]
    assert "Wait" in said[0]
    assert [path.name for path in sets.glob("*.dump")] == [f"{report.set_name}.dump"]


# -- the disk --------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_in_the_dump_is_one_message_and_leaves_no_file(
    postgres: Postgres, bulky: str, small_disk: Path
) -> None:
    with pytest.raises(HostError) as caught:
        postgres.backup(small_disk, bulky, compress="none")
    text = str(caught.value)
    assert f"The disk of {small_disk} is full" in text
    assert "No file was written" in text
    assert "Free some space" in text
    assert no_trace(small_disk)
    room = os.statvfs(small_disk)
    assert room.f_bavail == room.f_blocks


@pytest.mark.parametrize("phase", ["verify", "globals"])
def test_a_disk_that_fills_up_after_the_dump_leaves_no_half_set(
    postgres: Postgres, small_disk: Path, phase: str
) -> None:
    name = postgres.create(content=bulk(1))
    filler = small_disk / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    with pytest.raises(HostError, match=r"disk of .* is full"):
        dump(postgres, small_disk, name, {phase: fill})
    filler.unlink()
    assert no_trace(small_disk)


# -- something dies --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["kill", "restart"])
def test_a_container_that_dies_in_the_dump_is_said_and_leaves_no_file(
    breakable: Postgres, sets: Path, fault: str
) -> None:
    docker("start", breakable.name)
    await_final_server(breakable)
    with pytest.raises(TargetError) as caught:
        dump(breakable, sets, "bulky", {"dump": lambda: docker(fault, breakable.name)})
    text = str(caught.value)
    assert breakable.name in text
    assert "No file was written; the database was only read" in text
    assert "again" in text
    assert no_trace(sets)


def test_a_session_that_an_administrator_ends_leaves_no_file(
    postgres: Postgres, bulky: str, sets: Path
) -> None:
    end_all = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{bulky}' AND application_name = 'firedrill'"
    )
    with pytest.raises(FiredrillError, match="went away") as caught:
        dump(postgres, sets, bulky, {"dump": lambda: postgres.sql(end_all)})
    assert "No file was written" in str(caught.value)
    assert no_trace(sets)


def test_a_pg_dump_that_is_killed_is_said_and_leaves_no_file(
    postgres: Postgres, bulky: str, sets: Path
) -> None:
    # `docker kill` returns only when what pg_dump has written so far was read, which is by us.
    def kill() -> None:
        (sidecar,) = own_containers()
        os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", sidecar)), signal.SIGKILL)

    with pytest.raises(FiredrillError, match="pg_dump was killed") as caught:
        dump(postgres, sets, bulky, {"dump": kill})
    assert "No file was written" in str(caught.value)
    assert no_trace(sets)


_HELD = """
import os, signal, sys, time
from pathlib import Path
from _engine.dump import BackupRequest, backup
from _engine.errors import FiredrillError
from _engine.model import Target
if {named}:
    # Opening a directory with it fails as open(2) says it does where O_TMPFILE is not known.
    os.O_TMPFILE = os.O_DIRECTORY

def hold(phase, done, total):
    if phase == "dump" and done:
        print("dumping", flush=True)
        if {timeout_s}:
            # The time limit is moved to this moment.
            signal.setitimer(signal.ITIMER_REAL, 1)
        time.sleep(600)

try:
    backup(BackupRequest(Target({database!r}, container={container!r}), Path({directory!r}),
                         compress="none", timeout_s={timeout_s}), hold)
except FiredrillError as error:
    print(type(error).__name__, error)
    sys.exit(3)
"""


@pytest.fixture
def held(
    postgres: Postgres, bulky: str, sets: Path, clean_up_after: None
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts an engine process that stops in the middle of its dump."""
    processes = []

    def start(named: bool = False, timeout_s: float = 0) -> subprocess.Popen[str]:
        code = _HELD.format(
            named=named,
            database=bulky,
            container=postgres.name,
            directory=str(sets),
            timeout_s=timeout_s,
        )
        process = engine_process(code)
        processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == "dumping\n", process.communicate()
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("ended_by", "named"),
    [("SIGTERM", False), ("SIGTERM", True), ("SIGHUP", False), ("time limit", False)],
)
def test_a_dump_that_is_ended_says_so_and_leaves_no_file(
    held: Callable[..., subprocess.Popen[str]], sets: Path, ended_by: str, named: bool
) -> None:
    if ended_by == "time limit":
        process = held(named, timeout_s=300)
    else:
        process = held(named)
        process.send_signal(signal.Signals[ended_by])
    told, errors = process.communicate(timeout=180)
    assert process.returncode == 3
    assert told.startswith("InterruptedRun The backup was ended by")
    assert ended_by in told
    assert "No file was written; the database was only read. Run it again." in told
    assert errors == ""
    assert no_trace(sets, process.pid)


@pytest.mark.parametrize("named", [False, True])
def test_sigkill_in_a_dump_leaves_nothing_running_and_the_next_run_clears_up(
    held: Callable[..., subprocess.Popen[str]],
    postgres: Postgres,
    bulky: str,
    sets: Path,
    named: bool,
) -> None:
    """`named`: on a file system without O_TMPFILE, where a hidden file stays until then."""
    process = held(named)
    process.kill()
    process.wait()
    running = ["ps", "-q", "--no-trunc", *(f"--filter=id={i}" for i in own_containers(process.pid))]
    await_that(lambda: not own_containers(process.pid) or not docker(*running), "its pg_dump ends")
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{bulky}'"
    await_that(lambda: postgres.sql(sessions) == "0", "its sessions end")
    assert [path.name for path in sets.iterdir() if not path.name.endswith(".partial")] == []
    assert len(list(sets.iterdir())) == (2 if named else 0)
    report = postgres.backup(sets, bulky, globals=False)
    assert {path.name for path in sets.iterdir()} == {
        f"{report.set_name}.dump",
        f"{report.set_name}.json",
        "RECOVERY.md",
    }
    load_set(Path(report.details["path"])).check_files()
    # Other runs on this host remove leftovers, too; one may be at it.
    await_that(lambda: not own_containers(process.pid), "its containers are gone")
    assert own_directories(process.pid) == []


def test_the_time_limit_ends_a_dump_that_waits_for_a_lock(postgres: Postgres, sets: Path) -> None:
    name = postgres.create(content="CREATE TABLE t (x int)")
    migration = postgres.sql_beside("BEGIN; LOCK TABLE t; SELECT pg_sleep(600)", name)
    locked = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted"
    await_that(lambda: postgres.sql(locked, name) == "1", "the lock is held")
    with pytest.raises(InterruptedRun, match="time limit of 5 s"):
        postgres.backup(sets, name, timeout_s=5)
    assert no_trace(sets)
    postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    migration.communicate(timeout=120)


# -- memory ----------------------------------------------------------------------------------------

_MEASURED = """
import re
from pathlib import Path
from _engine.dump import BackupRequest, backup
from _engine.model import Target
report = backup(BackupRequest(Target({database!r}, container={container!r}), Path({directory!r}), compress="none"))
print(report.details["bytes"], re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_memory_stays_small_and_does_not_grow_with_the_database(
    postgres: Postgres, sets: Path
) -> None:
    # What goes through our process is what counts, so it need not be random where nothing compresses it.
    fill = "CREATE UNLOGGED TABLE {0} AS SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 225000) g;"
    name = postgres.create(content=fill.format("one"))

    def measure() -> tuple[int, int]:
        code = _MEASURED.format(database=name, container=postgres.name, directory=str(sets))
        told, errors = engine_process(code).communicate(timeout=1200)
        assert errors == ""
        size, peak_kb = told.split()
        return int(size), int(peak_kb)

    size, peak_kb = measure()
    postgres.sql(fill.format("two") + fill.format("three"), name)
    larger, larger_peak_kb = measure()
    postgres.sql(f'DROP DATABASE "{name}"')
    assert size > 130_000_000
    assert larger > 2.9 * size
    assert max(peak_kb, larger_peak_kb) < 64 * 1024
    assert abs(larger_peak_kb - peak_kb) < 6 * 1024
