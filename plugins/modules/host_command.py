#!/usr/bin/python
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_command
short_description: Install the firedrill command on a host
version_added: 0.1.0
description:
  - Puts the engine of this collection on the host, together with the command C(firedrill) that runs it. The host then backs
    itself up, restores and drills without a controller.
  - An upgrade is one step. A run that is under way keeps the engine that it was started with, and the next one gets the new
    engine.
  - What the engine imports is not installed. On Debian it is the packages C(python3-docker), C(python3-psycopg2),
    C(python3-jmespath), C(python3-yaml) and, for tables in colour, C(python3-rich).
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: full
    details:
      - Shows the build before and after.
options:
  state:
    description:
      - V(present) installs the engine, or exchanges it for that of this collection.
      - V(absent) removes the command and every engine. Settings, recovery sets and records are not touched.
    type: str
    choices:
      - present
      - absent
    default: present
  home:
    description:
      - Directory of the engines on the host, one in each subdirectory.
    type: path
    default: /usr/local/lib/firedrill
  command:
    description:
      - The command's file.
      - The module fails when somebody else has put a file there.
    type: path
    default: /usr/local/bin/firedrill
  keep:
    description:
      - How many of the engines before stay.
      - One that a process is running always stays.
    type: int
    default: 1
author:
  - Firedrill contributors (@firedrill)
seealso:
  - module: firedrill.postgres.pg_dump_container
"""

EXAMPLES = r"""
- name: Install the firedrill command
  firedrill.postgres.host_command:

- name: Remove it
  firedrill.postgres.host_command:
    state: absent
"""

RETURN = r"""
msg:
  description: What was done, in words.
  returned: always
  type: str
  sample: The engine 0.2.0-3f1c9a0b7d52 takes the place of 0.1.0-9b1e44c0aa17
build:
  description: Version and hash of the engine, as C(firedrill --version) shows it.
  returned: when O(state=present)
  type: str
  sample: 0.2.0-3f1c9a0b7d52
before:
  description: The engine that was there.
  returned: when there was one
  type: str
  sample: 0.1.0-9b1e44c0aa17
removed:
  description: Engines that were removed.
  returned: success
  type: list
  elements: str
left:
  description: Engines that were to be removed, and that a process is running.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.firedrill.postgres.plugins.module_utils._installation import (
    InstallationError,
    Outcome,
    install,
    uninstall,
)

ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "home": {"type": "path", "default": "/usr/local/lib/firedrill"},
    "command": {"type": "path", "default": "/usr/local/bin/firedrill"},
    "keep": {"type": "int", "default": 1},
}


def words(outcome: Outcome) -> str:
    if not outcome.build:
        found = f"The engine {outcome.before} was removed" if outcome.before else "It was removed"
        return found if outcome.changed else "There is no engine"
    if not outcome.before:
        return f"The engine {outcome.build} is new here"
    if outcome.before != outcome.build:
        return f"The engine {outcome.build} takes the place of {outcome.before}"
    if outcome.changed:
        return f"The engine {outcome.build} was put in order"
    return f"The engine {outcome.build} is there"


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    home, command = Path(params["home"]), Path(params["command"])
    failure = ""
    outcome = Outcome()
    if params["keep"] < 0:
        module.fail_json(msg="keep has to be a number from 0 on")
    try:
        if params["state"] == "present":
            outcome = install(home, command, keep=params["keep"], check=module.check_mode)
        else:
            outcome = uninstall(home, command, check=module.check_mode)
    except InstallationError as error:
        failure = str(error)
    except OSError as error:
        failure = f"{error.filename or home}: {error.strerror or error}. Is this run as root (become: true)?"
    # Not inside `except`: there Ansible would add the traceback to the result.
    if failure:
        module.fail_json(msg=failure)
    result: dict[str, Any] = {"removed": outcome.removed, "left": outcome.left}
    known = {"build": outcome.build, "before": outcome.before}
    result.update({name: value for name, value in known.items() if value})
    if module._diff:
        after = outcome.build or "absent"
        result["diff"] = {
            "before": f"{outcome.before or 'absent'}\n",
            "after": f"{after}\n",
        }
    for build in outcome.left:
        module.warn(f"The engine {build} stays for now: a process is running it")
    module.exit_json(changed=outcome.changed, msg=words(outcome), **result)


if __name__ == "__main__":
    main()
