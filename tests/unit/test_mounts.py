# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup disk that is not mounted: no set goes to the card below its empty mount point, and nothing is told every hour."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    durable,
    mounts,
    notes,
    run,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.alarms import Told
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.commands import _owner
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import Section
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.drill import (
    DrillRequest,
    drill,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.due import due_tasks
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import (
    BackupRequest,
    backup_with,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import HostError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.keyproofs import (
    Proof,
    note_proof,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.listing import list_sets
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.metrics import render
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Report,
    Target,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.mounts import not_mounted
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.prune import (
    PruneRequest,
    prune,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.report import (
    append_json,
    append_record,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.retention import Policy
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.schedule import Schedule
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.settling import (
    SettleRequest,
    settle_interrupted,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.status import status_rows
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import (
    Offsite,
    RcloneTarget,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

FSTAB = """# <file system> <mount point> <type> <options> <dump> <pass>
PARTUUID=1-02  /           ext4  defaults,noatime  0 1
UUID=2         {disk}      ext4  defaults,nofail   0 2
#UUID=3        /srv        ext4  defaults          0 2
UUID=4         none        swap  sw                0 0
"""
MOUNTED = "36 25 8:1 / {} rw,relatime shared:1 - ext4 /dev/sda1 rw\n"


class Disk:
    """A disk that fstab names, and whether it is mounted."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.point = home / "my disk"
        self.sets = self.point / "sets"
        self.point.mkdir()
        self._table = home / "mountinfo"
        written = str(self.point).replace(" ", "\\040")
        (home / "fstab").write_text(FSTAB.format(disk=written))
        monkeypatch.setattr(mounts, "FSTAB", home / "fstab")
        monkeypatch.setattr(mounts, "MOUNTINFO", self._table)
        monkeypatch.setattr(run, "RUNTIME_DIRECTORY", home / "run")
        self._line = MOUNTED.format(written)
        self.leave()

    def mount(self) -> None:
        self._table.write_text(MOUNTED.format("/") + self._line)

    def leave(self) -> None:
        self._table.write_text(MOUNTED.format("/"))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def test_a_disk_of_fstab_that_is_not_mounted_gets_no_set(disk: Disk, tmp_path: Path) -> None:
    for directory in (disk.sets, disk.point):
        with pytest.raises(HostError, match=r"my disk is in .*fstab, but nothing is mounted there"):
            Vault(directory).prepare()
    assert list(disk.point.iterdir()) == []
    # Others have nothing to do with it.
    assert Vault(tmp_path / "my disks").prepare()
    disk.mount()
    assert Vault(disk.sets).prepare()
    assert not Vault(disk.sets).prepare()


def test_neither_a_proof_nor_the_record_of_a_drill_is_hidden_by_the_disk_when_it_comes_back(
    disk: Disk,
) -> None:
    """A set that is named by its path may lie elsewhere."""
    found = Report("drill", changed=False, msg="pass: shop")
    writers: list[Callable[[], object]] = [
        lambda: note_proof(disk.sets, "shop", Proof.now("shop_20260219_020000", (), ())),
        lambda: append_json(disk.sets / "drills.jsonl", found),
        lambda: append_record(disk.sets / "DRILLS.md", found),
    ]
    for write in writers:
        with pytest.raises(HostError, match=r"my disk is in .*fstab, but nothing is mounted there"):
            write()
    assert list(disk.point.iterdir()) == []
    disk.mount()
    disk.sets.mkdir()
    for write in writers:
        write()
    assert len(list(disk.sets.iterdir())) == 3


def test_a_link_to_the_disk_is_seen_through(disk: Disk, tmp_path: Path) -> None:
    link = tmp_path / "backups"
    link.symlink_to(disk.sets)
    assert not_mounted(link)


def test_a_link_in_fstab_is_seen_through(disk: Disk, tmp_path: Path) -> None:
    link = tmp_path / "backups"
    link.symlink_to(disk.point)
    (tmp_path / "fstab").write_text(FSTAB.format(disk=link))
    for directory in (disk.sets, link / "sets"):
        assert f"{link} is in" in not_mounted(directory)
    disk.mount()
    assert not_mounted(disk.sets) == not_mounted(link) == ""


@pytest.mark.parametrize("blank", ["\u00a0", "\u2028", "\u3000", "\x1c", "\r"])
def test_a_disk_may_have_any_blank_in_its_name(disk: Disk, tmp_path: Path, blank: str) -> None:
    point = tmp_path / f"my{blank}disk"
    for table, line in (("fstab", FSTAB.format(disk=point)), ("mountinfo", MOUNTED.format(point))):
        (tmp_path / table).write_bytes(line.encode())
    assert not_mounted(point) == ""
    disk.leave()
    assert not_mounted(point)


@pytest.mark.parametrize("root", ["/mnt", "/media"])
def test_a_disk_may_be_mounted_where_others_come_and_go_if_fstab_says_so(
    root: str, disk: Disk, tmp_path: Path
) -> None:
    directory = Path(root) / "no-such-directory" / "sets"
    (tmp_path / "mountinfo").write_text(MOUNTED.format(root))
    assert not_mounted(directory)
    (tmp_path / "fstab").write_text(FSTAB.format(disk=root))
    assert not_mounted(directory) == ""
    disk.leave()
    assert not_mounted(directory)


@pytest.mark.parametrize("place", ["/media/nobody/disk/sets", "/mnt/no-such-disk", "/run/media/x"])
def test_where_disks_come_and_go_nothing_is_made_without_one(
    place: str, disk: Disk, tmp_path: Path
) -> None:
    assert "nothing is mounted below" in not_mounted(Path(place))
    (tmp_path / "mountinfo").write_text(MOUNTED.format("/") + MOUNTED.format(Path(place).parent))
    parent_is_a_disk = Path(place).parent not in (Path("/mnt"), Path("/run/media"))
    assert bool(not_mounted(Path(place))) is not parent_is_a_disk
    (tmp_path / "mountinfo").write_text(MOUNTED.format(place))
    assert not_mounted(Path(place)) == ""


def test_a_host_without_such_tables_is_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "FSTAB", tmp_path / "absent")
    assert not_mounted(tmp_path / "sets") == ""


def test_the_host_says_that_its_disk_is_missing_and_not_that_there_is_no_set(disk: Disk) -> None:
    section = Section("shop", disk.sets, {"container": "none"})
    (row,) = status_rows([section], None, utc_now())
    assert "seems not to be mounted" in row["problems"][0]
    assert not [text for text in row["problems"] if "no complete set" in text]


def test_the_room_of_the_card_is_not_told_for_that_of_the_disk(disk: Disk) -> None:
    section = Section("shop", disk.sets, {"container": "none"})
    rows = status_rows([section], None, utc_now())
    assert rows[0]["free_bytes"] is None
    assert "firedrill_free_bytes" not in render(rows)
    disk.mount()
    assert "firedrill_free_bytes" in render(status_rows([section], None, utc_now()))


@pytest.fixture
def card(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory below the empty mount point, with a set of the time before there was a disk."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    disk.sets.mkdir()
    lay_out(disk.sets)
    return disk.sets


@pytest.mark.parametrize(
    "command",
    [
        list_sets,
        lambda directory: prune(PruneRequest(directory)),
        lambda directory: Vault(directory).resolve("latest", "shop"),
        lambda directory: Vault(directory).resolve("shop_20260219_020000", "shop"),
    ],
)
def test_what_lies_on_the_card_is_not_taken_for_the_sets(
    command: Callable[[Path], object], card: Path
) -> None:
    with pytest.raises(HostError, match="seems not to be mounted"):
        command(card)


def test_a_set_that_is_named_by_its_path_needs_no_other_disk(card: Path, tmp_path: Path) -> None:
    lay_out(tmp_path)
    named = str(tmp_path / "shop_20260219_020000.dump")
    assert Vault(card).resolve(named, "shop").manifest


def test_a_disk_that_is_away_hides_no_set_of_another_database(card: Path, tmp_path: Path) -> None:
    lay_out(tmp_path)
    away, here = Section("other", card), Section("shop", tmp_path)
    assert _owner([away, here], "shop_20260219_020000") is here
    with pytest.raises(HostError, match="seems not to be mounted"):
        _owner([away, here], "shop_20260220_020000")


def test_a_drill_without_the_disk_leaves_nothing_on_the_card(card: Path) -> None:
    before = sorted(card.iterdir())
    report = drill(DrillRequest(Target("shop"), card))
    assert report.verdict == "environment"
    assert "seems not to be mounted" in report.msg
    assert [text for text in report.warnings if "was not noted in the log" in text]
    assert sorted(card.iterdir()) == before


@pytest.mark.parametrize("check", [False, True])
def test_a_backup_asks_for_the_disk_before_anything_else(card: Path, check: bool) -> None:
    access: Any = SimpleNamespace(run=run.Run("backup"))
    with pytest.raises(HostError, match="seems not to be mounted"):
        backup_with(access, BackupRequest(Target("shop"), card, check=check))


def test_a_disk_that_is_away_is_told_as_a_failed_backup_only(disk: Disk) -> None:
    far = Offsite((RcloneTarget("nas", "nas:x"),))
    section = Section("shop", disk.sets, {"container": "none"}, far)
    (task,) = due_tasks([section], Schedule(), Policy(), check=True)
    assert task.action == "backup"
    with pytest.raises(HostError, match="seems not to be mounted"):
        task.call(None)


def test_what_was_interrupted_is_not_called_nothing_while_nobody_can_tell(disk: Disk) -> None:
    request = SettleRequest(Target("shop", container="none"), disk.sets)
    with pytest.raises(HostError, match="seems not to be mounted"):
        settle_interrupted(request)
    disk.mount()
    assert settle_interrupted(request).msg == "Nothing was interrupted"


def test_what_was_tried_and_told_is_known_while_the_disk_is_away_and_afterwards(disk: Disk) -> None:
    disk.mount()
    Vault(disk.sets).prepare()
    attempts, now = Attempts(disk.sets, "shop"), utc_now()
    attempts.begin("backup", now, now)
    attempts.end("backup")
    Told({"a": ("old",)}).write(disk.sets, "shop")
    away = disk.sets.rename(disk.point.with_name("away"))
    disk.leave()
    attempts.fail("backup", now, "no disk")
    Told({"a": ("new",)}).write(disk.sets, "shop")
    # Nothing of it lies on the card.
    assert list(disk.point.iterdir()) == []
    found = attempts.latest("backup")
    assert found
    assert found.msg == "no disk"
    away.rename(disk.sets)
    disk.mount()
    assert attempts.latest("backup") == found
    assert Told.read(disk.sets, "shop") == Told({"a": ("new",)})
    Told().write(disk.sets, "shop")
    assert Told.read(disk.sets, "shop") == Told()
    assert notes.read_note(disk.sets / "shop.alarms") == {
        "problems": {},
        "pings": {},
        "owed": "",
        "lost": "",
        "owed_set": "",
    }


def test_a_directory_that_cannot_be_written_keeps_no_note_from_being_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RUNTIME_DIRECTORY", tmp_path / "run")
    path = tmp_path / "absent" / "shop.alarms"
    notes.write_note(path, {"a": 1})
    assert notes.read_note(path) == {"a": 1}
    (kept,) = (tmp_path / "run").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    path.parent.mkdir()
    notes.write_note(path, {"a": 2})
    assert notes.read_note(path) == {"a": 2}
    assert list((tmp_path / "run").iterdir()) == []


def test_what_a_note_was_to_be_written_to_is_no_link_of_somebody_else(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / ".shop.alarms.new").symlink_to(victim)
    durable.replace_file(tmp_path / "shop.alarms", "{}")
    assert victim.read_text() == "kept"
    assert (tmp_path / "shop.alarms").read_text() == "{}"


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "taken" / "by a directory").mkdir(parents=True)
    with contextlib.suppress(OSError):
        durable.replace_file(tmp_path / "taken", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
