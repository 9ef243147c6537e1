# -*- coding: utf-8 -*-
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_rows
short_description: How protected each host is, from what their status commands said
version_added: 0.1.0
author:
  - Firedrill contributors (@firedrill)
description:
  - Puts what C(firedrill status --json) said on each host into one list, those with problems first.
  - A host that could not be reached, or that said nothing that can be read, is a row with that as its problem.
positional: _input
options:
  _input:
    description: Results of the task that ran the command, by the name of the host in the inventory.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Look at the first problem
  ansible.builtin.debug:
    msg: "{{ results | firedrill.postgres.fleet_rows | first }}"
"""

RETURN = r"""
_value:
  description: One mapping for each database, as C(firedrill status --json) has it. RV(_value[].host) is the name in the inventory.
  type: list
  elements: dict
"""

import json
from typing import Any

from ansible.errors import AnsibleFilterError


def fleet_rows(results: Any) -> list[dict[str, Any]]:
    """See DOCUMENTATION."""
    if not isinstance(results, dict):
        raise AnsibleFilterError("fleet_rows wants a mapping of results by host")
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
    if result.get("rc") == 2 and "No such file" in f"{result.get('msg')} {result.get('exception')}":
        return "the firedrill command is not there: `ansible-playbook provision.yml` installs it"
    words = result.get("stderr") or result.get("msg") or result.get("stdout")
    return f"it did not say how it is: {_line(words)}"


def _line(text: Any) -> str:
    """The last line with something in it."""
    lines = [line.strip() for line in str(text or "no answer").splitlines() if line.strip()]
    return lines[-1].removeprefix("Task failed: ") if lines else "no answer"


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Any]:
        return {"fleet_rows": fleet_rows}
