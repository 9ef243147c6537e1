# -*- coding: utf-8 -*-
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: host_settings
short_description: The settings of the firedrill command, from options of the modules
version_added: 0.1.0
author:
  - Firedrill contributors (@firedrill)
description:
  - Turns options as the modules of this collection take them into the text of C(/etc/firedrill/config.yml).
  - It checks them as the modules and the command do, on the controller. What is wrong is said before a host is touched.
  - The text may hold secrets. Let the task that writes it have C(no_log), and the file mode C(0600).
positional: _input
options:
  _input:
    description:
      - Options of M(firedrill.postgres.pg_dump_container), M(firedrill.postgres.pg_restore_container) and
        M(firedrill.postgres.restore_drill) for one database, and where its pings go (C(ping_url), C(ping_url_file),
        C(drill_ping_url), C(drill_ping_url_file)). Empty ones are left out.
    type: dict
    required: true
  more:
    description: Further databases of the host, by name, each with the settings that the file has for it.
    type: dict
    default: {}
  alarms:
    description: Who is told when something is wrong, as the file has it.
    type: dict
    default: {}
  retention:
    description: How long recovery sets are kept, as the file has it.
    type: dict
    default: {}
  encryption:
    description: How and to whom recovery sets are encrypted, as the file has it.
    type: dict
    default: {}
  offsite:
    description:
      - The offsite targets by name, as the file has them. Secrets given as text are left out; in their place stand the names
        of the files that P(firedrill.postgres.offsite_files#filter) gives.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Write the settings of the firedrill command
  ansible.builtin.copy:
    content: "{{ settings | firedrill.postgres.host_settings(retention={'days': 7}) }}"
    dest: /etc/firedrill/config.yml
    mode: "0600"
  no_log: true
  vars:
    settings:
      project: ai-fsm
      service: db
      database: ai_fsm
      backup_dir: /var/backups/firedrill
      stop_services: [web, worker]
"""

RETURN = r"""
_value:
  description: The text of the file.
  type: str
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.firedrill.postgres.plugins.filter.offsite_files import with_files
from ansible_collections.firedrill.postgres.plugins.module_utils._adapter import ENCRYPTION, TARGET
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import parse_config
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import ConfigError
from ansible_collections.firedrill.postgres.plugins.modules import (
    pg_dump_container,
    pg_restore_container,
    restore_drill,
)

_HEAD = "# Written by Ansible (firedrill.postgres.engine): changes by hand are lost.\n"
#: Groups of settings beside those of the databases.
GROUPS = frozenset({"alarms", "encryption", "offsite", "retention"})
#: Settings of a database that no module has.
_PINGS = {
    "ping_url": {"type": "str", "no_log": True},
    "ping_url_file": {"type": "path"},
    "drill_ping_url": {"type": "str", "no_log": True},
    "drill_ping_url_file": {"type": "path"},
}
#: What is asked for in each run, and not set once.
_NOT_SETTINGS = (
    "dest",
    "src",
    "state",
    "target",
    "fail_on",
    "log_file",
    "force",
    "config",
    "identity",
    *ENCRYPTION,
)
_RENAMED = {"timeout": "timeout_s"}


def options() -> dict[str, Any]:
    """The options of the modules that are settings of a database, as argument specs."""
    modules = (pg_dump_container, pg_restore_container, restore_drill)
    found = {**TARGET, **_PINGS}
    for module in modules:
        found.update(module.ARGUMENTS)
    specs = {name: deepcopy(spec) for name, spec in found.items() if name not in _NOT_SETTINGS}
    for spec in specs.values():
        spec.pop("required", None)
        spec.pop("default", None)
    return specs


def host_settings(given: Any, more: Any = None, **groups: Any) -> str:
    """See DOCUMENTATION."""
    plain = _plain(given)
    if not isinstance(plain, dict):
        raise AnsibleFilterError("host_settings wants a mapping of options")
    # None of these values means that it was not set.
    wanted = {name: value for name, value in plain.items() if value not in ("", None, [], {})}
    checked = ArgumentSpecValidator(options()).validate(wanted)
    if checked.error_messages:
        raise AnsibleFilterError(f"The settings are wrong: {'; '.join(checked.error_messages)}")
    settings = {name: _given(checked.validated_parameters[name]) for name in wanted}
    name = settings.pop("database", "")
    if not name:
        raise AnsibleFilterError("The settings are wrong: no database is named")
    further = _plain(more or {})
    if name in further:
        raise AnsibleFilterError(f'The settings are wrong: the database "{name}" is there twice')
    content = {
        "backup_dir": settings.pop("backup_dir", ""),
        **_groups(groups),
        "databases": {
            name: {_RENAMED.get(key, key): value for key, value in settings.items()},
            **further,
        },
    }
    try:
        parse_config(content, Path("config.yml"))
    except ConfigError as error:
        raise AnsibleFilterError(str(error)) from None
    return _HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _groups(found: dict[str, Any]) -> dict[str, Any]:
    """The groups of settings that hold for the whole host; an empty one means that the file has none."""
    unknown = sorted(found.keys() - GROUPS)
    if unknown:
        raise AnsibleFilterError(f"host_settings does not know {', '.join(unknown)}")
    plain = {name: _plain(value) for name, value in found.items() if value}
    if "offsite" in plain:
        plain["offsite"] = with_files(plain["offsite"])
    return plain


def _given(value: Any) -> Any:
    """Suboptions without those that were not set."""
    if isinstance(value, list):
        return [_given(entry) for entry in value]
    if isinstance(value, dict):
        return {key: entry for key, entry in value.items() if entry is not None}
    return value


def _plain(value: Any) -> Any:
    """Values without what Ansible attaches to them."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value if value is None else str(value)


class FilterModule:
    """The filter."""

    def filters(self) -> dict[str, Any]:
        return {"host_settings": host_settings}
