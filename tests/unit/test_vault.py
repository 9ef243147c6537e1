# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files appear whole or not at all, also where the disk of the backup directory can do less than that of the system."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recovery_sets import a_manifest, lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import durable
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import _publish
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.durable import (
    hidden_name,
    maker_mark,
    sync_directory,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import HostError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.fetch import Located
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.listing import is_there
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    RecoverySet,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import (
    DOWNLOADS,
    Vault,
)


@pytest.fixture(params=["a disk of the system", "no unnamed files", "no second names either"])
def vault(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vault:
    """A directory on a disk that answers as FAT does, which this system may be unable to make."""
    real_open = os.open

    def open_named(path: str, flags: int, *more: int, **where: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real_open(path, flags, *more, **where)

    def link(*unused: object, **unused_where: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if request.param != "a disk of the system":
        monkeypatch.setattr(os, "open", open_named)
    if request.param == "no second names either":
        monkeypatch.setattr(os, "link", link)
    return Vault(tmp_path)


def test_a_file_gets_its_name_when_it_is_whole_and_leaves_nothing_else(vault: Vault) -> None:
    with vault.lock(), vault.unnamed() as file:
        file.write(b"whole")
        assert [path.name for path in vault.directory.glob("[!.]*")] == []
        file.finish()
        file.publish("a.dump")
    (made,) = vault.directory.iterdir()
    assert (made.name, made.read_bytes()) == ("a.dump", b"whole")
    assert made.stat().st_mode & 0o777 == 0o600


def make(vault: Vault, name: str) -> None:
    """Writes a file; without a name, it is given up half way."""
    with vault.unnamed() as file:
        file.write(b"second")
        if not name:
            raise ZeroDivisionError
        file.finish()
        file.publish(name)


def test_a_file_that_is_there_is_never_replaced(vault: Vault) -> None:
    (vault.directory / "a.dump").write_bytes(b"first")
    with pytest.raises(HostError, match="File exists"):
        make(vault, "a.dump")
    (kept,) = vault.directory.iterdir()
    assert kept.read_bytes() == b"first"


def test_what_is_given_up_leaves_nothing(vault: Vault) -> None:
    with pytest.raises(ZeroDivisionError):
        make(vault, "")
    assert list(vault.directory.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, 524])
def test_a_share_that_refuses_a_second_name_in_its_own_way_gets_the_file_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def link(*unused: object, **unused_where: object) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    monkeypatch.setattr(os, "link", link)
    make(Vault(tmp_path), "a.dump")
    (made,) = tmp_path.iterdir()
    assert (made.name, made.read_bytes()) == ("a.dump", b"second")


# -- a set -------------------------------------------------------------------------------------------

NAME = "shop_20260219_020000"
FILES = (f"{NAME}.dump", f"{NAME}.globals.sql", f"{NAME}.json")


def publish(vault: Vault, run: Run, before: object = None) -> None:
    """Publishes a set; `before` is called when its files are written and have no name yet."""
    with vault.unnamed() as dump, vault.unnamed() as globals_file, vault.lock():
        for file in (dump, globals_file):
            file.write(b"ours")
            file.finish()
        if callable(before):
            before()
        _publish(run, vault, a_manifest(), dump, globals_file, None)


def test_a_set_has_all_its_files(vault: Vault) -> None:
    publish(vault, Run("backup"))
    assert sorted(path.name for path in vault.directory.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("taken", FILES)
def test_the_files_of_another_host_that_took_the_name_stay(vault: Vault, taken: str) -> None:
    other = vault.directory / taken
    with pytest.raises(HostError, match="File exists"):
        publish(vault, Run("backup"), lambda: other.write_bytes(b"of another host"))
    (kept,) = vault.directory.iterdir()
    assert (kept, kept.read_bytes()) == (other, b"of another host")


def test_what_cannot_be_removed_again_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        (tmp_path / FILES[2]).write_bytes(b"of another host")
        monkeypatch.setattr(os, "unlink", refuse)

    def refuse(*unused: object, **unused_where: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    run = Run("backup")
    with pytest.raises(HostError, match="File exists"):
        publish(Vault(tmp_path), run, fail)
    assert run.state == f"{FILES[1]}, {FILES[0]} could not be removed from {tmp_path} again"


# -- the disk ----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that holds few files."""
    point = tmp_path / "disk"
    point.mkdir()
    options = "size=20m,nr_inodes=20,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "t", point], check=True)
    yield point
    subprocess.run(["umount", point], check=False, capture_output=True)


def test_a_set_of_two_disks_is_none(disk: Path) -> None:
    def leave() -> None:
        subprocess.run(["umount", "-l", disk], check=True)

    with pytest.raises(HostError, match="is not the one any more on which the dump was begun"):
        publish(Vault(disk), Run("backup"), leave)
    assert list(disk.iterdir()) == []


def fill(disk: Path) -> None:
    """As many small files as it takes."""
    with contextlib.suppress(OSError):
        for number in range(100):
            (disk / str(number)).touch()


def test_a_disk_that_takes_no_further_file_is_not_called_full(disk: Path) -> None:
    fill(disk)
    with pytest.raises(HostError, match=r"all its inodes are used \(.* free\)"):
        make(Vault(disk), "a.dump")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left"), "^The disk of {} is full"),
        (OSError(errno.EFBIG, "File too large"), "^The file system of {} takes no file that large"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "^The quota of the disk of {} is used up"),
        (OSError(errno.EIO, "Input/output error"), "^{} cannot be written: Input/output error"),
        (
            OSError(errno.EROFS, "Read-only"),
            "^{} cannot be written: Read-only. Is the disk failing",
        ),
        (OSError(errno.ENOSPC, "No space left", "/run/x"), "^The backup broke off: /run/x: No sp"),
        (ConnectionResetError(errno.ECONNRESET, "Reset"), "^The backup broke off: Reset"),
        (OSError("as of requests"), "^The backup broke off: OSError"),
    ],
)
def test_the_disk_is_blamed_for_its_own_errors_only(
    tmp_path: Path, error: OSError, words: str
) -> None:
    with pytest.raises(HostError, match=words.format(tmp_path)), Vault(tmp_path).unnamed():
        raise error


def test_what_keeps_others_out_is_told_as_the_file_system_can_do_it(tmp_path: Path) -> None:
    file = tmp_path / "a.dump"
    file.touch(0o600)
    assert Vault(tmp_path).exposed(file) == ""
    tmp_path.chmod(0o755)
    assert "others can list the sets; `chmod 700` it" in Vault(tmp_path).exposed(file)
    # On FAT, and on many shares, every file has the mode that the mount gives it.
    file.chmod(0o755)
    told = Vault(tmp_path).exposed(file)
    assert "others can read the sets" in told
    assert "`umask=077`" in told


def test_a_link_to_what_is_not_there_is_told_and_not_followed(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "absent"
    link.symlink_to(target)
    for directory in (link, link / "sets"):
        with pytest.raises(HostError, match=f"{link} is a link to {target}, which is not there"):
            Vault(directory).prepare()
    assert not target.exists()


def test_what_nobody_can_tell_is_not_called_absent(tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    (tmp_path / "file").touch()
    assert not is_there(tmp_path / "absent")
    assert not is_there(tmp_path / "file" / "sets")
    assert is_there(tmp_path)
    with pytest.raises(HostError, match="cannot be read: Too many levels"):
        is_there(circle)
    with pytest.raises(HostError, match="cannot be used: Too many levels"):
        Vault(circle).prepare()


def test_a_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    gone = Vault(tmp_path / "gone")
    with pytest.raises(HostError, match="gone cannot be read: No such file"), gone.lock():
        pass
    with pytest.raises(HostError, match="gone cannot be read: No such file"), gone.unnamed():
        pass
    assert gone.everything() == []


def test_a_set_that_goes_while_the_others_are_listed_keeps_nobody_from_them(tmp_path: Path) -> None:
    lay_out(tmp_path)
    # As a set that was removed after its name was read.
    (tmp_path / "gone_20260219_020000.dump").symlink_to(tmp_path / "gone")
    assert [one.name for one in Vault(tmp_path).everything()] == ["shop_20260219_020000"]


def test_a_directory_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for look in (Vault(circle).everything, Vault(circle).sets, Vault(circle).sweep):
        with pytest.raises(HostError, match="circle cannot be read: Too many levels"):
            look()


def test_a_download_for_which_the_disk_has_no_place_is_told(disk: Path) -> None:
    fill(disk)
    far = RecoverySet(Path("nas:shop/x.dump"), a_manifest())
    stores: Any = ("a store",)
    located = Located(far, (), stores, Run("verify"), Vault(disk))
    words = r"\.offsite-.* cannot be written: No space left"
    with pytest.raises(HostError, match=words), located.here([]):
        pass


def test_only_what_a_file_system_cannot_do_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(code: int) -> None:
        def fsync(unused: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    for code in (errno.EINVAL, errno.EOPNOTSUPP):
        answer(code)
        sync_directory(tmp_path)
    answer(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        sync_directory(tmp_path)


# -- what is left ------------------------------------------------------------------------------------


def test_what_another_host_works_at_stays_until_it_is_a_week_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_host", lambda: "another")
    other, download = tmp_path / hidden_name(), tmp_path / f"{DOWNLOADS}{maker_mark()}"
    monkeypatch.undo()
    own = tmp_path / hidden_name()
    ended = tmp_path / own.name.replace(maker_mark(), f"{maker_mark().rpartition('_')[0]}_1")
    for file in (own, other, ended):
        file.touch()
    download.mkdir()
    (download / "x.dump").touch()
    Vault(tmp_path).sweep()
    assert set(tmp_path.iterdir()) == {own, other, download}
    long_ago = time.time() - 8 * 86400
    for path in (own, other, download):
        os.utime(path, (long_ago, long_ago))
    Vault(tmp_path).sweep()
    # A long download goes on in a directory that is older.
    assert set(tmp_path.iterdir()) == {own, download}
    os.utime(download / "x.dump", (long_ago, long_ago))
    Vault(tmp_path).sweep()
    assert set(tmp_path.iterdir()) == {own}


def test_a_leftover_that_cannot_be_removed_keeps_no_backup_from_being_made(tmp_path: Path) -> None:
    # Not even root can unlink a directory.
    stays = tmp_path / ".firedrill-9999999-0badc0de.partial"
    stays.mkdir()
    os.utime(stays, (0, 0))
    Vault(tmp_path).sweep()
    assert stays.exists()
