# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A set that lies in plaintext among encrypted ones is told; a proof of a key gives way to a better one only."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import Section
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.keyproofs import (
    Proof,
    last_proof,
    note_proof,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import utc_now
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.neighbours import (
    unencrypted,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.status import status_rows
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

NOW = utc_now().replace(microsecond=0)


def lay(directory: Path, *kinds: str) -> list[str]:
    """Sets of database `shop`, the last of them the newest: `age`, `plain` or `safety`, which is plain too; their names."""
    return [
        lay_out(
            directory,
            "age" if kind == "age" else "",
            created=NOW - timedelta(hours=len(kinds) - number),
            purpose="safety" if kind == "safety" else "backup",
        ).name
        for number, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("kinds", "odd"),
    [
        (["age"], True),
        (["plain", "age"], True),
        (["age", "safety"], True),
        (["age", "plain"], False),
        (["plain"], False),
        ([], False),
    ],
)
def test_a_plain_set_after_an_encrypted_one_is_told(
    tmp_path: Path, kinds: list[str], odd: bool
) -> None:
    names = lay(tmp_path, *kinds)
    earlier = Vault(tmp_path).sets("shop")
    assert unencrypted(encrypted=True, earlier=earlier) == ""
    said = unencrypted(encrypted=False, earlier=earlier)
    assert bool(said) is odd
    if odd:
        assert f"NOT encrypted, {names[kinds.index('age')]} before it is" in said


@pytest.mark.parametrize(
    ("kinds", "odd"),
    [
        (["age", "plain"], True),
        (["age", "safety", "plain"], True),
        (["age", "plain", "plain"], False),
        (["plain", "age"], False),
        (["plain"], False),
    ],
)
def test_status_tells_that_the_newest_set_is_plain_and_the_one_before_it_is_not(
    tmp_path: Path, kinds: list[str], odd: bool
) -> None:
    lay(tmp_path, *kinds)
    (row,) = status_rows([Section("shop", tmp_path, {"container": "none"})], None, NOW)
    assert any("is NOT encrypted" in problem for problem in row["problems"]) is odd


#: The recipient of every set that lay() writes, one that was replaced, and the private keys of both.
OURS, FORMER = ("age1public",), ("age1former",)
GOOD, OLD, BOTH = (
    Proof.now("shop_1", OURS, OURS),
    Proof.now("shop_2", FORMER, FORMER),
    Proof.now("shop_3", FORMER, OURS + FORMER),
)


@pytest.mark.parametrize(
    ("noted", "stays"),
    [
        ([OLD], OLD),
        ([OLD, GOOD], GOOD),
        ([GOOD, OLD], GOOD),
        ([GOOD, BOTH], BOTH),
        ([OLD, OLD], OLD),
    ],
)
def test_the_proof_of_an_old_key_takes_the_place_of_none_that_opens_the_newest_set(
    tmp_path: Path, noted: list[Proof], stays: Proof
) -> None:
    lay(tmp_path, "plain", "age", "safety")
    for proof in noted:
        note_proof(tmp_path, "shop", proof)
    assert last_proof(tmp_path, "shop") == stays


def test_where_there_is_no_set_each_proof_is_noted(tmp_path: Path) -> None:
    for proof in (GOOD, OLD):
        note_proof(tmp_path, "shop", proof)
        assert last_proof(tmp_path, "shop") == proof
