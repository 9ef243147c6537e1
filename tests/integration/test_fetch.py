# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which set `offsite:latest` means: one of this host, and none of a wrong clock; and what brings it when a target cannot.
A real rclone is asked.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    ConfigError,
    FiredrillError,
    LockedError,
    OffsiteError,
    SetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.fetch import (
    Located,
    locate,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.keyring import (
    Identity,
    open_key,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import (
    Ledger,
    unconfirmed,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Target,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.offsite import (
    CopyRequest,
    copy_sets,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import (
    Offsite,
    RcloneTarget,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

pytestmark = pytest.mark.integration

NOW = utc_now()
OWN = platform.node()


class Far:
    """A directory at a target, in which hosts leave their sets."""

    def __init__(self, room: Path) -> None:
        self.room, self.directory = room, room / "far" / "shop"
        self.directory.mkdir(parents=True)
        config = room / "rclone.conf"
        config.write_text("[disk]\ntype = local\n")
        target = RcloneTarget("disk", f"disk:{self.directory.parent}", config)
        self.offsite = Offsite((target,), "shop")

    def set_of(self, host: str, days: float) -> str:
        return lay_out(self.directory, created=NOW - timedelta(days=days), host=host).name

    def find(self, wanted: str) -> Located:
        with Run("test") as run:
            vault = Vault(self.room / "sets")
            return locate(run, vault, f"offsite:{wanted}", Target("shop"), self.offsite)


@pytest.fixture
def far(tmp_path: Path) -> Far:
    return Far(tmp_path)


@pytest.mark.parametrize("wanted", ["latest", "before:2100-01-01"])
def test_a_newer_set_of_another_host_is_not_taken_for_one_of_this_host(
    far: Far, wanted: str
) -> None:
    meant = far.set_of(OWN, 5)
    far.set_of("kitchen", 1)
    far.set_of("garage", 2)
    found = far.find(wanted)
    assert (found.recovery_set.name, found.warnings) == (meant, ())


def test_a_new_host_takes_the_sets_of_the_only_one_there_is_and_says_whose_they_are(
    far: Far,
) -> None:
    far.set_of("kitchen", 3)
    newest = far.set_of("kitchen", 1)
    found = far.find("latest")
    assert found.recovery_set.name == newest
    (warning,) = found.warnings
    assert "made by host kitchen, of container shop-db-1" in warning


def test_of_several_other_hosts_none_is_guessed(far: Far) -> None:
    kitchen, garage = far.set_of("kitchen", 3), far.set_of("garage", 1)
    with pytest.raises(SetError) as refusal:
        far.find("latest")
    for words in (f"{kitchen} of kitchen", f"{garage} of garage", "offsite:TARGET/NAME"):
        assert words in str(refusal.value)
    named = far.find(f"disk/{kitchen}")
    assert named.recovery_set.name == kitchen
    assert "kitchen" in named.warnings[0]


def test_a_copy_says_that_another_host_has_its_sets_in_the_same_directory(far: Far) -> None:
    sets = far.room / "sets"
    sets.mkdir()
    lay_out(sets, created=NOW, host=OWN)
    request = CopyRequest(sets, "shop", far.offsite)
    far.set_of(OWN, 5)
    assert copy_sets(request).warnings == []
    far.set_of("kitchen", 1)
    (warning,) = copy_sets(request).warnings
    assert "kitchen" in warning


def test_latest_passes_over_a_set_of_the_future_and_says_so(far: Far) -> None:
    meant = far.set_of(OWN, 1)
    wrong = far.set_of(OWN, -365)
    found = far.find("latest")
    assert found.recovery_set.name == meant
    (warning,) = found.warnings
    assert wrong in warning
    assert "in the future" in warning
    for path in far.directory.glob(f"{meant}*"):
        path.unlink()
    found = far.find("latest")
    assert (found.recovery_set.name, found.warnings) == (wrong, ())


def test_at_a_target_a_timestamp_is_repaired_and_a_time_that_is_none_is_refused(far: Far) -> None:
    far.set_of(OWN, 1)
    meant = far.set_of(OWN, 2)
    stamp = meant.replace("shop_", "").replace("_", "")
    assert far.find(stamp).recovery_set.name == meant
    with pytest.raises(ConfigError, match='"yesterday" is no time'):
        far.find("disk/before:yesterday")


# -- where one target fails ------------------------------------------------------------------------


class Two:
    """Two targets with the same set, of which the first is asked first."""

    def __init__(self, room: Path, method: str = "") -> None:
        self.room = room
        self.first, self.second = room / "first" / "shop", room / "second" / "shop"
        self.first.mkdir(parents=True)
        self.set = lay_out(self.first, method, created=NOW, host=OWN)
        # With the dates, as rclone itself brings them.
        shutil.copytree(self.first, self.second)
        config = room / "rclone.conf"
        config.write_text("[disk]\ntype = local\n")
        names = ("first", "second")
        targets = tuple(RcloneTarget(name, f"disk:{room / name}", config) for name in names)
        self.offsite = Offsite(targets, "shop")

    def bring(
        self, wanted: str = "latest", meanwhile: Callable[[], object] = lambda: None
    ) -> list[str]:
        """Brings the set here, and gives the warnings. `meanwhile` is after it was found."""
        with Run("test") as run:
            vault = Vault(self.room / "sets")
            located = locate(run, vault, f"offsite:{wanted}", Target("shop"), self.offsite)
            assert located.warnings == ()
            meanwhile()
            warnings: list[str] = []
            with located.here(warnings) as found:
                found.check_files()
                assert found.name == self.set.name
            return warnings


def damage(path: Path) -> None:
    """Other bytes, which neither size nor date betrays."""
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def test_a_file_that_is_damaged_at_one_target_is_taken_from_another_and_that_is_said(
    two: Two,
) -> None:
    assert two.bring() == []
    dump = two.set.dump.name
    damage(two.first / dump)
    (warning,) = two.bring()
    assert f"{dump} of disk:{two.first} is damaged" in warning
    assert f"{dump} was taken from second" in warning
    # Each target may have what the other has not.
    assert two.set.globals
    damage(two.second / two.set.globals.name)
    assert len(two.bring()) == 2


def test_a_copy_that_came_back_damaged_is_none_until_all_of_it_went_up_again(two: Two) -> None:
    here = two.room / "sets"
    shutil.copytree(two.first, here)
    request = CopyRequest(here, "shop", two.offsite)
    assert copy_sets(request).verdict == ""
    name, targets = two.set.name, two.offsite.names
    assert unconfirmed(here, "shop", [name], targets) == {name: ()}
    good = (two.first / two.set.dump.name).read_bytes()
    damage(two.first / two.set.dump.name)
    two.bring()
    # What the far end says of it may be as good as before, as it is with object stores: it proves nothing any more.
    (two.first / two.set.dump.name).write_bytes(good)
    assert unconfirmed(here, "shop", [name], targets) == {name: ("first",)}
    assert copy_sets(replace(request, check=True)).changed
    assert unconfirmed(here, "shop", [name], targets) == {name: ("first",)}
    sent = copy_sets(request)
    assert [one["uploaded"] for one in sent.details["targets"]] == [[name], []]
    assert any(f"{name} came back damaged from first" in text for text in sent.warnings)
    assert unconfirmed(here, "shop", [name], targets) == {name: ()}
    assert two.bring() == []
    assert not copy_sets(request).changed


def test_a_copy_that_came_back_damaged_and_is_not_here_any_more_is_lost(two: Two) -> None:
    here = two.room / "sets"
    shutil.copytree(two.first, here)
    assert copy_sets(CopyRequest(here, "shop", two.offsite)).verdict == ""
    for path in here.glob(f"{two.set.name}*"):
        path.unlink()
    damage(two.first / two.set.dump.name)
    two.bring()
    assert Ledger(here, "shop").lost([]) == {"first": [two.set.name]}


def test_a_target_that_fails_in_the_middle_is_not_asked_for_every_file(two: Two) -> None:
    (warning,) = two.bring(meanwhile=lambda: shutil.rmtree(two.first))
    assert f"{two.set.dump.name} could not be downloaded" in warning


def test_where_a_target_was_named_no_other_stands_in_for_it(two: Two) -> None:
    damage(two.first / two.set.dump.name)
    with pytest.raises(SetError, match="is damaged"):
        two.bring("first/latest")
    assert two.bring("second/latest") == []


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [(damage, SetError), (Path.unlink, OffsiteError)],
    ids=["damaged", "missing"],
)
def test_what_no_target_can_give_is_an_error_that_names_them_all(
    two: Two, spoil: Callable[[Path], None], kind: type[FiredrillError]
) -> None:
    def meanwhile() -> None:
        (two.first / two.set.dump.name).unlink()
        # A copy that is damaged weighs more than a target that cannot be asked.
        spoil(two.second / two.set.dump.name)

    with pytest.raises(kind) as failure:
        two.bring(meanwhile=meanwhile)
    for place in (two.first, two.second):
        assert str(place) in str(failure.value)
    assert list((two.room / "sets").iterdir()) == []


def test_a_target_that_has_not_all_of_the_set_is_not_asked(two: Two) -> None:
    damage(two.first / two.set.dump.name)
    (two.second / two.set.dump.name).unlink()
    with pytest.raises(SetError) as failure:
        two.bring()
    assert str(two.second) not in str(failure.value)


def test_the_sealed_part_is_taken_from_another_target_too(tmp_path: Path) -> None:
    two = Two(tmp_path, "age")
    assert two.set.sealed
    damage(two.first / two.set.sealed.name)
    warnings: list[str] = []
    with Run("test") as run, open_key(run, Identity("")) as key:
        located = locate(
            run, Vault(tmp_path / "sets"), "offsite:latest", Target("shop"), two.offsite
        )
        # It came: what is wrong is only that there is no key.
        with pytest.raises(LockedError):
            located.opened(key, warnings)
    (warning,) = warnings
    assert f"{two.set.sealed.name} was taken from second" in warning
