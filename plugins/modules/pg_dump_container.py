#!/usr/bin/python
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_dump_container
short_description: Dump a PostgreSQL database of a container with evidence of its contents
version_added: 0.1.0
description:
  - Makes one complete recovery set of a database that runs in a Docker container. It consists of the dump in the custom format of
    pg_dump, the roles of the cluster (globals), and a manifest with checksums and with the rows and a fingerprint of every table.
  - The evidence is taken in the same snapshot as the dump, while the application goes on writing. A restore or a drill
    holds what it gets back against it.
  - A set appears in O(dest) complete or not at all. The finished archive is read to its end before it gets its name.
extends_documentation_fragment:
  - firedrill.postgres.target
  - firedrill.postgres.encryption
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
    details:
      - Says what would be dumped and to which file, after it has looked at the server, the database and the free space.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
    details:
      - A dump adds new files and changes none.
options:
  dest:
    description:
      - Directory of the recovery sets on the host. It is created with mode C(0700) where it is missing.
    type: path
    required: true
  compress:
    description:
      - Compression of the dump, either V(auto), a method, or a method and its level as in V(zstd:3).
      - The methods are V(gzip) and V(none), from PostgreSQL 16 on also V(zstd) and V(lz4).
      - V(auto) means V(zstd:3) where the server has it, else V(gzip:6).
    type: str
    default: auto
  evidence:
    description:
      - What is noted about each table, so that a restore can prove itself.
      - V(full) notes the number of rows and a fingerprint of their contents.
      - V(counts) notes the number of rows only, which takes a fraction of the time.
      - V(none) notes nothing. What is restored from such a set cannot be verified.
    type: str
    choices:
      - full
      - counts
      - none
    default: full
  globals:
    description:
      - Whether the set includes the roles, memberships and settings of the cluster, with password hashes where O(user) may read them.
    type: bool
    default: true
  exclude_table_data:
    description:
      - Tables that are dumped without their rows, as patterns of pg_dump's C(--exclude-table-data).
      - The manifest says so.
    type: list
    elements: str
    default: []
  min_free_bytes:
    description:
      - Bytes that have to stay free on the disk of O(dest). No dump is begun that would need them, by an estimate.
    type: int
    default: 0
seealso:
  - module: firedrill.postgres.pg_restore_container
  - module: firedrill.postgres.restore_drill
"""

EXAMPLES = r"""
- name: Dump a database of a Compose project
  firedrill.postgres.pg_dump_container:
    project: ai-fsm
    service: db
    database: ai_fsm
    dest: /var/backups/firedrill
  become: true
  register: dump

- name: Show what was made
  ansible.builtin.debug:
    var: dump.path

- name: Dump as small as possible, without the rows of the log, and keep 2 GB free
  firedrill.postgres.pg_dump_container:
    container: ai-fsm-db
    database: ai_fsm
    dest: /var/backups/firedrill
    compress: zstd:19
    exclude_table_data:
      - public.access_log
    min_free_bytes: 2000000000
  become: true

- name: Dump to a set that only the holder of a private key can read
  firedrill.postgres.pg_dump_container:
    container: ai-fsm-db
    database: ai_fsm
    dest: /var/backups/firedrill
    encrypt_with: age
    recipients:
      - age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
  become: true
"""

RETURN = r"""
msg:
  description: What was done, in one line.
  returned: always
  type: str
  sample: "/var/backups/firedrill/ai_fsm_20260219_020000.dump: 82.1 MB in 9.3 s, 7 tables, 5500000 rows"
action:
  description: What ran.
  returned: success
  type: str
  sample: backup
container:
  description: Name of the server's container.
  returned: success
  type: str
  sample: ai-fsm-db
database:
  description: The database.
  returned: success
  type: str
  sample: ai_fsm
set_name:
  description: Name of the recovery set, which O(firedrill.postgres.pg_restore_container#module:src) takes.
  returned: success
  type: str
  sample: ai_fsm_20260219_020000
path:
  description: The dump file.
  returned: success
  type: str
  sample: /var/backups/firedrill/ai_fsm_20260219_020000.dump
bytes:
  description: Size of the dump file.
  returned: when a set was made
  type: int
  sample: 82113024
sha256:
  description: SHA-256 of the dump file.
  returned: when a set was made
  type: str
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
created_at:
  description: When the snapshot of the dump was taken, in UTC.
  returned: when a set was made
  type: str
  sample: "2026-02-19T02:00:00Z"
compress:
  description: The compression that was used.
  returned: success
  type: str
  sample: zstd:3
evidence_level:
  description: The evidence that the manifest holds; V(sealed) when it is encrypted.
  returned: when a set was made
  type: str
  sample: full
rows:
  description: Rows of each table in the dump; empty when they are encrypted.
  returned: when a set was made
  type: dict
  sample:
    public.jobs: 1200
    public.users: 42
total_rows:
  description: Rows of all tables together, also of a dump that is encrypted; null when they were not counted and there are some.
  returned: when a set was made
  type: int
  sample: 1242
phases:
  description: Seconds that each phase took.
  returned: success
  type: dict
  sample:
    dump: 7.4
    evidence: 0.2
    preflight: 0.1
    verify: 1.4
error:
  description:
    - Which kind of error it was, for rules of your own.
    - One of V(config), V(target), V(set), V(host), V(busy), V(tool), V(server), V(interrupted), V(internal).
  returned: failure
  type: str
  sample: target
"""

from ansible_collections.firedrill.postgres.plugins.module_utils._adapter import (
    ENCRYPTION,
    run_backup,
    run_module,
)

ARGUMENTS = {
    "dest": {"type": "path", "required": True},
    "compress": {"type": "str", "default": "auto"},
    "evidence": {"type": "str", "choices": ["full", "counts", "none"], "default": "full"},
    "globals": {"type": "bool", "default": True},
    "exclude_table_data": {"type": "list", "elements": "str", "default": []},
    "min_free_bytes": {"type": "int", "default": 0},
    **ENCRYPTION,
}


def main() -> None:
    run_module(run_backup, ARGUMENTS)


if __name__ == "__main__":
    main()
