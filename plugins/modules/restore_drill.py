#!/usr/bin/python
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_drill
short_description: Prove that a backup restores, in a throwaway server, or validate the live database
version_added: 0.1.0
description:
  - Restores a recovery set of M(firedrill.postgres.pg_dump_container) into a throwaway server from the same image, without a
    network and without any effect on production, compares every table with the evidence of the manifest, and runs the checks.
  - The outcome is a verdict with its reason, and a record of the drill. A drill that could not be made is not a bad backup, and
    it is not a good one either.
  - With O(target=live) the checks run on the live database and its application, as after a restore.
  - Nothing is left behind. What a drill leaves that was killed, the next one removes.
extends_documentation_fragment:
  - firedrill.postgres.target
  - firedrill.postgres.sets
  - firedrill.postgres.sets.loading
  - firedrill.postgres.identity
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
    details:
      - Says which set would be drilled with which checks. Nothing is started and nothing is recorded.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
    details:
      - A drill changes nothing but its records, to which it appends.
options:
  target:
    description:
      - V(scratch) restores O(src) into a throwaway server.
      - V(live) runs O(assertions), O(freshness) and O(http_checks) on the live database. Its rows are not compared with the set, since
        the application has written since.
    type: str
    choices:
      - scratch
      - live
    default: scratch
  src:
    description:
      - Which set is drilled, named as for O(firedrill.postgres.pg_restore_container#module:src).
    type: str
    default: latest
  assertions:
    description:
      - SQL that has to be true of the restored data.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - What is promised, in words for the report.
        type: str
      sql:
        description:
          - A query whose only value has to be true.
        type: str
        required: true
  freshness:
    description:
      - How old the data may be.
    type: dict
    suboptions:
      max_age_s:
        description:
          - Highest age in seconds.
        type: float
        required: true
      sql:
        description:
          - A query that returns the moment of the newest data. Without it the age of the set counts.
        type: str
  http_checks:
    description:
      - Requests to the application and the answers that are expected of it.
      - They are made with O(target=live) only. A throwaway database has no application; there they are reported as skipped, which
        leaves the verdict as it is.
      - Exactly one of O(http_checks[].url) and O(http_checks[].service) has to be set in each entry.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - What is checked, in words for the report.
        type: str
      service:
        description:
          - Service of the same Compose project, or name of a container. It is asked from inside its own network, so that its
            port need not be published, and no other program can answer in its place.
        type: str
      port:
        description:
          - Port on which O(http_checks[].service) listens in its container.
        type: int
      path:
        description:
          - Path of the request to O(http_checks[].service).
        type: str
        default: /
      url:
        description:
          - An address that is asked from the host.
        type: str
      method:
        description:
          - Method of the request.
        type: str
        default: GET
      headers:
        description:
          - Headers of the request. They may hold secrets and are not logged.
        type: dict
      body:
        description:
          - Body of the request. A string is sent as it is, everything else as JSON.
          - It may hold secrets and is not logged. Ansible hides each of its values wherever it occurs in the result. Where a
            body has values that are as short as V(1), write it as one string of JSON, which is hidden as a whole.
        type: raw
      expect_status:
        description:
          - Status that the answer has to have.
        type: int
        default: 200
      expect:
        description:
          - A JMESPath expression on the JSON of the answer. Its value has to be O(http_checks[].equals), or true without it.
          - It needs the Python library C(jmespath) on the host (Debian package C(python3-jmespath)).
        type: str
      equals:
        description:
          - What O(http_checks[].expect) has to give.
        type: raw
      timeout_s:
        description:
          - Seconds to wait for the answer.
        type: float
        default: 10
  record_file:
    description:
      - Markdown file on the host to which a C(DRILL-<date>) entry is appended.
    type: path
  log_file:
    description:
      - File on the host to which one line of JSON is appended.
      - The default is C(drills.jsonl) in O(backup_dir).
    type: path
  fail_on:
    description:
      - Verdicts with which the module fails. With V(partial) it warns, unless it is listed here.
    type: list
    elements: str
    choices:
      - backup_bad
      - environment
      - partial
      - not_tested
    default:
      - backup_bad
      - environment
      - not_tested
seealso:
  - module: firedrill.postgres.pg_dump_container
  - module: firedrill.postgres.pg_restore_container
"""

EXAMPLES = r"""
- name: Prove that the newest set restores, and note it
  firedrill.postgres.restore_drill:
    project: ai-fsm
    service: db
    database: ai_fsm
    backup_dir: /var/backups/firedrill
    freshness:
      max_age_s: 93600
    assertions:
      - name: every invoice belongs to a job
        sql: SELECT count(*) = 0 FROM public.invoices i LEFT JOIN public.jobs j ON j.id = i.job_id WHERE j.id IS NULL
    record_file: /srv/ai-fsm/docs/DECISION_LOG.md
    log_file: /var/backups/firedrill/drills.jsonl
  become: true

- name: Check the live database and its application after a restore
  firedrill.postgres.restore_drill:
    target: live
    project: ai-fsm
    service: db
    database: ai_fsm
    backup_dir: /var/backups/firedrill
    http_checks:
      - name: health
        service: web
        port: 3000
        path: /api/health
        expect: checks.db
        equals: ok
      - name: login
        service: web
        port: 3000
        path: /api/v1/auth/login
        method: POST
        body:
          email: admin@example.com
          password: "{{ vault_admin_password }}"
        expect: user.role
        equals: owner
  become: true
"""

RETURN = r"""
msg:
  description: The verdict and its reason, in one line.
  returned: always
  type: str
action:
  description: What ran.
  returned: when a drill was made
  type: str
  sample: drill
verdict:
  description:
    - V(pass) means that everything was checked and is as promised. RV(not_compared) lists what never is compared, as the contents of
      materialized views.
    - V(backup_bad) means that the set does not give back what it should, that an assertion is not true of it, or that it is
      older than O(freshness) allows.
    - V(environment) means that the host did not let the drill happen, that a check could not be asked, or that the application did
      not answer as expected, which says nothing about the set.
    - V(partial) means that nothing was wrong, but something was not checked; O(http_checks) without an application do not count.
    - V(not_tested) means that nothing was checked. The records say it as well of a drill that a signal or the time limit ended, with
      which the task fails.
  returned: when a drill was made
  type: str
  sample: pass
reason:
  description: The reason of the verdict.
  returned: when a drill was made
  type: str
  sample: 5 checks of 5 are ok
at:
  description: When the drill ended, in UTC.
  returned: when a drill was made
  type: str
  sample: "2026-02-19T09:20:11Z"
target:
  description: What was drilled, V(scratch) or V(live).
  returned: when a drill was made
  type: str
  sample: scratch
checks:
  description: The outcome of each check.
  returned: when a drill was made
  type: list
  elements: dict
  contains:
    kind:
      description: What kind of check it is.
      type: str
      returned: always
      sample: evidence
    name:
      description: Which check it is.
      type: str
      returned: always
      sample: equal
    status:
      description:
        - V(ok), V(failed), V(error) when it could not be asked, V(skipped), or V(partial) when a table or the large objects could
          not be read.
      type: str
      returned: always
      sample: ok
    reason:
      description: Why it is not V(ok), or what was found.
      type: str
      returned: always
    seconds:
      description: Seconds that it took.
      type: float
      returned: always
      sample: 0.2
container:
  description: Name of the container of the live server.
  returned: when a drill was made
  type: str
  sample: ai-fsm-db
database:
  description: The database.
  returned: when a drill was made
  type: str
  sample: ai_fsm
set_name:
  description: Name of the recovery set.
  returned: when a set was drilled
  type: str
  sample: ai_fsm_20260219_020000
path:
  description: The dump file.
  returned: when a set was drilled
  type: str
  sample: /var/backups/firedrill/ai_fsm_20260219_020000.dump
rows:
  description: Rows of each table of the set.
  returned: when a drill was made
  type: dict
  sample:
    public.jobs: 1200
    public.users: 42
rto_s:
  description: Seconds from the start to proven data, which is the measured recovery time.
  returned: when a drill was made
  type: float
  sample: 32.1
restored_at:
  description: When the live database was restored, if the last restore is known; RV(rto_s) is then how long that took.
  returned: when O(target=live) and a restore is known
  type: str
  sample: "2026-02-19T09:18:40Z"
hardware:
  description: On what it was measured.
  returned: when a drill was made
  type: str
  sample: Raspberry Pi 4 Model B Rev 1.4, aarch64, 4 processors, 8.2 GB of memory
differences:
  description: What differs from the manifest.
  returned: when a drill was made
  type: list
  elements: str
not_compared:
  description: What was not compared with the manifest, and why.
  returned: when a drill was made
  type: list
  elements: str
record:
  description: Heading of the entry in O(record_file).
  returned: when an entry was written
  type: str
  sample: DRILL-2026-02-19
phases:
  description: Seconds that each phase took.
  returned: when a drill was made
  type: dict
  sample:
    analyze: 1.0
    check set: 1.9
    evidence: 6.8
    load: 21.2
    start server: 4.3
error:
  description:
    - Which kind of error it was, for rules of your own.
    - One of V(config), V(target), V(set), V(offsite), V(host), V(busy), V(tool), V(server), V(interrupted), V(internal).
  returned: when no drill was made
  type: str
  sample: host
"""

from ansible_collections.firedrill.postgres.plugins.module_utils._adapter import (
    IDENTITY,
    run_drill,
    run_module,
)

ARGUMENTS = {
    "target": {"type": "str", "choices": ["scratch", "live"], "default": "scratch"},
    "src": {"type": "str", "default": "latest"},
    "backup_dir": {"type": "path", "required": True},
    "config": {"type": "path", "default": "/etc/firedrill/config.yml"},
    "assertions": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"name": {"type": "str"}, "sql": {"type": "str", "required": True}},
    },
    "freshness": {
        "type": "dict",
        "options": {"max_age_s": {"type": "float", "required": True}, "sql": {"type": "str"}},
    },
    "http_checks": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str"},
            "service": {"type": "str"},
            "port": {"type": "int"},
            "path": {"type": "str", "default": "/"},
            "url": {"type": "str"},
            "method": {"type": "str", "default": "GET"},
            "headers": {"type": "dict", "no_log": True},
            "body": {"type": "raw", "no_log": True},
            "expect_status": {"type": "int", "default": 200},
            "expect": {"type": "str"},
            "equals": {"type": "raw"},
            "timeout_s": {"type": "float", "default": 10},
        },
        "mutually_exclusive": [("url", "service")],
        "required_one_of": [("url", "service")],
        "required_together": [("service", "port")],
    },
    "record_file": {"type": "path"},
    "log_file": {"type": "path"},
    "jobs": {"type": "int", "default": 0},
    "fail_on": {
        "type": "list",
        "elements": "str",
        "choices": ["backup_bad", "environment", "partial", "not_tested"],
        "default": ["backup_bad", "environment", "not_tested"],
    },
    **IDENTITY,
}


def main() -> None:
    run_module(run_drill, ARGUMENTS)


if __name__ == "__main__":
    main()
