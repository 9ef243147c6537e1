# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many hosts in one table: what the filters fleet_rows and fleet_table give."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.wording import (
    STATUS_HEADS,
    status_cells,
)


def fleet_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each database, those with problems first, from the results of `firedrill status --json` by host.

    A host that could not be reached, or that said nothing that can be read, is a row with that as its problem.
    """
    rows = [row for host in results for row in _rows_of(str(host), results[host] or {})]
    return sorted(rows, key=lambda row: (not row["problems"], row["host"], row["name"]))


def _rows_of(host: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        said = json.loads(result.get("stdout") or "null")
    except ValueError:
        said = None
    if isinstance(said, list) and said and all(isinstance(row, dict) for row in said):
        return [
            {"name": "", **row, "host": host, "problems": row.get("problems") or []} for row in said
        ]
    return [{"host": host, "name": "", "problems": [_why(result, said)]}]


def _why(result: dict[str, Any], said: Any) -> str:
    if result.get("unreachable"):
        return f"it could not be reached: {_line(result.get('msg'))}"
    if isinstance(said, list):
        return "it has no database in its settings"
    if isinstance(said, dict) and said.get("msg"):
        return _line(said["msg"])
    if result.get("rc") == 2 and "Error executing command" in str(result.get("msg")):
        return "the firedrill command is not there: `ansible-playbook provision.yml` installs it"
    words = result.get("stderr") or result.get("msg") or result.get("stdout")
    return f"it did not say how it is: {_line(words)}"


def _line(text: Any) -> str:
    """The last line with something in it."""
    lines = [line.strip() for line in str(text or "no answer").splitlines() if line.strip()]
    return lines[-1].removeprefix("Task failed: ") if lines else "no answer"


def fleet_table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a table, and below it what is wrong."""
    if not rows:
        return ["No host was asked"]
    table = [list(STATUS_HEADS), *(status_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table
    ]
    wrong = [
        ": ".join(filter(None, (str(row["host"]), row["name"], problem)))
        for row in rows
        for problem in row["problems"]
    ]
    return lines + ([""] + wrong if wrong else [])
