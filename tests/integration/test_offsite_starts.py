# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How often a copy starts a program, which on a small host costs a handshake each time; and what is between two of them."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import pytest
from far_ends import Ssh, rclone_config, ssh_server
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import OffsiteError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import Ledger
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Report,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.offsite import (
    CopyRequest,
    copy_sets,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.rclone_server import (
    RcloneServer,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    RecoverySet,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.rsync import RsyncStore
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import (
    Offsite,
    OffsiteTarget,
    RcloneTarget,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class Starts:
    """Stands before the real programs in the path and notes each start."""

    def __init__(self, room: Path) -> None:
        self.path = room / "programs"
        self.path.mkdir()
        self._log = room / "starts"
        for name in ("rclone", "rsync"):
            program = self.path / name
            program.write_text(
                f'#!/bin/sh\necho "$*" >> {shlex.quote(str(self._log))}\nexec {shutil.which(name)} "$@"\n'
            )
            program.chmod(0o755)

    def taken(self) -> list[str]:
        """The starts since the last time, each in one line."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return lines


class Between:
    """Stands between a store and its real program, notes what is asked, and lets it fail or spoils what came of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._asked: list[str] = []
        self._failing = ""
        self._spoiled: Path | None = None
        # The one is started for each question, the other is one server.
        for owner, method in ((RsyncStore, "_run"), (RcloneServer, "ask")):
            monkeypatch.setattr(owner, method, self._around(getattr(owner, method)))

    def _around(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(store: object, *words: str, **more: object) -> Any:
            self._asked.append(" ".join(words))
            if self._failing and self._failing in self._asked[-1]:
                raise OffsiteError("cut off")
            answer = ask(store, *words, **more)
            if self._spoiled and self._spoiled.exists():
                other = bytes(byte ^ 1 for byte in self._spoiled.read_bytes())
                self._spoiled.write_bytes(other)
                self._spoiled = None
            return answer

        return asked

    def fail(self, word: str) -> None:
        """From now on each question fails that has this in it."""
        self._failing = word

    def repair(self) -> None:
        self._failing = ""

    def spoil(self, path: Path) -> None:
        """Once that file is there it gets other bytes of the same size."""
        self._spoiled = path

    def taken(self) -> list[str]:
        """What was asked since the last time."""
        asked, self._asked = self._asked, []
        return asked


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    (tmp_path / "sets").mkdir(mode=0o700)
    return tmp_path / "sets"


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    found = Starts(tmp_path)
    monkeypatch.setenv("PATH", f"{found.path}{os.pathsep}{os.environ['PATH']}")
    return found


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    return Between(monkeypatch)


def local(room: Path, name: str) -> RcloneTarget:
    """A target of rclone that is another directory."""
    return RcloneTarget(
        name, f"far:{room / name}", rclone_config(room / f"{name}.conf", {"type": "local"})
    )


@pytest.fixture(params=["rsync", "rclone"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def target(kind: str, ssh: Ssh, tmp_path: Path) -> OffsiteTarget:
    (tmp_path / kind).mkdir()
    return ssh.rsync(kind, tmp_path / kind) if kind == "rsync" else local(tmp_path, kind)


@pytest.fixture
def there(kind: str, tmp_path: Path) -> Path:
    """The directory of the target that the copies lie in."""
    return tmp_path / kind / "shop"


def copy(sets: Path, *targets: OffsiteTarget) -> Report:
    return copy_sets(CopyRequest(sets, "shop", Offsite(targets, "shop")))


#: Look, bring the files, prove them, bring the manifest and the guide, prove them.
RSYNC = ["--list-only", "--partial-dir", "--dry-run", "--partial-dir", "--dry-run"]
#: It is started once, and asked for all of that.
RCLONE = ["rcd"]


def purposes(lines: list[str]) -> list[str]:
    """What each start was for: the word by which it is known."""
    known = {*RSYNC, *RCLONE}
    words = [[word.partition("=")[0] for word in line.split()] for line in lines]
    return [next((word for word in one if word in known), " ".join(one)) for one in words]


@pytest.mark.parametrize("method", ["", "age"])
def test_the_files_of_a_set_share_the_starts_of_the_program(
    kind: str, method: str, sets: Path, target: OffsiteTarget, there: Path, starts: Starts
) -> None:
    expected = RSYNC if kind == "rsync" else RCLONE
    lay_out(sets, method, created=utc_now() - timedelta(days=1))
    assert copy(sets, target).verdict == ""
    starts.taken()
    newest = lay_out(sets, method, created=utc_now()).name
    assert copy(sets, target).verdict == ""
    assert purposes(starts.taken()) == expected
    assert newest in (there / "RECOVERY.md").read_text()
    assert {path.name for path in there.glob(f"{newest}*")} == {
        path.name for path in sets.glob(f"{newest}*")
    }
    assert not copy(sets, target).changed
    assert purposes(starts.taken()) == expected[:1]


def test_what_is_cut_before_the_manifest_is_no_set_and_its_files_are_not_sent_again(
    kind: str, sets: Path, target: OffsiteTarget, there: Path, between: Between
) -> None:
    name = lay_out(sets).name
    # The last that happens before the manifest goes up is that the files are proved.
    between.fail("--dry-run" if kind == "rsync" else "operations/stat")
    assert copy(sets, target).verdict == "not_offsite"
    assert {path.name for path in there.iterdir()} == {f"{name}.dump", f"{name}.globals.sql"}
    assert not Ledger(sets, "shop").confirmed(name, kind)
    between.repair()
    between.taken()
    assert copy(sets, target).verdict == ""
    uploads = [
        one for one in between.taken() if "operations/copyfile" in one or "--partial-dir" in one
    ]
    # The manifest and the guide.
    assert len(uploads) == (1 if kind == "rsync" else 2)
    assert (there / f"{name}.json").exists()
    assert name in (there / "RECOVERY.md").read_text()
    assert Ledger(sets, "shop").confirmed(name, kind)


def test_one_wrong_file_among_several_is_named_and_goes_and_the_others_stay(
    sets: Path, target: OffsiteTarget, there: Path, between: Between
) -> None:
    name = lay_out(sets).name
    between.spoil(there / f"{name}.globals.sql")
    (outcome,) = copy(sets, target).details["targets"]
    assert f"does not hold {name}.globals.sql as" in outcome["error"]
    assert f"{name}.dump" not in outcome["error"]
    assert [path.name for path in there.iterdir()] == [f"{name}.dump"]
    assert copy(sets, target).verdict == ""
    assert (there / f"{name}.globals.sql").read_bytes() == (
        sets / f"{name}.globals.sql"
    ).read_bytes()


def test_a_manifest_that_arrived_wrong_leaves_no_set(
    kind: str, sets: Path, target: OffsiteTarget, there: Path, between: Between
) -> None:
    name = lay_out(sets).name
    between.spoil(there / f"{name}.json")
    (outcome,) = copy(sets, target).details["targets"]
    assert f"does not hold {name}.json as" in outcome["error"]
    assert not (there / f"{name}.json").exists()
    assert not Ledger(sets, "shop").confirmed(name, kind)


def test_the_files_of_a_set_are_read_once_for_all_targets(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    check = RecoverySet.check_files

    def noted(self: RecoverySet) -> None:
        read.append(self.name)
        check(self)

    monkeypatch.setattr(RecoverySet, "check_files", noted)
    targets = [local(tmp_path, "one"), local(tmp_path, "two")]
    name = lay_out(sets, created=utc_now() - timedelta(days=1)).name
    assert copy(sets, *targets).verdict == ""
    assert read == [name]
    damaged = lay_out(sets, created=utc_now())
    (sets / damaged.dump.name).write_bytes(b"x" * damaged.dump.bytes)
    outcomes = copy(sets, *targets).details["targets"]
    assert [one["missing"] for one in outcomes] == [[damaged.name]] * 2
    assert all("is damaged" in one["error"] for one in outcomes)
    assert read == [name, damaged.name]
