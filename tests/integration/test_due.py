# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The schedule of a host: one run at a time, however often it is called."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import IMAGES, ROOT, Postgres, own_volumes
from times import time_far_off

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.report import (
    LOG_NAME,
    read_log,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BUSY = 7
#: In a throwaway server, which runs without fsync, the load of the set takes seconds, so that it can be stopped in it.
_SLOW = """
CREATE FUNCTION slow() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF pg_catalog.current_setting('fsync') = 'off' THEN
    PERFORM pg_catalog.pg_sleep(10);
  END IF;
  RETURN true;
END $$;
CREATE TABLE t (x int CHECK (slow()));
INSERT INTO t VALUES (1);
"""


@pytest.fixture(scope="session")
def image() -> str:
    """One version is enough: the schedule does not depend on it."""
    return IMAGES[-1]


@pytest.fixture
def command(tmp_path: Path, postgres: Postgres, sets: Path) -> list[str]:
    """The schedule's command; a backup is due, and after it a drill."""
    database = postgres.create(content=_SLOW)
    config = tmp_path / "config.yml"
    databases = {database: {"container": postgres.name}}
    config.write_text(json.dumps({"backup_dir": str(sets), "databases": databases}))
    schedule = {"backup": time_far_off(), "drill": {"day": 1, "time": time_far_off()}}
    (tmp_path / "schedule.yml").write_text(json.dumps(schedule))
    return [str(ROOT / "firedrill"), "--config", str(config), "due"]


def call(command: list[str], status: int) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def checked_at(figures: Path) -> float:
    """When the host was looked at, as the figures for Prometheus say, in seconds since 1970."""
    name = "firedrill_checked_timestamp_seconds{"
    (line,) = (line for line in figures.read_text().splitlines() if line.startswith(name))
    return float(line.rpartition(" ")[2])


@pytest.fixture
def first(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A run of the schedule that stands still in the middle of its drill."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        said = next((line for line in process.stderr if ": load" in line), "")
        process.send_signal(signal.SIGSTOP)
        assert said, process.poll()
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("schedule_turn", "clean_up_after")
def test_a_schedule_that_would_overlap_its_own_drill_is_refused_and_the_drill_ends_well(
    command: list[str], first: subprocess.Popen[str], sets: Path
) -> None:
    # Its volume: the server lives as long; containers beside it may come and go.
    throwaway = own_volumes(first.pid)
    assert throwaway
    refused = call(command, BUSY)
    assert "Another run is doing the same" in refused
    assert f"process {first.pid}" in refused
    assert own_volumes(first.pid) == throwaway
    first.send_signal(signal.SIGCONT)
    unused_out, errors = first.communicate()
    assert first.returncode == 0, errors
    (drilled,) = read_log(sets / LOG_NAME)
    assert drilled["verdict"] == "pass"
    # All that was due is done.
    call(command, 0)
    assert len(read_log(sets / LOG_NAME)) == 1
    assert len(list(sets.glob("*.dump"))) == 1


@pytest.mark.usefixtures("schedule_turn", "clean_up_after", "first")
def test_while_one_run_stands_still_the_next_tells_how_the_host_stands(
    command: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.yml"
    content = {**json.loads(config.read_text()), "alarms": {"metrics_dir": str(tmp_path)}}
    config.write_text(json.dumps(content))
    figures = tmp_path / "firedrill.prom"
    call(command, BUSY)
    once = checked_at(figures)
    time.sleep(1.1)
    call(command, BUSY)
    assert checked_at(figures) > once
    # The set is there, and its drill still under way.
    assert "firedrill_sets{" in figures.read_text()
    assert "firedrill_last_drill_timestamp_seconds" not in figures.read_text()
