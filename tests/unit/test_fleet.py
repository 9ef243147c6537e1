# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of a whole inventory: problems first, and no host is missing."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.firedrill.postgres.plugins.plugin_utils.fleet import (
    fleet_rows,
    fleet_table,
)

WELL = {
    "host": "its own name",
    "name": "ai_fsm",
    "database": "ai_fsm",
    "checked_at": "2026-02-19T12:00:00Z",
    "newest_set": {
        "name": "ai_fsm_20260219_020000",
        "created_at": "2026-02-19T02:00:00Z",
        "age_s": 36000,
        "bytes": 1234567,
    },
    "last_drill": {"verdict": "pass", "at": "2026-02-01T03:30:00Z", "age_s": 1585800, "set": "x"},
    "rto_s": 61.2,
    "next_backup": "2026-02-20T02:00:00Z",
    "next_drill": "2026-03-01T03:30:00Z",
    "free_bytes": 5_000_000_000,
    "problems": [],
}


def said(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rc": 0, "stdout": json.dumps(rows), **more}


def test_a_host_is_known_by_its_name_in_the_inventory() -> None:
    assert [row["host"] for row in fleet_rows({"pi4": said(WELL)})] == ["pi4"]


def test_hosts_with_problems_come_first_and_each_database_is_a_row() -> None:
    ill = {**WELL, "name": "other", "problems": ["there is no complete set"]}
    rows = fleet_rows({"a": said(WELL), "b": said(WELL, ill)})
    assert [(row["host"], row["name"]) for row in rows] == [
        ("b", "other"),
        ("a", "ai_fsm"),
        ("b", "ai_fsm"),
    ]


def test_a_host_that_cannot_be_reached_is_a_row_and_not_a_failure() -> None:
    gone = {"unreachable": True, "msg": "Task failed: Failed to connect: No route to host"}
    (row,) = fleet_rows({"a": gone})
    assert row["problems"] == ["it could not be reached: Failed to connect: No route to host"]
    assert (
        fleet_table([row])[-1] == "a: it could not be reached: Failed to connect: No route to host"
    )


def test_a_host_without_the_command_says_how_to_get_it() -> None:
    (row,) = fleet_rows({"a": {"rc": 2, "msg": "Error executing command."}})
    assert "provision.yml" in row["problems"][0]


def test_words_of_the_command_that_are_no_table_are_shown_as_they_are() -> None:
    error = {
        "failed": True,
        "msg": "/etc/firedrill/config.yml cannot be used: (1) x. Correct the file.",
    }
    for result in (
        {"rc": 2, "stdout": json.dumps(error)},
        {"rc": 2, "stdout": "", "stderr": f"something\n{error['msg']}\n"},
        {"rc": 1, "stdout": error["msg"]},
    ):
        (row,) = fleet_rows({"a": result})
        assert error["msg"] in row["problems"][0]


def test_a_host_that_never_answered_is_a_row_too() -> None:
    assert [len(fleet_rows({"a": result})) for result in ({}, said(), {"stdout": "[1]"})] == [1] * 3


def test_the_table_shows_which_offsite_target_has_not_got_every_set() -> None:
    targets = [
        {"target": "bucket", "missing": [], "failing_since": None},
        {"target": "nas", "missing": ["a", "b"], "failing_since": None},
        {"target": "friend", "missing": ["a"], "failing_since": "2026-02-19T02:00:00Z"},
    ]
    lines = fleet_table(fleet_rows({"pi4": said({**WELL, "offsite": targets})}))
    assert "  bucket, NOT nas (2 missing), NOT friend (fails)  " in lines[1]


def test_the_table_shows_what_was_measured() -> None:
    lines = fleet_table(fleet_rows({"pi4": said(WELL)}))
    assert len(lines) == 2
    for cell in (
        "pi4",
        "ai_fsm_20260219_020000",
        "10 h 0 min",
        "1.2 MB",
        "pass",
        "1 min 1 s",
        "5.0 GB",
    ):
        assert cell in lines[1]
