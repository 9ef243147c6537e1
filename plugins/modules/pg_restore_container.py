#!/usr/bin/python
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_restore_container
short_description: Restore a PostgreSQL database of a container and verify it
version_added: 0.1.0
description:
  - Restores a recovery set of M(firedrill.postgres.pg_dump_container) into the server of a Docker container, and verifies
    that exactly the rows of the dump are there before the application gets to see them.
  - By default the set is restored beside the live database and swapped in at the end. The application is stopped for
    seconds, whatever the size, and the live database is not touched before that moment.
  - Everything that can be known to go wrong is looked for before anything is stopped, and is reported in one message.
  - The same restore again changes nothing, even when the application has written since. See O(force).
extends_documentation_fragment:
  - firedrill.postgres.target
  - firedrill.postgres.sets
  - firedrill.postgres.sets.loading
  - firedrill.postgres.identity
  - firedrill.postgres.encryption
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
    details:
      - Runs the whole preflight and says what would happen and why. Nothing is stopped and nothing is written.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: full
    details:
      - Shows the rows of each table before and after.
options:
  state:
    description:
      - V(restored) restores O(src).
      - V(rolled_back) undoes the last restore, by swapping the database back that O(keep_previous) kept.
    type: str
    choices:
      - restored
      - rolled_back
    default: restored
  src:
    description:
      - Which set is restored. Required if O(state=restored).
      - V(latest) is the newest complete set of O(database) in O(backup_dir). One with a date in the future, made while a clock
        was wrong, is passed over with a warning unless there is no other. Where other containers have sets of a database of that
        name there, it is the newest of this one, or of the only other that has made any.
      - V(before:) and a time, as in V(before:2026-02-19T12:00:00Z), is the newest complete set from before that time. After an
        accident the newest set may be a dump of the accident.
      - A timestamp as in V(20260219_020000) or a file name is looked up in O(backup_dir).
      - V(offsite:latest) is the newest complete set at the offsite targets of O(config), V(offsite:TARGET/latest) that of one
        of them, and V(offsite:TARGET/NAME) a set by its name or timestamp. It is downloaded, checked, and removed afterwards.
      - What else contains a slash is a path of a dump file on the host.
      - Times without a zone are UTC.
    type: str
  method:
    description:
      - V(swap) restores beside the live database, then renames both. It needs the disk for two copies.
      - V(replace) stops the application first, drops the database and then restores, for hosts without the disk for two
        copies. What is restored gets the name when it is complete, so until then who connects all the same finds no database.
    type: str
    choices:
      - swap
      - replace
    default: swap
  stop_services:
    description:
      - Services of the same Compose project, or names of containers, that are stopped while the database is
        swapped or replaced, and started afterwards. What was not running is not started.
    type: list
    elements: str
    default: []
  no_owner:
    description:
      - Whether everything shall belong to O(user) instead of its owners in the dump.
    type: bool
    default: false
  no_privileges:
    description:
      - Whether the grants in the dump shall be left out.
    type: bool
    default: false
  post_sql:
    description:
      - SQL that is played after the restore, before the application gets to see the database.
      - The database still has another name then, so that C(\connect) and C(ON DATABASE) by its name fail; C(current_database()) tells
        the name.
      - Exactly one of O(post_sql[].file), O(post_sql[].container_file) and O(post_sql[].sql) has to be set in each entry.
    type: list
    elements: dict
    default: []
    suboptions:
      file:
        description:
          - A file on the host.
        type: path
      container_file:
        description:
          - A file inside the container of the server.
        type: str
      sql:
        description:
          - Statements. They may hold secrets and are not logged.
        type: str
  keep_previous:
    description:
      - Whether the database that was swapped out is kept as C(<database>_before_<time>), which makes
        O(state=rolled_back) possible.
      - With O(fresh_cluster=true) one that holds data is always kept.
    type: bool
    default: true
  safety_dump:
    description:
      - Whether the live database is dumped first, into O(backup_dir), where nothing else keeps it. That is with O(method=replace),
        and with O(method=swap) if O(keep_previous=false).
      - O(method=replace) makes it while the application is stopped. After O(method=swap) the database that was swapped out is kept
        all the same, and a warning says so, if it was written to after its dump.
    type: bool
    default: true
  verify:
    description:
      - Whether the restored database is compared with the manifest of the set.
      - Only with V(false) a dump can be restored that has no manifest.
    type: bool
    default: true
  force:
    description:
      - Whether to restore the set even if it is already what is in the database, or if it is of another database.
    type: bool
    default: false
  restore_superusers:
    description:
      - Whether roles that are missing on the server may be created with C(SUPERUSER), C(REPLICATION) or C(BYPASSRLS).
      - The attributes and the password of an existing role are never altered, whatever this option says, unless
        O(fresh_cluster=true). It becomes a member of a role that is created here if it is one in the set, with a warning.
    type: bool
    default: false
  fresh_cluster:
    description:
      - Whether the cluster was initialised just now, for this restore, as that of a new container on a blank host.
      - A database that is there already and holds no data (no row of a table or materialized view, no large object) may be
        dropped. One that holds some is kept as C(<database>_before_<time>), even with O(keep_previous=false), and a warning says
        so; O(method) is V(swap), whatever it says.
      - The database gets the properties that it has in the set (owner, encoding and locale, grants, settings, connection limit and
        comment), also where the container's start has made it already. Otherwise they are those of the live database.
      - All roles of the set are created, not only those that the database needs.
      - Roles that the container's start has made already get the attributes, passwords, settings and memberships that they have
        in the set; those of other restores are left as they are. The cluster's own superuser is never altered.
      - The restore waits until the container's final server answers, at most ten minutes. The entrypoint of the official
        image has a temporary one first, which plays the init directory.
    type: bool
    default: false
