# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets that must not be restored: each is refused in words, and the live database and the application stay as they are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
from restoring import Shop, readable, start_app, stock_shop
from servers import Postgres, remove

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import manifest
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    MismatchError,
    RefusedError,
)

pytestmark = [pytest.mark.integration, pytest.mark.newest_only]


@pytest.fixture(scope="module")
def stock(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Shop]:
    return stock_shop(postgres, tmp_path_factory.mktemp("stock") / "any")


@pytest.fixture(scope="module")
def app(image: str) -> Iterator[str]:
    name = start_app(image)
    yield name
    remove(name)


@pytest.fixture
def shop(stock: Callable[[Path], Shop], app: str, tmp_path: Path) -> Shop:
    found = stock(tmp_path)
    found.watched = [app]
    return found


def refusal(shop: Shop, **options: Any) -> str:
    """Asserts that a restore is refused and leaves everything as it is; returns what it says."""
    with shop.untouched():
        return shop.refusal(stop_services=tuple(shop.watched), **options)


def manifest_path(shop: Shop) -> Path:
    return shop.directory / f"{shop.set_name}.json"


def forget_manifest(shop: Shop) -> None:
    manifest_path(shop).unlink()


# -- the dump's file -------------------------------------------------------------------------------


def test_a_dump_file_that_is_missing_is_said_to_be_missing(shop: Shop) -> None:
    shop.dump.unlink()
    for source in (shop.set_name, str(shop.dump)):
        text = refusal(shop, source=source)
        assert source in text
        assert "Nothing was changed" in text
    text = refusal(shop, source="latest")
    assert str(shop.directory) in text
    assert shop.database in text


@pytest.mark.parametrize("by_path", [True, False], ids=["by path", "latest"])
def test_an_empty_dump_file_is_refused(shop: Shop, by_path: bool) -> None:
    shop.dump.write_bytes(b"")
    text = refusal(shop, source=str(shop.dump) if by_path else "latest")
    assert str(shop.dump) in text
    assert "is empty" in text


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 1.0], ids=["10 %", "50 %", "90 %", "all but one"])
@pytest.mark.parametrize("with_manifest", [True, False], ids=["manifest", "no manifest"])
def test_a_truncated_dump_is_refused_and_the_live_database_untouched(
    shop: Shop, kept: float, with_manifest: bool
) -> None:
    whole = shop.dump.read_bytes()
    shop.dump.write_bytes(whole[: min(int(len(whole) * kept), len(whole) - 1)])
    if not with_manifest:
        forget_manifest(shop)
    # What `verify` leaves out is the comparison, never the archive's wholeness.
    text = refusal(shop, source=shop.set_name, verify=with_manifest)
    assert str(shop.dump) in text
    if with_manifest:
        assert f"its manifest says {len(whole)}" in text
    else:
        assert "damaged" in text
    assert "the application was not stopped" in text


def test_without_verify_a_set_with_a_manifest_has_to_match_it_all_the_same(shop: Shop) -> None:
    shop.dump.write_bytes(shop.dump.read_bytes() + b"\0")
    assert "its manifest says" in refusal(shop, verify=False)


def test_a_file_that_its_disk_cannot_give_back_is_named(shop: Shop) -> None:
    entry = shop.manifest().globals
    assert entry
    roles = shop.directory / entry.name
    roles.unlink()
    # A regular file of no bytes, reading which ends as reading a bad sector does.
    roles.symlink_to("/proc/self/mem")
    shop.write_manifest(globals=replace(entry, bytes=0))
    # Whether everything else is as it was is asked of files that can be read.
    text = shop.refusal(stop_services=tuple(shop.watched))
    assert str(roles) in text
    assert "cannot be read back from its disk: Input/output error" in text


@pytest.mark.parametrize(
    ("where", "verify"), [(0.02, True), (0.5, True), (0.999, True), (0.5, False)]
)
def test_one_flipped_bit_is_found(shop: Shop, where: float, verify: bool) -> None:
    content = bytearray(shop.dump.read_bytes())
    content[int(len(content) * where)] ^= 0x10
    shop.dump.write_bytes(content)
    text = refusal(shop, verify=verify)
    assert str(shop.dump) in text
    assert "SHA-256" in text
    assert "another" in text


SQL = b"--\n-- PostgreSQL database dump\n--\n\nSET statement_timeout = 0;\nDROP TABLE users;\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (SQL, "plain SQL file"),
        (b"\\restrict dOtFxv\n" + SQL, "plain SQL file"),
        (b"CREATE TABLE t (id int);\n", "plain SQL file"),
        (gzip.compress(SQL), "no PostgreSQL dump in custom format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4096), "no PostgreSQL dump in custom format"),
        (b"PGDMP", "damaged"),
        (b"PGDMP" + bytes(range(256)) * 40, "damaged"),
    ],
    ids=["sql", "new sql", "script", "compressed sql", "picture", "only magic", "magic and noise"],
)
def test_a_file_that_is_no_dump_is_refused(shop: Shop, content: bytes, said: str) -> None:
    path = shop.directory / "from elsewhere.dump"
    path.write_bytes(content)
    text = refusal(shop, source=path.name, verify=False)
    assert str(path) in text
    assert said in text


def test_a_file_of_the_cluster_wide_objects_is_not_taken_for_a_dump(shop: Shop) -> None:
    path = shop.directory / "roles.sql"
    path.write_bytes((shop.directory / f"{shop.set_name}.globals.sql").read_bytes())
    text = refusal(shop, source=str(path), verify=False)
    assert "plain SQL file" in text
    assert "psql" in text


