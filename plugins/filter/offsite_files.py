# -*- coding: utf-8 -*-
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: offsite_files
short_description: The files on a host that the offsite targets need
version_added: 0.1.0
author:
  - Firedrill contributors (@firedrill)
description:
  - Secrets of offsite targets that are given as text become files of the host, which the settings then name.
  - The texts hold secrets. Let the task that writes them have C(no_log), and the files mode C(0600).
positional: _input
options:
  _input:
    description:
      - The offsite targets by name, as O(firedrill.postgres.engine#role:main:firedrill_offsite).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Write the secrets of the offsite targets
  ansible.builtin.copy:
    content: "{{ item.content }}"
    dest: "{{ item.dest }}"
    mode: "0600"
  loop: "{{ firedrill_offsite | firedrill.postgres.offsite_files }}"
  no_log: true
"""

RETURN = r"""
_value:
  description: Each file with its C(dest) and its C(content).
  type: list
  elements: dict
"""

from typing import Any

from ansible.errors import AnsibleFilterError

DIRECTORY = "/etc/firedrill/offsite"
#: The text, the setting that names a file instead, and what the file's name ends with.
TEXTS = (
    ("config", "config_file", ".conf"),
    ("identity", "identity_file", ".key"),
    ("known_hosts", "known_hosts_file", ".known_hosts"),
)


def offsite_files(targets: Any) -> list[dict[str, str]]:
    """See DOCUMENTATION."""
    if not isinstance(targets, dict):
        raise AnsibleFilterError("offsite_files wants a mapping of targets by name")
    return [
        # A private key without its last line break is none.
        {"dest": f"{DIRECTORY}/{name}{end}", "content": str(target[text]).rstrip("\n") + "\n"}
        for name, target in targets.items()
        for text, unused_setting, end in TEXTS
        if isinstance(target, dict) and target.get(text)
    ]


def with_files(targets: Any) -> Any:
    """The targets as the file of settings has them: with the names of files in the place of texts.

    Of rclone only its configuration is a setting; the other files are for that to name.
    """
    if not isinstance(targets, dict):
        return targets
    found: dict[str, Any] = {}
    for name, target in targets.items():
        found[name] = target
        if isinstance(target, dict):
            for text, setting, end in TEXTS:
                if text in found[name]:
                    rest = {key: value for key, value in found[name].items() if key != text}
                    is_setting = text == "config" or target.get("type") != "rclone"
                    more = {setting: f"{DIRECTORY}/{name}{end}"} if is_setting else {}
                    found[name] = {**rest, **more}
    return found


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Any]:
        return {"offsite_files": offsite_files}
