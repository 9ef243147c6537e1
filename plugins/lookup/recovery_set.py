# -*- coding: utf-8 -*-
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: recovery_set
short_description: A recovery set that lies on the controller
version_added: 0.1.0
author:
  - Firedrill contributors (@firedrill)
description:
  - Finds a recovery set in a directory of the controller and reads all its files, so that a damaged one is noticed before a
    host is touched.
options:
  _terms:
    description:
      - A file of the set, or a directory. Of a directory the newest complete set of O(database) is taken.
    required: true
  database:
    description: The database.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show which set would be brought to a new host
  ansible.builtin.debug:
    msg: "{{ lookup('firedrill.postgres.recovery_set', '/srv/offsite/pi4', database='ai_fsm').name }}"
"""

RETURN = r"""
_raw:
  description: One dictionary for each term.
  type: list
  elements: dict
  contains:
    name:
      description: Name of the set.
      type: str
      sample: ai_fsm_20260219_020000
    created_at:
      description: When its snapshot was taken.
      type: str
    rows:
      description: How many rows its evidence has.
      type: int
    bytes:
      description: Size of the dump.
      type: int
    dump:
      description: File name of the dump.
      type: str
    files:
      description: Paths of its files, the manifest last.
      type: list
      elements: str
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
    SetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault


def find(term: str, database: str) -> dict[str, Any]:
    """The set that a term means.

    :raises FiredrillError: there is none, it is damaged, or it is of another database.
    """
    path = Path(term).expanduser().absolute()
    source, directory = ("latest", path) if path.is_dir() else (str(path), path.parent)
    found = Vault(directory).resolve(source, database)
    manifest = found.require_manifest()
    if manifest.database != database:
        raise SetError(
            f'{found.path} is of the database "{manifest.database}", not of "{database}"',
            todo="Name the right file, or set firedrill_database",
        )
    found.check_files()
    manifest_file, *others = found.files()
    return {
        "name": found.name,
        "created_at": manifest.created_at,
        "rows": manifest.evidence.rows,
        "bytes": manifest.dump.bytes,
        "dump": found.path.name,
        # What arrives without its manifest is no set.
        "files": [str(path) for path in (*others, manifest_file)],
    }


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: Any, variables: Any = None, **options: Any) -> list[dict[str, Any]]:
        self.set_options(var_options=variables, direct=options)
        database = str(self.get_option("database"))
        try:
            return [find(str(term), database) for term in terms]
        except FiredrillError as error:
            raise AnsibleError(str(error)) from None
        except OSError as error:
            raise AnsibleError(f"{error.filename}: {error.strerror}") from None
