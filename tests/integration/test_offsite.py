# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies at real far ends: rclone to a server of S3's protocol and over SFTP, rsync over SSH; and what can happen there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Callable

import pytest
from far_ends import (
    S3,
    LaggingBucket,
    Ssh,
    Wire,
    make_key,
    obscured,
    rclone_config,
    s3_server,
    small_disk,
    ssh_server,
    webdav_server,
)
from ports import free_port
from recovery_sets import a_manifest
from servers import await_that, engine_process

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import ledger as ledgers
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import Section
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import Ledger
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import FileEntry
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Report,
    iso,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.offsite import (
    CopyRequest,
    copy_sets,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    RecoverySet,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.remotes import store_of
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.status import status_rows
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.stores import Store
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import (
    Offsite,
    OffsiteTarget,
    RcloneTarget,
    RsyncTarget,
)

pytestmark = [pytest.mark.integration]

SIZE = 3_000_000
KINDS = ("s3", "sftp", "rsync")
PROOFS = {"s3": "md5", "sftp": "md5", "rsync": "checksum"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def far(tmp_path: Path, s3: S3, ssh: Ssh) -> Callable[..., OffsiteTarget]:
    """Makes a target of one kind; `port` is that of something between."""

    def make(kind: str, name: str = "", port: int = 0) -> OffsiteTarget:
        name = name or kind
        if kind == "s3":
            return s3.target(tmp_path, name, s3.bucket(), port)
        path = tmp_path / f"far-{name}"
        path.mkdir()
        return getattr(ssh, kind)(name, path, port)  # type: ignore[no-any-return]

    return make


def port_of(kind: str, s3: S3, ssh: Ssh) -> int:
    return s3.port if kind == "s3" else ssh.port


def add_set(directory: Path, created: datetime, size: int = SIZE, **changes: Any) -> str:
    """A complete set whose dump holds noise; returns its name."""
    directory.mkdir(mode=0o700, exist_ok=True)
    name = f"shop_{created:%Y%m%d_%H%M%S}"

    def file(end: str, length: int) -> FileEntry:
        content = os.urandom(length)
        (directory / f"{name}{end}").write_bytes(content)
        (directory / f"{name}{end}").chmod(0o600)
        return FileEntry(f"{name}{end}", length, hashlib.sha256(content).hexdigest())

    manifest = replace(
        a_manifest(name=name),
        created_at=iso(created),
        dump=file(".dump", size),
        globals=file(".globals.sql", 500),
        **changes,
    )
    (directory / f"{name}.json").write_text(manifest.to_json())
    return name


@pytest.fixture
def made(sets: Path) -> str:
    """The name of the one set in the backup directory."""
    return add_set(sets, utc_now() - timedelta(hours=1))


def copy(sets: Path, *targets: OffsiteTarget, **options: Any) -> Report:
    return copy_sets(CopyRequest(sets, "shop", Offsite(targets, "shop"), **options))


def told(report: Report) -> dict[str, dict[str, Any]]:
    return {one["target"]: one for one in report.details["targets"]}


#: The run in which a test looks at far ends.
LOOKING: list[Run] = []


@pytest.fixture(autouse=True)
def looking() -> Iterator[None]:
    with Run("look") as run:
        LOOKING[:] = [run]
        yield


def store(target: OffsiteTarget) -> Store:
    return store_of(target, "shop", LOOKING[0])


def complete(target: OffsiteTarget) -> list[str]:
    """The sets that look complete at the far end, newest first."""
    there = store(target)
    return [
        one.name for one in there.sets() if one.has_manifest and one.holds(there.manifest(one.name))
    ]


def files_of(sets: Path, name: str) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sets.glob(f"{name}.*")}


# -- when all is well ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_is_uploaded_whole_proved_and_left_alone_afterwards(
    kind: str, sets: Path, made: str, far: Callable[..., OffsiteTarget], tmp_path: Path
) -> None:
    target = far(kind)
    forecast = copy(sets, target, check=True)
    assert told(forecast)[kind]["uploaded"] == [made], forecast
    assert store(target).listing() == {}
    report = copy(sets, target)
    assert (report.changed, report.verdict, report.warnings) == (True, "", [])
    listing = store(target).listing()
    # Beside the set, and no part of it.
    assert listing.pop("RECOVERY.md") > 0
    assert listing == files_of(sets, made)
    known = Ledger(sets, "shop").copy_of(made, kind)
    assert known is not None
    # All three compute a hash themselves.
    assert (known.state, known.proof) == ("confirmed", PROOFS[kind])
    assert Ledger(sets, "shop").path.stat().st_mode & 0o777 == 0o600
    again = copy(sets, target)
    assert (again.changed, told(again)[kind]["confirmed"]) == (False, [])
    got = tmp_path / "got"
    store(target).get(f"{made}.dump", got)
    assert got.read_bytes() == (sets / f"{made}.dump").read_bytes()
    assert got.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_set_is_removed_with_its_manifest_first_and_nothing_else(
    kind: str, sets: Path, made: str, far: Callable[..., OffsiteTarget], tmp_path: Path
) -> None:
    older = add_set(sets, utc_now() - timedelta(days=2), 1000)
    target = far(kind)
    copy(sets, target)
    there = store(target)
    (tmp_path / "notes.txt").write_text("not ours")
    there.put(tmp_path / "notes.txt")
    gone = there.remove(older)
    assert gone[0] == f"{older}.json"
    listing = there.listing()
    assert listing.pop("RECOVERY.md") > 0
    assert listing == {**files_of(sets, made), "notes.txt": 8}
    assert there.remove(older) == []
    there.delete(f"{older}.json")