def test_a_globals_file_that_is_missing_or_edited_makes_the_set_incomplete(shop: Shop) -> None:
    path = shop.directory / f"{shop.set_name}.globals.sql"
    path.write_text(path.read_text().replace("NOSUPERUSER", "  SUPERUSER").replace("\n", " ", 1))
    assert str(path) in refusal(shop)
    path.unlink()
    assert str(path) in refusal(shop)


# -- whose it is -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("with_manifest", [True, False], ids=["manifest", "no manifest"])
def test_a_dump_of_another_database_is_refused_and_works_with_force(
    shop: Shop, with_manifest: bool
) -> None:
    other = shop.server.create(content="CREATE TABLE precious AS SELECT 1 AS id")
    if not with_manifest:
        forget_manifest(shop)
    options: dict[str, Any] = {
        "target": shop.server.target(other),
        "source": str(shop.dump),
        "verify": with_manifest,
    }
    text = refusal(shop, **options)
    assert f'"{shop.database}"' in text
    assert f'"{other}"' in text
    assert "force" in text
    report = shop.restore(force=True, **options)
    assert report.changed
    assert report.database == other
    assert Shop(shop.server, other, shop.directory, "", "").contents() == shop.original
    assert shop.server.sql("SELECT id FROM precious", report.details["previous"]) == "1"


# -- the manifest ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dump_without_a_manifest_is_restored_only_without_verify(shop: Shop) -> None:
    shop.break_data()
    forget_manifest(shop)
    text = refusal(shop, source=shop.set_name)
    assert str(shop.dump) in text
    assert "no manifest" in text
    assert "verify: false" in text
    # What has no manifest is no set, so `latest` does not mean it.
    assert "no complete set" in refusal(shop, source="latest", verify=False)
    report = shop.restore(source=shop.set_name, verify=False)
    assert report.changed
    assert "rows were not compared" in report.msg
    assert report.details["not_compared"]
    assert report.details["rows_after"]["public.jobs"] == 2000
    assert shop.contents() == shop.original
    # The file is what tells whether it is the same restore.
    assert not shop.restore(source=shop.set_name, verify=False).changed


def edited(shop: Shop) -> str:
    content = json.loads(manifest_path(shop).read_text())
    content["evidence"]["tables"] = []
    return json.dumps(content)


def with_checksum(content: dict[str, Any]) -> str:
    return json.dumps({**content, "checksum": manifest._checksum(content)})


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (edited, "edited or damaged"),
        (lambda shop: manifest_path(shop).read_text()[:-100], "cannot be read"),
        (lambda shop: "", "cannot be read"),
        (lambda shop: "[]", "cannot be read"),
        (lambda shop: with_checksum({"format": 1}), "cannot be read"),
        (lambda shop: with_checksum({"format": 99}), "format 99"),
        (lambda shop: with_checksum({"format": "two"}), "cannot be read"),
    ],
    ids=["edited", "truncated", "empty", "a list", "no fields", "newer", "odd format"],
)
def test_a_manifest_that_cannot_be_believed_is_refused(
    shop: Shop, write: Callable[[Shop], str], said: str
) -> None:
    manifest_path(shop).write_text(write(shop))
    text = refusal(shop, source=shop.set_name)
    assert str(manifest_path(shop)) in text
    assert said in text


@pytest.mark.slow
def test_a_set_with_an_edited_manifest_is_restored_without_verify(shop: Shop) -> None:
    shop.break_data()
    manifest_path(shop).write_text(edited(shop))
    assert shop.restore(source=shop.set_name, verify=False).changed
    assert shop.contents() == shop.original


@pytest.mark.slow
def test_the_manifest_of_another_dump_is_found_out(shop: Shop) -> None:
    shop.sql("DELETE FROM jobs")
    other = shop.server.backup(shop.directory, shop.database, globals=False).set_name
    (shop.directory / f"{other}.json").rename(manifest_path(shop))
    for verify in (True, False):
        text = refusal(shop, source=shop.set_name, verify=verify)
        assert str(shop.dump) in text
        assert "manifest" in text


def more_rows(found: Any) -> Any:
    return replace(found, rows=found.rows + 1)


def other_contents(found: Any) -> Any:
    return replace(found, fingerprint=str(int(found.fingerprint) + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [(more_rows, "2001 rows expected, 2000 found"), (other_contents, "contents differ")],
)
def test_rows_that_are_not_those_of_the_manifest_never_go_live(
    shop: Shop, change: Callable[[Any], Any], said: str
) -> None:
    evidence = shop.manifest().evidence
    tables = tuple(change(t) if t.name == "jobs" else t for t in evidence.tables)
    shop.write_manifest(evidence=replace(evidence, tables=tables))
    with shop.untouched(but=("files",)), pytest.raises(MismatchError) as caught:
        shop.restore(stop_services=tuple(shop.watched))
    text = readable(caught.value)
    assert "public.jobs" in text
    assert said in text
    assert "The live database was not touched and the application was not stopped" in text
    assert shop.set_name in text


# -- everything at once ----------------------------------------------------------------------------


def test_all_findings_are_in_one_message(shop: Shop) -> None:
    shop.dump.write_bytes(shop.dump.read_bytes()[:-1])
    shop.sql("BEGIN; INSERT INTO users (email) VALUES ('x'); PREPARE TRANSACTION 'half done'")
    try:
        with shop.untouched(), pytest.raises(RefusedError) as caught:
            shop.restore(stop_services=("no such service",))
    finally:
        shop.sql("ROLLBACK PREPARED 'half done'")
    text = readable(caught.value)
    assert len(caught.value.findings) == 3
    for said in (str(shop.dump), "half done", "no such service"):
        assert said in text
