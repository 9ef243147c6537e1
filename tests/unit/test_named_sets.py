# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which set is meant by a name or a timestamp: that one and no other, on the host as on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
    SetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import parse_time
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault
from ansible_collections.firedrill.postgres.plugins.plugin_utils.controller_sets import find_set

STAMP = "20260219_020000"


def on_the_host(directory: Path, source: str) -> str:
    return Vault(directory).resolve(source, "shop").name


def on_the_controller(directory: Path, source: str) -> str:
    return find_set(directory, "shop", source).name


@pytest.fixture(params=[on_the_host, on_the_controller])
def name_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Names the set that a source means, of two of the same second and a later one."""
    for number in ("", "_2"):
        lay_out(tmp_path, created=parse_time(STAMP), number=number)
    lay_out(tmp_path, created=parse_time("20260220_020000"))
    return lambda source: str(request.param(tmp_path, source))


@pytest.mark.parametrize("source", [STAMP, "20260219020000", f"shop_{STAMP}"])
def test_a_timestamp_or_a_name_means_that_set_and_not_the_next_of_its_second(
    name_of: Callable[[str], str], source: str
) -> None:
    assert name_of(source) == f"shop_{STAMP}"


@pytest.mark.parametrize("source", ["2026", "shop", "20260219", "0219_020000", f"x_{STAMP}"])
def test_a_part_of_a_name_means_no_set(name_of: Callable[[str], str], source: str) -> None:
    with pytest.raises(FiredrillError, match="There is no set"):
        name_of(source)


# -- on the controller, where sets of several hosts may lie together


@pytest.mark.parametrize("source", ["latest", "before:20260301_000000"])
def test_whose_set_is_meant_has_to_be_known(tmp_path: Path, source: str) -> None:
    lay_out(tmp_path, created=parse_time(STAMP), host="kitchen")
    lay_out(tmp_path, created=parse_time("20260220_020000"))
    lay_out(tmp_path, created=parse_time("20260221_020000"))
    with pytest.raises(SetError) as refused:
        find_set(tmp_path, "shop", source)
    told = f"{tmp_path} has shop_20260221_020000 of container shop-db-1 on pi, shop_{STAMP} of container shop-db-1 on kitchen"
    assert told in str(refused.value)
    assert "Nothing was touched" in str(refused.value)
    # Only one of them has made a set before that, and a name means one set.
    assert on_the_controller(tmp_path, "before:20260220_000000") == f"shop_{STAMP}"
    assert on_the_controller(tmp_path, "shop_20260220_020000") == "shop_20260220_020000"


def test_a_file_that_the_controller_has_not_got_is_not_looked_for_on_a_host(tmp_path: Path) -> None:
    with pytest.raises(SetError, match="The path is looked up on this controller"):
        find_set(tmp_path / "shop.dump", "shop", "latest")


def test_a_set_without_a_manifest_is_told_what_helps(tmp_path: Path) -> None:
    name = lay_out(tmp_path).name
    (tmp_path / f"{name}.json").unlink()
    with pytest.raises(SetError) as refused:
        find_set(tmp_path / f"{name}.dump", "shop", "latest")
    told = str(refused.value)
    assert "Bring its manifest (.json) back beside it, or name another set" in told
    assert "verify" not in told