@pytest.mark.slow
def test_a_far_end_without_hashes_is_read_back(
    sets: Path, made: str, s3: S3, tmp_path: Path
) -> None:
    plain = s3.target(tmp_path, "plain", s3.bucket())
    password = obscured("not-a-secret")
    with plain.config_file.open("a") as file:
        file.write(f"[hidden]\ntype = crypt\nremote = {plain.remote}\npassword = {password}\n")
    target = replace(plain, remote="hidden:")
    assert copy(sets, target).verdict == ""
    known = Ledger(sets, "shop").copy_of(made, "plain")
    assert known is not None
    assert known.proof == "read back"


@pytest.mark.slow
def test_a_set_goes_to_webdav_and_comes_back_and_is_removed(
    sets: Path, made: str, tmp_path: Path
) -> None:
    older = add_set(sets, utc_now() - timedelta(days=2), 1000)
    with webdav_server(tmp_path, "the right one") as dav:
        report = copy(sets, dav("a wrong one"))
        assert report.verdict == "not_offsite"
        assert "401" in told(report)["dav"]["error"]
        assert list((tmp_path / "dav").iterdir()) == []
        target = dav("the right one")
        assert copy(sets, target).verdict == ""
        known = Ledger(sets, "shop").copy_of(made, "dav")
        assert known is not None
        # Plain WebDAV has no hashes.
        assert (known.state, known.proof) == ("confirmed", "read back")
        assert not copy(sets, target).changed
        assert complete(target) == [made, older]
        got = tmp_path / "got"
        store(target).get(f"{made}.dump", got)
        assert got.read_bytes() == (sets / f"{made}.dump").read_bytes()
        store(target).remove(older)
        assert complete(target) == [made]


@pytest.mark.slow
def test_a_file_that_went_up_in_pieces_is_read_back_for_its_hash_is_only_what_was_said(
    sets: Path, s3: S3, tmp_path: Path
) -> None:
    size = 201_000_000
    name = add_set(sets, utc_now(), size)
    target = s3.target(tmp_path, "large", s3.bucket())
    assert copy(sets, target).verdict == ""
    known = Ledger(sets, "shop").copy_of(name, "large")
    assert known is not None
    assert known.proof == "read back"
    path = sets / f"{name}.dump"
    other = FileEntry(path.name, size, hashlib.sha256(b"other bytes of that size").hexdigest())
    assert store(target).proofs({path: other}) == {path.name: ""}


@pytest.mark.slow
def test_a_large_file_over_sftp_is_hashed_there_from_what_its_disk_has(
    sets: Path, ssh: Ssh, tmp_path: Path
) -> None:
    name = add_set(sets, utc_now(), 201_000_000)
    far = tmp_path / "far"
    far.mkdir()
    target = ssh.sftp("large", far)
    assert copy(sets, target).verdict == ""
    known = Ledger(sets, "shop").copy_of(name, "large")
    assert known is not None
    assert known.proof in ("sha1", "md5")
    (there,) = far.rglob(f"{name}.dump")
    with there.open("r+b") as file:
        file.seek(100_000_000)
        file.write(b"rotten")
    path = sets / f"{name}.dump"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = FileEntry(path.name, 201_000_000, digest)
    assert store(target).proofs({path: entry}) == {path.name: ""}


