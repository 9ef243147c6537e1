# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup disk that is not mounted: no set goes to the card below its empty mount point, and nothing is told every hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import mounts, notes, run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.alarms import Told
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import Section
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import HostError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Target,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.mounts import not_mounted
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.settling import (
    SettleRequest,
    settle_interrupted,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.status import status_rows
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


def test_a_link_to_the_disk_is_seen_through(disk: Disk, tmp_path: Path) -> None:
    link = tmp_path / "backups"
    link.symlink_to(disk.sets)
    assert not_mounted(link)


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
