# -*- coding: utf-8 -*-
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_table
short_description: A table of how protected each host is
version_added: 0.1.0
author:
  - Firedrill contributors (@firedrill)
description:
  - Lines of a table with a row for each database, and below it what is wrong.
positional: _input
options:
  _input:
    description: What the filter P(firedrill.postgres.fleet_rows#filter) gives.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ results | firedrill.postgres.fleet_rows | firedrill.postgres.fleet_table }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.firedrill.postgres.plugins.plugin_utils.fleet import fleet_table


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Any]:
        return {"fleet_table": fleet_table}