@pytest.mark.slow
def test_the_bandwidth_limit_reaches_the_program(
    sets: Path, made: str, far: Callable[..., OffsiteTarget]
) -> None:
    for kind in ("s3", "rsync"):
        target = replace(far(kind), max_bytes_per_s=1_000_000)
        report = copy(sets, target)
        # 3 MB at 1 MB a second; the programs let a first burst pass.
        assert report.phases[f"upload {kind}"] > 1.2


# -- what is not what it should be -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_not_those_of_the_set_are_replaced(
    kind: str, sets: Path, made: str, far: Callable[..., OffsiteTarget], tmp_path: Path
) -> None:
    target = far(kind)
    wrong = tmp_path / f"{made}.dump"
    wrong.write_bytes(os.urandom(SIZE))
    there = store(target)
    there.put(wrong)
    there.put(sets / f"{made}.json")
    entry = FileEntry(
        wrong.name, SIZE, hashlib.sha256((sets / wrong.name).read_bytes()).hexdigest()
    )
    assert there.proofs({sets / wrong.name: entry}) == {wrong.name: ""}
    assert copy(sets, target).verdict == ""
    assert there.proofs({sets / wrong.name: entry}) != {wrong.name: ""}
    assert complete(target) == [made]


@pytest.mark.slow
def test_another_hosts_set_of_the_same_name_is_never_replaced(
    sets: Path, made: str, far: Callable[..., OffsiteTarget], tmp_path: Path
) -> None:
    target = far("rsync")
    created = utc_now() - timedelta(hours=1)
    other = add_set(tmp_path / "other", created, 1000)
    for path in (tmp_path / "other").glob(f"{other}*"):
        path.rename(path.with_name(path.name.replace(other, made)))
    manifest = replace(
        a_manifest(name=made),
        dump=FileEntry(f"{made}.dump", 1000, "0" * 64),
        globals=None,
    )
    (tmp_path / "other" / f"{made}.json").write_text(manifest.to_json())
    store(target).put(tmp_path / "other" / f"{made}.dump")
    store(target).put(tmp_path / "other" / f"{made}.json")
    report = copy(sets, target)
    assert report.verdict == "not_offsite"
    assert "another set" in told(report)["rsync"]["error"]
    assert store(target).listing()[f"{made}.dump"] == 1000


@pytest.mark.slow
def test_a_set_that_is_damaged_here_does_not_go_up(
    sets: Path, made: str, far: Callable[..., OffsiteTarget]
) -> None:
    target = far("rsync")
    with (sets / f"{made}.dump").open("r+b") as file:
        file.write(b"\0" * 100)
    report = copy(sets, target)
    assert report.verdict == "not_offsite"
    words = told(report)["rsync"]["error"]
    assert "is damaged" in words
    assert f"remove all files of {made}" in words
    assert store(target).listing() == {}
    for path in sets.glob(f"{made}.*"):
        path.unlink()
    assert copy(sets, target).verdict == ""


@pytest.mark.slow
def test_sets_that_are_damaged_here_keep_no_older_one_from_the_target(
    sets: Path, made: str, far: Callable[..., OffsiteTarget]
) -> None:
    target = far("rsync")
    for minutes in (1, 2, 3):
        newer = add_set(sets, utc_now() - timedelta(minutes=minutes), 1000)
        with (sets / f"{newer}.dump").open("r+b") as file:
            file.write(b"\0" * 100)
    report = copy(sets, target)
    assert report.verdict == "not_offsite"
    assert told(report)["rsync"]["confirmed"] == [made]
    assert complete(target) == [made]


