# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What takes its time at a far end: a disk that is read for minutes without a word, and the bandwidth limit."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from far_ends import Ssh, obscured, rclone_config, ssh_server

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import rsync
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import OffsiteError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.hashing import sha256_of
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import FileEntry
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.remotes import store_of
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import (
    OffsiteTarget,
    RcloneTarget,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE = 1_000_000


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[Ssh]:
    (tmp_path / "ssh").mkdir()
    with ssh_server(tmp_path / "ssh") as server:
        yield server


@pytest.fixture
def run() -> Iterator[Run]:
    with Run("look") as run:
        yield run


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The directory of the targets that the copies lie in."""
    path = tmp_path / "far" / "shop"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "shop.dump"
    path.write_bytes(os.urandom(SIZE))
    return path


def entry_of(path: Path) -> FileEntry:
    return FileEntry(path.name, path.stat().st_size, sha256_of(path))


def local(room: Path, **settings: str) -> RcloneTarget:
    return RcloneTarget("disk", "far:", rclone_config(room / "far.conf", settings))


def test_a_large_file_is_proved_although_its_bytes_are_read_without_a_word(
    ssh: Ssh, run: Run, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rsync, "_IDLE_S", 1)
    # As with the older of the two rsyncs of most pairs; no processor computes it for so many bytes within a second.
    monkeypatch.setenv("RSYNC_CHECKSUM_LIST", "md5")
    size = 1_000_000_000
    large = tmp_path / "large.dump"
    for path in (large, there / large.name):
        with path.open("wb") as file:
            file.truncate(size)
    store = store_of(ssh.rsync("far", there.parent), "shop", run)
    assert store.proofs({large: FileEntry(large.name, size, "")}) == {large.name: "checksum"}


def test_a_far_end_that_is_silent_has_the_longer_the_more_it_has_to_read_and_not_for_ever(
    ssh: Ssh, run: Run, there: Path, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rsync, "_IDLE_S", 1)
    key = (ssh.home / "id.pub").read_text()
    (ssh.home / "id.pub").write_text(f'command="sleep 2; $SSH_ORIGINAL_COMMAND" {key}')
    store = store_of(ssh.rsync("far", there.parent), "shop", run)
    with pytest.raises(OffsiteError, match="timeout"):
        store.listing()
    # A second for each megabyte.
    noise.write_bytes(bytes(20 * SIZE))
    store.put(noise)
    assert store.proofs({noise: entry_of(noise)}) == {noise.name: "checksum"}


@pytest.mark.parametrize("kind", ["rsync", "rclone"])
def test_a_download_is_not_slowed_by_the_bandwidth_limit(
    kind: str, ssh: Ssh, run: Run, there: Path, noise: Path, tmp_path: Path
) -> None:
    target: OffsiteTarget = ssh.rsync("far", there.parent)
    if kind == "rclone":
        target = replace(local(tmp_path, type="local"), remote=f"far:{there.parent}")
    (there / noise.name).write_bytes(noise.read_bytes())
    store = store_of(replace(target, max_bytes_per_s=10_000), "shop", run)
    begun = time.monotonic()
    store.get(noise.name, tmp_path / "got")
    # With the limit it takes a hundred.
    assert time.monotonic() - begun < 40
    assert (tmp_path / "got").read_bytes() == noise.read_bytes()


def test_what_is_read_back_to_check_it_is_limited_as_an_upload_is(
    run: Run, there: Path, noise: Path, tmp_path: Path
) -> None:
    settings = {"remote": str(there.parent), "password": obscured("not-a-secret")}
    target = local(tmp_path, type="crypt", **settings)
    store_of(target, "shop", run).put(noise)
    store = store_of(replace(target, max_bytes_per_s=SIZE // 4), "shop", run)
    begun = time.monotonic()
    assert store.proofs({noise: entry_of(noise)}) == {noise.name: "read back"}
    # Four seconds; the program lets a first burst pass.
    assert time.monotonic() - begun > 2
