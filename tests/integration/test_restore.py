# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restore brings back the rows of its set, keeps what was live, and says what it did, would do or did before."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Callable

import pytest
from restoring import Shop, contents, stock_shop
from servers import Postgres, own_containers, own_volumes

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.drill import (
    DrillRequest,
    drill,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import SqlScript, iso
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stock(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Shop]:
    return stock_shop(postgres, tmp_path_factory.mktemp("stock") / "any")


def kept_names(shop: Shop) -> list[str]:
    """Databases beside the live one that a restore made or kept."""
    return [name for name in shop.server.names() if name.startswith(f"{shop.database}_")]


def test_a_swap_after_an_accident_brings_back_every_row_and_keeps_the_database_before(
    shop: Shop,
) -> None:
    broken = shop.break_data()
    shop.sql("CREATE TABLE new_since AS SELECT 1 AS id")
    started = shop.server.started()
    files = set(shop.files())
    report = shop.restore()
    assert report.changed
    assert shop.contents() == shop.original
    previous = report.details["previous"]
    assert kept_names(shop) == [previous]
    assert shop.server.sql("SELECT id FROM new_since", previous) == "1"
    shop.server.sql("DROP TABLE new_since", previous)
    assert contents(shop.server, previous) == broken
    assert report.details["rows_before"] == {
        "public.users": 500,
        "public.jobs": 1000,
        "public.audit_2026": 600,
        "public.new_since": 1,
    }
    assert report.details["rows_after"] == {
        "public.users": 500,
        "public.jobs": 2000,
        "public.audit_2026": 100,
    }
    assert report.set_name == shop.set_name
    assert f"{shop.set_name} was restored" in report.msg
    assert shop.server.started() == started
    assert set(shop.files()) - files == {f"{shop.database}.journal"}
    assert own_containers() + own_volumes() == []


@pytest.mark.slow
def test_databases_that_pile_up_from_earlier_restores_are_named_before_they_fill_the_disk(
    shop: Shop,
) -> None:
    reports = []
    for unused_time in range(3):
        shop.break_data()
        reports.append(shop.restore(force=True))
    first, second, third = reports
    assert not any("kept" in text for text in [*first.warnings, *second.warnings])
    (said,) = [text for text in third.warnings if "kept" in text]
    for earlier in (first, second):
        assert f"{earlier.details['previous']} (" in said
    assert str(third.details["previous"]) not in said


def test_the_same_restore_again_is_unchanged_and_says_which_tables_were_written_since(
    shop: Shop,
) -> None:
    shop.break_data()
    shop.restore()
    again = shop.restore()
    assert not again.changed
    assert "no table has other counts" in again.msg
    shop.sql("INSERT INTO users (email) SELECT 'new ' || g FROM generate_series(1, 3) g")
    written = shop.contents()
    names = shop.server.names()
    again = shop.restore()
    assert not again.changed
    assert "public.users 500 -> 503" in again.msg
    assert "public.jobs" not in again.msg
    assert shop.contents() == written
    assert shop.server.names() == names
    forced = shop.restore(force=True)
    assert forced.changed
    assert shop.contents() == shop.original


@pytest.mark.slow
def test_a_set_without_evidence_never_makes_up_counts(
    postgres: Postgres, sets: Path, rich: str
) -> None:
    postgres.backup(sets, rich, evidence="none", globals=False)
    report = postgres.restore(sets, rich)
    assert "rows were not compared" in report.msg
    assert report.details["rows_after"]["public.users"] == 500
    again = postgres.restore(sets, rich)
    assert not again.changed
    # Nothing was written, so nothing may be said to have been.
    assert "->" not in again.msg


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "beside the live database"),
        ({"method": "replace"}, "after a safety dump"),
        ({"method": "replace", "safety_dump": False}, "WITHOUT a safety dump"),
    ],
)
def test_check_mode_says_what_would_happen_and_touches_nothing(
    shop: Shop, options: dict[str, object], said: str
) -> None:
    shop.break_data()
    with shop.untouched():
        report = shop.restore(check=True, **options)
    assert report.changed
    assert f"Would restore {shop.set_name}" in report.msg
    assert said in report.msg
    assert report.details["rows_before"]["public.jobs"] == 1000
    assert report.details["rows_after"]["public.jobs"] == 2000


@pytest.mark.slow
def test_check_mode_of_a_restore_that_is_done_says_so_and_one_that_is_impossible_fails(
    shop: Shop,
) -> None:
    shop.restore()
    with shop.untouched():
        assert not shop.restore(check=True).changed
        with shop.dump.open("ab") as file:
            file.write(b"x")
        text = shop.refusal(check=True, force=True)
        assert "bytes" in text
        shop.dump.write_bytes(shop.dump.read_bytes()[:-1])


