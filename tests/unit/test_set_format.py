# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A set's files belong together, encrypted or not, and an encrypted one tells nothing of its content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from recovery_sets import SECRETS, a_manifest, lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import filenames
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.listing import list_sets
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import (
    FileEntry,
    Manifest,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import utc_now
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

METHODS = ["", "age", "gpg"]


@pytest.mark.parametrize(
    "name", ["shop_20260219_020000", "a.dump_20260219_020000_2", "b.json_1", "c\nd_1"]
)
def test_every_file_of_a_set_leads_back_to_its_name(name: str) -> None:
    for file in filenames.every_name(name):
        found = filenames.set_name(file) if filenames.is_dump(file) else filenames.set_of_part(file)
        assert found == name


@pytest.mark.parametrize("file", ["drills.jsonl", "shop.journal", "x.dump.partial", "notes.txt"])
def test_other_files_are_no_part_of_a_set(file: str) -> None:
    assert not filenames.is_dump(file)
    assert filenames.set_of_part(file) == ""


def test_the_plain_manifest_of_an_encrypted_set_tells_nothing_of_its_content() -> None:
    plain = a_manifest("age").plain(FileEntry("x.sealed.json.age", 10, "ab"))
    text = plain.to_json()
    assert [secret for secret in SECRETS if secret in text] == []
    assert plain.locked
    assert plain.rows == a_manifest("age").rows == 7


def test_both_forms_of_a_manifest_can_be_read_back() -> None:
    whole = a_manifest("age")
    plain = whole.plain(FileEntry("x.sealed.json.age", 10, "ab"))
    assert Manifest.from_json(whole.to_json(), "whole") == whole
    assert Manifest.from_json(plain.to_json(), "plain") == plain


def test_the_rows_of_a_set_without_evidence_are_unknown_encrypted_or_not() -> None:
    whole = a_manifest("age")
    whole = replace(whole, evidence=replace(whole.evidence, level="none", tables=()))
    assert whole.rows is None
    assert whole.plain(FileEntry("x", 1, "ab")).rows is None


@pytest.mark.parametrize("method", METHODS)
def test_a_set_is_found_listed_and_removed_whole(tmp_path: Path, method: str) -> None:
    manifest = lay_out(tmp_path, method)
    (tmp_path / "notes.json").write_text("{}")
    vault = Vault(tmp_path)
    named = [vault.resolve("latest", "shop"), vault.resolve(manifest.name, "shop")]
    named.append(vault.resolve("20260219_020000", "shop"))
    named += [vault.resolve(str(tmp_path / entry.name), "shop") for entry in manifest.entries]
    named.append(vault.resolve(str(tmp_path / f"{manifest.name}.json"), "shop"))
    assert {found.name for found in named} == {manifest.name}
    (listed,) = list_sets(tmp_path)
    assert listed.complete
    row = listed.as_dict(utc_now())
    assert row["encryption"] == method
    assert row["evidence"]["rows"] == 7
    found = named[0]
    assert found.locked == bool(method)
    found.check_files()
    vault.remove(found)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gone", [0, 1, -1])
def test_a_set_that_lost_one_of_its_files_is_not_complete(
    tmp_path: Path, method: str, gone: int
) -> None:
    lost = lay_out(tmp_path, method).entries[gone].name
    (tmp_path / lost).unlink()
    (listed,) = list_sets(tmp_path)
    assert not listed.complete
    assert lost in listed.shortcomings[0]


def test_a_new_set_never_takes_the_name_of_one_that_is_encrypted(tmp_path: Path) -> None:
    manifest = lay_out(tmp_path, "gpg")
    assert Vault(tmp_path).free_name("shop", manifest.created) == f"{manifest.name}_2"