seealso:
  - module: firedrill.postgres.pg_dump_container
  - module: firedrill.postgres.restore_drill
"""

EXAMPLES = r"""
- name: Restore the newest set, with the application stopped for the swap
  firedrill.postgres.pg_restore_container:
    project: ai-fsm
    service: db
    database: ai_fsm
    backup_dir: /var/backups/firedrill
    src: latest
    stop_services:
      - web
      - worker
  become: true

- name: See what would happen, and the rows of each table before and after
  firedrill.postgres.pg_restore_container:
    container: ai-fsm-db
    database: ai_fsm
    backup_dir: /var/backups/firedrill
    src: before:2026-02-19T12:00:00Z
  become: true
  check_mode: true
  diff: true

- name: Restore in place, without owners and grants, and play the schema again
  firedrill.postgres.pg_restore_container:
    container: ai-fsm-db
    database: ai_fsm
    backup_dir: /var/backups/firedrill
    src: "20260219_020000"
    method: replace
    no_owner: true
    no_privileges: true
    post_sql:
      - container_file: /docker-entrypoint-initdb.d/001_core_schema.sql
  become: true

- name: Go back to the database as it was before the restore
  firedrill.postgres.pg_restore_container:
    project: ai-fsm
    service: db
    database: ai_fsm
    backup_dir: /var/backups/firedrill
    state: rolled_back
    stop_services:
      - web
      - worker
  become: true
"""

RETURN = r"""
msg:
  description: What was done or would be done, and why, in one line.
  returned: always
  type: str
action:
  description: What ran.
  returned: success
  type: str
  sample: restore
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
  description: Name of the recovery set.
  returned: success
  type: str
  sample: ai_fsm_20260219_020000
path:
  description: The dump file.
  returned: when O(state=restored)
  type: str
  sample: /var/backups/firedrill/ai_fsm_20260219_020000.dump
previous:
  description: Name under which the database from before is kept; empty where there is none.
  returned: success
  type: str
  sample: ai_fsm_before_20260219_091502
safety_set:
  description: Name of the set that the live database was dumped to first.
  returned: when a safety dump was made
  type: str
  sample: ai_fsm_20260219_091500
stopped:
  description: Containers of the application that are stopped meanwhile.
  returned: when O(state=restored)
  type: list
  elements: str
  sample:
    - ai-fsm-web-1
    - ai-fsm-worker-1
downtime_s:
  description: Seconds for which the application was stopped.
  returned: success
  type: float
  sample: 1.8
rows_before:
  description: Rows of each table of the live database before.
  returned: when O(state=restored)
  type: dict
  sample:
    public.jobs: 0
    public.users: 42
rows_after:
  description: Rows of each table afterwards, in check mode those of the set.
  returned: when O(state=restored)
  type: dict
  sample:
    public.jobs: 1200
    public.users: 42
earlier_set:
  description: The set before the one that is restored.
  returned: when O(state=restored) and there is one
  type: str
  sample: ai_fsm_20260218_020000
rows_earlier:
  description: Rows of each table of RV(earlier_set). Of an encrypted set nobody knows them without its key.
  returned: when O(state=restored)
  type: dict
  sample:
    public.jobs: 1180
    public.users: 42
differences:
  description: What differs from the manifest. A restore with differences fails, so the list is empty.
  returned: when O(state=restored)
  type: list
  elements: str
not_compared:
  description: What was not compared with the manifest, and why.
  returned: when O(state=restored)
  type: list
  elements: str
phases:
  description: Seconds that each phase took.
  returned: success
  type: dict
  sample:
    analyze: 1.1
    downtime: 1.8
    load: 21.2
    preflight: 1.9
    verify: 6.8
findings:
  description: Every reason not to begin that was found before anything was stopped.
  returned: when the restore was refused
  type: list
  elements: str
error:
  description:
    - Which kind of error it was, for rules of your own.
    - One of V(config), V(target), V(set), V(locked), V(offsite), V(host), V(busy), V(tool), V(server), V(mismatch), V(refused),
      V(interrupted), V(internal).
  returned: failure
  type: str
  sample: refused
"""

from ansible_collections.firedrill.postgres.plugins.module_utils._adapter import (
    ENCRYPTION,
    IDENTITY,
    run_module,
    run_restore,
)

_SCRIPT_KINDS = ("file", "container_file", "sql")

ARGUMENTS = {
    "state": {"type": "str", "choices": ["restored", "rolled_back"], "default": "restored"},
    "src": {"type": "str"},
    "backup_dir": {"type": "path", "required": True},
    "config": {"type": "path", "default": "/etc/firedrill/config.yml"},
    "method": {"type": "str", "choices": ["swap", "replace"], "default": "swap"},
    "stop_services": {"type": "list", "elements": "str", "default": []},
    "jobs": {"type": "int", "default": 0},
    "no_owner": {"type": "bool", "default": False},
    "no_privileges": {"type": "bool", "default": False},
    "post_sql": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "file": {"type": "path"},
            "container_file": {"type": "str"},
            "sql": {"type": "str", "no_log": True},
        },
        "mutually_exclusive": [_SCRIPT_KINDS],
        "required_one_of": [_SCRIPT_KINDS],
    },
    "keep_previous": {"type": "bool", "default": True},
    "safety_dump": {"type": "bool", "default": True},
    "verify": {"type": "bool", "default": True},
    "force": {"type": "bool", "default": False},
    "restore_superusers": {"type": "bool", "default": False},
    "fresh_cluster": {"type": "bool", "default": False},
    **ENCRYPTION,
    **IDENTITY,
}


def main() -> None:
    run_module(run_restore, ARGUMENTS, required_if=[("state", "restored", ("src",))])


if __name__ == "__main__":
    main()
