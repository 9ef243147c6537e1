#!/usr/bin/python
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_check
short_description: Prove that a private key opens an encrypted recovery set
version_added: 0.1.0
description:
  - Opens a recovery set of M(firedrill.postgres.pg_dump_container) with a private key and reads it to its last byte, without a restore.
  - Notes on the host when that was and with which key, by its public part. C(firedrill status) warns when it is too long ago.
extends_documentation_fragment:
  - firedrill.postgres.target
  - firedrill.postgres.sets
  - firedrill.postgres.identity
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
    details:
      - The set is opened and read all the same. Nothing is noted.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
    details:
      - A note is all that changes.
options:
  src:
    description:
      - Which set is opened, named as for O(firedrill.postgres.pg_restore_container#module:src).
    type: str
    default: latest
seealso:
  - module: firedrill.postgres.pg_dump_container
  - module: firedrill.postgres.restore_drill
"""

EXAMPLES = r"""
- name: Prove that the key in the vault still opens the newest set
  firedrill.postgres.key_check:
    project: ai-fsm
    service: db
    database: ai_fsm
    backup_dir: /var/backups/firedrill
    identity: "{{ vault_backup_key }}"
  become: true

- name: Prove that it opens the newest one at the offsite targets
  firedrill.postgres.key_check:
    project: ai-fsm
    service: db
    database: ai_fsm
    backup_dir: /var/backups/firedrill
    identity: "{{ vault_backup_key }}"
    src: offsite:latest
  become: true
"""

RETURN = r"""
msg:
  description: What was found, in one line.
  returned: always
  type: str
action:
  description: What ran.
  returned: success
  type: str
  sample: keycheck
verdict:
  description:
    - V(intact), or what else was found, V(backup_bad), V(not_tested) or V(partial). The task fails with the first two of them.
    - V(partial) means that the set opens and reads to its end, and has no manifest to hold it against. That proves no key, and
      nothing is noted.
  returned: when a set was opened
  type: str
  sample: intact
container:
  description: Name of the container whose pg_restore has read the set.
  returned: when a set was opened
  type: str
  sample: ai-fsm-db
database:
  description: The database.
  returned: when a set was opened
  type: str
  sample: ai_fsm
set_name:
  description: Name of the recovery set.
  returned: when a set was opened
  type: str
  sample: ai_fsm_20260219_020000
path:
  description: The dump file.
  returned: when a set was opened
  type: str
  sample: /var/backups/firedrill/ai_fsm_20260219_020000.dump.age
keys:
  description: The public keys that belong to the private one, as far as they can be told. For gpg their fingerprints.
  returned: when a set was opened
  type: list
  elements: str
  sample:
    - age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
recipients:
  description: The public keys that the set is encrypted to. For gpg their fingerprints.
  returned: when a set was opened
  type: list
  elements: str
  sample:
    - age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
phases:
  description: Seconds that each phase took.
  returned: success
  type: dict
  sample:
    sha256: 0.4
    unseal: 0.1
    read: 1.4
error:
  description:
    - Which kind of error it was, for rules of your own.
    - One of V(config), V(target), V(set), V(locked), V(host), V(tool), V(offsite), V(interrupted), V(internal).
  returned: failure
  type: str
  sample: locked
"""

from ansible_collections.firedrill.postgres.plugins.module_utils._adapter import (
    IDENTITY,
    run_key_check,
    run_module,
)

ARGUMENTS = {
    "src": {"type": "str", "default": "latest"},
    "backup_dir": {"type": "path", "required": True},
    "config": {"type": "path", "default": "/etc/firedrill/config.yml"},
    **IDENTITY,
}


def main() -> None:
    run_module(run_key_check, ARGUMENTS)


if __name__ == "__main__":
    main()
