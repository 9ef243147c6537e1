# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The journal: what it says after a power cut, with damaged lines and with names of any kind."""

from __future__ import annotations

import contextlib
import json
import platform
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import HostError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.journal import (
    Entry,
    Journal,
)


def entry(run: str = "r1", database: str = "app") -> Entry:
    return Entry(run, "restore", "swap", "db", database)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, "db", "app")


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Lets no file of this process grow beyond `size` bytes; only for a few lines, for the test's own output may be a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_step_after_a_torn_line_is_not_lost(journal: Journal) -> None:
    first = journal.write(entry())
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + whole[:40])
    journal.write(first, step="failed")
    assert journal.unfinished() is None
    assert [known.step for known in journal.entries()] == ["failed"]


def test_a_step_that_did_not_fit_on_the_disk_is_an_error_and_was_not_taken(
    journal: Journal,
) -> None:
    journal.write(entry())
    size = journal.path.stat().st_size
    with pytest.raises(HostError, match="cannot be written"), no_file_beyond(size + 40):
        journal.write(entry(), step="replacing")
    assert journal.path.stat().st_size == size + 40
    assert [known.step for known in journal.entries()] == ["begun"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    point = tmp_path / "disk"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "t", point], check=True)
    yield point
    subprocess.run(["umount", point], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass


def test_a_run_that_has_begun_can_write_its_other_steps_on_a_disk_that_filled_up(
    disk: Path,
) -> None:
    journal = Journal(disk, "db", "app")
    begun = journal.write(entry())
    fill(disk)
    for unused_step in range(20):
        journal.write(begun, step="replacing", stopped=("0" * 64,) * 10)
    assert [known.step for known in journal.entries()] == ["replacing"]


def test_a_run_does_not_begin_where_its_other_steps_would_not_fit(disk: Path) -> None:
    fill(disk)
    (disk / "filler").open("r+b").truncate(48 * 1024)
    with pytest.raises(HostError, match="cannot be written: No space left"):
        Journal(disk, "db", "app").write(entry())


def test_two_databases_whose_journals_are_one_file_keep_their_runs_apart(tmp_path: Path) -> None:
    # As on FAT, which takes `App.journal` for `app.journal`.
    (tmp_path / "app.journal").symlink_to(tmp_path / "App.journal")
    Journal(tmp_path, "db", "App").write(entry(database="App"))
    assert Journal(tmp_path, "db", "app").unfinished() is None
    assert Journal(tmp_path, "db", "App").unfinished() is not None


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe", b"[]", b"null", b"{}", b'{"run": "r2", "stopped": 7}', b"{", b"\0" * 80]
)
def test_a_damaged_line_hides_no_other_one(journal: Journal, damage: bytes) -> None:
    journal.write(entry())
    journal.path.write_bytes(damage + b"\n" + journal.path.read_bytes() + damage + b"\n")
    assert [known.run for known in journal.entries()] == ["r1"]


def test_a_killed_run_of_another_host_is_not_ours_and_one_that_names_none_is(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "another")
        journal.write(entry())
    assert journal.unfinished() is None
    # As they were written before.
    line = {key: value for key, value in asdict(entry("r2")).items() if key != "host"}
    with journal.path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    found = journal.unfinished()
    assert found
    assert found.run == "r2"
    journal.write(found, step="done")
    assert [one.host for one in journal.entries()] == ["another", platform.node()]


@pytest.mark.parametrize("name", ["app\u2028x", "app\x85x", "app\nx", "例え"])
def test_an_entry_comes_back_with_a_database_of_any_name(tmp_path: Path, name: str) -> None:
    journal = Journal(tmp_path, "db", name)
    journal.write(entry(database=name), step="done")
    last = journal.last()
    assert last is not None
    assert last.database == name
