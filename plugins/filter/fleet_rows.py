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
  description: One mapping for each database, as C(firedrill status --json) has it. Its C(host) is the name in the inventory.
  type: list
  elements: dict
"""

from typing import Any

from ansible_collections.firedrill.postgres.plugins.plugin_utils.fleet import fleet_rows


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Any]:
        return {"fleet_rows": fleet_rows}