# -- the way there ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_is_cut_leaves_nothing_that_looks_complete_and_the_next_run_ends_it(
    kind: str,
    sets: Path,
    made: str,
    far: Callable[..., OffsiteTarget],
    s3: S3,
    ssh: Ssh,
    tmp_path: Path,
) -> None:
    with Wire(port_of(kind, s3, ssh), limit=SIZE // 2) as wire:
        target = far(kind, port=wire.port)
        report = copy(sets, target)
        assert wire.reached.is_set()
        assert report.verdict == "not_offsite"
        assert told(report)[kind]["missing"] == [made]
        assert not Ledger(sets, "shop").confirmed(made, kind)
        wire.repair()
        assert f"{made}.json" not in store(target).listing()
        report = copy(sets, target)
        assert (report.verdict, told(report)[kind]["uploaded"]) == ("", [made])
        assert complete(target) == [made]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_upload_leaves_no_program_behind_and_nothing_that_looks_complete(
    kind: str,
    sets: Path,
    made: str,
    far: Callable[..., OffsiteTarget],
    s3: S3,
    ssh: Ssh,
    tmp_path: Path,
) -> None:
    with Wire(port_of(kind, s3, ssh), limit=SIZE // 2, stall=True) as wire:
        target = far(kind, port=wire.port)
        process = engine_process(f"""
from pathlib import Path, PosixPath
from _engine.offsite import CopyRequest, copy_sets
from _engine.retention import Policy
from _engine.targets import Offsite, RcloneTarget, RsyncTarget
copy_sets(CopyRequest(Path({str(sets)!r}), "shop", Offsite(({target!r},), "shop")))
""")
        await_that(
            lambda: process.poll() is not None or wire.reached.is_set(), "the upload stands still"
        )
        assert process.poll() is None, process.communicate()
        children = _children(process.pid)
        assert children
        process.kill()
        process.communicate()
        await_that(lambda: not any(map(_lives, children)), "the programs end with the engine")
    direct = replace(target, port=ssh.port) if isinstance(target, RsyncTarget) else target
    if isinstance(direct, RsyncTarget):
        direct = replace(direct, known_hosts_file=ssh.known_hosts(ssh.port))
    else:
        text = direct.config_file.read_text().replace(str(wire.port), str(port_of(kind, s3, ssh)))
        direct.config_file.write_text(text)
        if kind == "sftp":
            ssh.known_hosts(ssh.port)
    assert f"{made}.json" not in store(direct).listing()
    report = copy(sets, direct)
    assert (report.verdict, told(report)[kind]["uploaded"]) == ("", [made])
    assert complete(direct) == [made]


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *_children(child)]
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def masters(target: RsyncTarget) -> list[int]:
    """The processes that hold a connection to a target open for others."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"-M" in words and str(target.identity_file).encode() in words:
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_one_login_serves_a_whole_run_and_is_made_again_when_it_is_lost(
    sets: Path, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logins() -> int:
        return (tmp_path / "ssh" / "ssh.log").read_text().count("Accepted publickey")

    check = RecoverySet.check_files

    def noted(self: RecoverySet) -> None:
        await_that(logins, "it logs in while the set is read here")
        check(self)

    monkeypatch.setattr(RecoverySet, "check_files", noted)
    (tmp_path / "ssh").mkdir()
    (tmp_path / "far").mkdir()
    with ssh_server(tmp_path / "ssh") as ssh:
        target = ssh.rsync("far", tmp_path / "far")
        report = copy(sets, target)
        assert told(report)["far"]["confirmed"] == [made]
        assert logins() == 1
        assert masters(target) == []
        there = store(target)
        assert f"{made}.json" in there.listing()
        (master,) = masters(target)
        os.kill(master, signal.SIGKILL)
        await_that(lambda: not _lives(master), "the connection is lost")
        assert f"{made}.json" in there.listing()
        assert logins() == 3
        assert (len(masters(target)), there.size("other")) == (1, None)
        assert logins() == 3


@pytest.mark.slow
def test_an_account_that_may_only_rsync_in_one_directory_is_enough(
    sets: Path, made: str, tmp_path: Path
) -> None:
    older = add_set(sets, utc_now() - timedelta(days=2), 1000)
    home, room = tmp_path / "ssh", tmp_path / "far"
    home.mkdir()
    room.mkdir()
    with ssh_server(home) as ssh:
        only = f'command="rrsync {room}",restrict {(home / "id.pub").read_text()}'
        (home / "id.pub").write_text(only)
        target = replace(ssh.rsync("far", room), path="/")
        report = copy(sets, target)
        assert (report.verdict, report.warnings) == ("", [])
        assert {path.name for path in (room / "shop").glob("*.json")} == {
            f"{name}.json" for name in (made, older)
        }
        assert complete(target) == [made, older]
        assert not copy(sets, target).changed
        store(target).remove(older)
        assert complete(target) == [made]
        (room / "shop" / f"{made}.dump").unlink()
        assert told(copy(sets, target))["far"]["lost"] == [made, older]
        assert complete(target) == [made, older]


@pytest.mark.slow
def test_a_target_that_fails_does_not_keep_the_others_from_theirs(
    sets: Path, made: str, far: Callable[..., OffsiteTarget], ssh: Ssh, tmp_path: Path
) -> None:
    nobody = ssh.rsync("nobody", tmp_path / "nowhere", port=free_port())
    good = far("rsync", "good")
    report = copy(sets, nobody, good)
    assert report.verdict == "not_offsite"
    assert told(report)["nobody"]["missing"] == [made]
    assert "Connection refused" in told(report)["nobody"]["error"]
    assert any("nobody" in text for text in report.warnings)
    assert Ledger(sets, "shop").confirmed(made, "good")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sftp", "rsync"])
def test_a_far_end_that_is_full_is_told_and_left_without_a_set(
    kind: str, sets: Path, made: str, ssh: Ssh, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        target = getattr(ssh, kind)(kind, disk)
        report = copy(sets, target)
        assert report.verdict == "not_offsite"
        assert told(report)[kind]["missing"] == [made]
        assert f"{made}.json" not in store(target).listing()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert copy(sets, target).verdict == ""
        assert complete(target) == [made]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sftp", "rsync"])
def test_a_wrong_key_is_told_and_nothing_of_it_is_shown(
    kind: str, sets: Path, made: str, ssh: Ssh, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    key = make_key(tmp_path / "stranger")
    report = copy(sets, getattr(ssh, kind)(kind, tmp_path / "far", key=key))
    assert report.verdict == "not_offsite"
    why = told(report)[kind]["error"]
    assert "ermission denied" in why or "unable to authenticate" in why
    assert list((tmp_path / "far").iterdir()) == []


@pytest.mark.slow
def test_wrong_credentials_of_a_bucket_are_told_without_the_secret(
    sets: Path, made: str, s3: S3, tmp_path: Path
) -> None:
    bucket = s3.bucket()
    target = s3.target(tmp_path, "b2", bucket)
    # From now on the server asks who it is.
    s3.ask("POST", "/moto-api/reset-auth", b"0")
    try:
        report = copy(sets, target)
    finally:
        s3.ask("POST", "/moto-api/reset-auth", b"Infinity")
    assert report.verdict == "not_offsite"
    assert (
        "403" in told(report)["b2"]["error"] or "InvalidAccessKeyId" in told(report)["b2"]["error"]
    )
    assert "not-a-secret" not in json.dumps(report.as_dict())
    assert "not-a-secret" not in Ledger(sets, "shop").path.read_text()


@pytest.mark.slow
def test_a_host_whose_key_is_not_known_gets_nothing(
    sets: Path, made: str, ssh: Ssh, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "known").write_text("")
    report = copy(sets, ssh.rsync("nas", tmp_path / "far", known_hosts=tmp_path / "known"))
    assert report.verdict == "not_offsite"
    assert "ost key" in told(report)["nas"]["error"]
    assert list((tmp_path / "far").iterdir()) == []


@pytest.mark.slow
def test_a_path_that_is_not_there_is_not_made(
    sets: Path, made: str, ssh: Ssh, tmp_path: Path
) -> None:
    # A disk that is not mounted leaves such a place.
    report = copy(sets, ssh.rsync("nas", tmp_path / "not-mounted"))
    assert report.verdict == "not_offsite"
    assert not (tmp_path / "not-mounted").exists()


# -- what happens behind our back ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_deleted_behind_our_back_is_noticed_and_uploaded_again(
    kind: str, sets: Path, made: str, far: Callable[..., OffsiteTarget]
) -> None:
    target = far(kind)
    copy(sets, target)
    store(target).delete(f"{made}.dump")
    report = copy(sets, target)
    assert told(report)[kind]["lost"] == [made]
    assert told(report)[kind]["uploaded"] == [made]
    assert any(made in text for text in report.warnings)
    assert complete(target) == [made]


@pytest.mark.slow
def test_a_loss_of_what_is_not_here_any_more_is_told_and_stays_a_problem(
    sets: Path, made: str, far: Callable[..., OffsiteTarget]
) -> None:
    target = far("rsync")
    older = add_set(sets, utc_now() - timedelta(days=9), 1000)
    copy(sets, target)
    for path in sets.glob(f"{older}.*"):
        path.unlink()
    assert copy(sets, target).warnings == []
    assert Ledger(sets, "shop").confirmed(older, "rsync")
    store(target).remove(older)
    report = copy(sets, target)
    assert told(report)["rsync"]["lost"] == [older]
    assert any("has lost" in text and older in text for text in problems(sets, target))


@pytest.mark.slow
def test_a_listing_that_lags_is_not_taken_for_a_loss(
    sets: Path, made: str, s3: S3, tmp_path: Path
) -> None:
    with LaggingBucket(s3) as bucket:
        target = s3.target(tmp_path, "b2", s3.bucket(), bucket.port)
        assert store(target).listing() == {}
        bucket.frozen = True
        report = copy(sets, target)
        assert (report.verdict, told(report)["b2"]["uploaded"]) == ("", [made])
        answers = bucket.old_answers
        report = copy(sets, target)
        assert bucket.old_answers > answers
        assert (report.changed, report.warnings) == (False, [])
        assert Ledger(sets, "shop").confirmed(made, "b2")


@pytest.mark.slow
def test_what_the_retention_removed_is_not_uploaded_again(
    sets: Path, made: str, far: Callable[..., OffsiteTarget]
) -> None:
    target = far("rsync")
    copy(sets, target)
    Ledger(sets, "shop").removed(made, "rsync", utc_now())
    store(target).remove(made)
    report = copy(sets, target)
    assert (report.changed, report.verdict) == (False, "")
    assert not [name for name in store(target).listing() if name.startswith(made)]


@pytest.mark.slow
def test_a_ledger_that_is_damaged_is_made_anew_from_what_is_there(
    sets: Path, made: str, far: Callable[..., OffsiteTarget]
) -> None:
    target = far("sftp")
    copy(sets, target)
    Ledger(sets, "shop").path.write_text('{"targets": {"sftp": {"copies": [1')
    report = copy(sets, target)
    assert (report.changed, told(report)["sftp"]["confirmed"]) == (False, [made])
    assert Ledger(sets, "shop").confirmed(made, "sftp")


# -- days without a target -------------------------------------------------------------------------


def problems(sets: Path, *targets: OffsiteTarget) -> list[str]:
    """What status says of the targets."""
    section = Section("shop", sets, {"container": "none"}, Offsite(targets, "shop"))
    (row,) = status_rows([section], None, utc_now())
    return [text for text in row["problems"] if "offsite target" in text]


@pytest.mark.slow
def test_a_target_that_was_unreachable_for_three_days_gets_everything_newest_first(
    sets: Path, ssh: Ssh, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    with Wire(ssh.port, limit=0) as wire:
        target = ssh.rsync("nas", tmp_path / "far", wire.port)
        names = [add_set(sets, utc_now() - timedelta(days=age), 1000) for age in (0, 1, 2, 3)]
        assert copy(sets, target).verdict == "not_offsite"
        # So it looks when the first failure was three days ago.
        ledger = Ledger(sets, "shop")
        content = json.loads(ledger.path.read_text())
        since = iso(utc_now() - timedelta(days=3))
        content["targets"]["nas"]["failing_since"] = since
        ledger.path.write_text(json.dumps(content))
        assert copy(sets, target).verdict == "not_offsite"
        assert ledger.target("nas").failing_since == since
        (problem,) = problems(sets, target)
        assert f"fails since {since}" in problem
        assert "no set is there" in problem
        wire.repair()
        report = copy(sets, target)
        assert (report.verdict, told(report)["nas"]["uploaded"]) == ("", names)
        assert complete(target) == names
        assert ledger.target("nas").failing_since == ""
        assert problems(sets, target) == []


@pytest.mark.slow
def test_a_set_that_nobody_copied_becomes_a_problem_of_the_host(sets: Path, tmp_path: Path) -> None:
    target = RcloneTarget(
        "b2", f"here:{tmp_path}", rclone_config(tmp_path / "conf", {"type": "local"})
    )
    add_set(sets, utc_now() - timedelta(minutes=5), 1000)
    assert problems(sets, target) == []
    add_set(sets, utc_now() - timedelta(seconds=ledgers._TIME_TO_COPY_S + 60), 1000)
    assert problems(sets, target) == ["1 of 2 sets are not at offsite target b2, no set is there"]
