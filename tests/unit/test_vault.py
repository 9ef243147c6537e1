# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files appear whole or not at all, also where the disk of the backup directory can do less than that of the system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import HostError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault


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