@pytest.mark.slow
def test_without_keep_previous_the_database_before_is_gone_and_a_safety_dump_has_it(
    shop: Shop,
) -> None:
    broken = shop.break_data()
    report = shop.restore(keep_previous=False)
    assert shop.contents() == shop.original
    assert kept_names(shop) == []
    assert not report.details["previous"]
    safety = report.details["safety_set"]
    assert (shop.directory / f"{safety}.dump").exists()
    # `latest` is the backup, which is in place; a safety dump is restored by its name only.
    assert not shop.restore(source="latest").changed
    shop.restore(source=safety)
    assert shop.contents() == broken


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"keep_previous": False}, {"method": "replace"}])
def test_no_safety_dump_is_made_when_the_operator_said_so(
    shop: Shop, options: dict[str, object]
) -> None:
    shop.break_data()
    report = shop.restore(safety_dump=False, **options)
    assert shop.contents() == shop.original
    assert kept_names(shop) == []
    assert len(list(shop.directory.glob("*.dump"))) == 1
    assert not report.details.get("safety_set")


def test_replace_dumps_what_was_there_before_it_drops_it(shop: Shop) -> None:
    broken = shop.break_data()
    report = shop.restore(method="replace")
    assert report.changed
    assert shop.contents() == shop.original
    assert kept_names(shop) == []
    safety = report.details["safety_set"]
    newest = Vault(shop.directory).everything()[0]
    assert newest.name == safety
    assert Vault(shop.directory).resolve("latest", shop.database).name == shop.set_name
    assert not shop.restore(method="replace").changed
    shop.restore(method="replace", source=safety, safety_dump=False)
    assert shop.contents() == broken


def test_a_replace_that_fails_puts_back_what_was_there(shop: Shop) -> None:
    broken = shop.break_data()
    with shop.untouched(but=("cluster", "files")):
        text = shop.refusal(method="replace", post_sql=(SqlScript(sql="SELECT 1 / 0"),))
    assert "division by zero" in text
    assert "put back" in text
    assert shop.contents() == broken
    assert kept_names(shop) == []


@pytest.mark.slow
def test_a_set_is_named_by_time_by_name_by_file_or_by_path(shop: Shop, tmp_path: Path) -> None:
    older = shop.add_older_set("20260101_000000", "2026-01-01T00:00:00Z")
    newest = shop.manifest().created
    wanted = {
        "latest": shop.set_name,
        f"before:{iso(newest)}": older,
        f"before:{iso(newest + timedelta(seconds=1))}": shop.set_name,
        "before:2026-01-01 00:00:01": older,
        "before:20260102_000000": older,
        "20260101_000000": older,
        older: older,
        f"{older}.dump": older,
        str(shop.directory / f"{older}.dump"): older,
        str(shop.directory / f"{older}.json"): older,
        str(shop.dump): shop.set_name,
    }
    vault = Vault(shop.directory)
    assert {source: vault.resolve(source, shop.database).name for source in wanted} == wanted
    # A path may lie outside of the backup directory; the restore itself takes what was asked for.
    elsewhere = tmp_path / "usb stick"
    shop.directory.rename(elsewhere)
    shop.break_data()
    report = shop.restore(source=str(elsewhere / f"{older}.dump"))
    assert report.set_name == older
    assert shop.contents() == shop.original


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("before:2020-01-01", "2020-01-01T00:00:00Z"),
        ("before:yesterday", '"yesterday" is no time'),
        ("20200101_000000", "20200101_000000"),
        ("/nowhere/at all.dump", "/nowhere/at all.dump"),
    ],
)
def test_a_source_that_means_no_set_is_refused(shop: Shop, source: str, said: str) -> None:
    with shop.untouched():
        assert said in shop.refusal(source=source)


def test_a_set_of_another_user_for_nobody_else_passes_a_drill_and_is_restored(shop: Shop) -> None:
    # As all files of a stick or a share that is mounted for somebody (`uid=1000,umask=077`).
    for path in shop.directory.iterdir():
        os.chown(path, 1000, 1000)
        path.chmod(0o600)
    assert drill(DrillRequest(shop.target, shop.directory)).verdict == "pass"
    shop.break_data()
    shop.restore()
    assert shop.contents() == shop.original


def test_before_a_time_restores_the_set_from_before_the_accident(shop: Shop) -> None:
    shop.sql("TRUNCATE jobs")
    accident = shop.server.backup(shop.directory, shop.database, globals=False).set_name
    # Both may be of the same second.
    moment = shop.manifest(accident).created
    shop.write_manifest(created_at=iso(moment - timedelta(hours=1)))
    asked = shop.restore(check=True)
    assert asked.set_name == accident
    hints = [text for text in asked.warnings if "accident" in text]
    assert len(hints) == 1
    assert shop.set_name in hints[0]
    assert f"before:{iso(moment)}" in hints[0]
    rows = [asked.details[key]["public.jobs"] for key in ("rows_before", "rows_after")]
    assert rows == [0, 0]
    assert asked.details["earlier_set"] == shop.set_name
    assert asked.details["rows_earlier"] == shop.manifest().evidence.counts()
    report = shop.restore(source=f"before:{iso(moment)}")
    assert report.set_name == shop.set_name
    assert shop.contents() == shop.original
