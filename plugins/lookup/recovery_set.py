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
  - Finds a recovery set on the controller and says which files it has.
  - Sizes and SHA-256 of all files are compared with its manifest, unless O(whole=false).
options:
  _terms:
    description: A file of the set, or a directory of sets.
    type: list
    elements: path
    required: true
  database:
    description: The database whose set is wanted.
    type: str
    required: true
  source:
    description: Which set of a directory, V(latest), V(before:2026-02-19T12:00:00Z), a timestamp or the name of a set.
    type: str
    default: latest
  place:
    description: What a directory is called in messages, where it is only a copy of another one, as V(nas:/var/backups/firedrill).
    type: str
    default: ""
  whole:
    description: Whether all its files have to be there. Otherwise manifests alone are enough.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Look at a set before it is sent to a host
  ansible.builtin.debug:
    msg: "{{ lookup('firedrill.postgres.recovery_set', '/mnt/backups', database='ai_fsm') }}"
"""

RETURN = r"""
_raw:
  description: One mapping for each term.
  type: list
  elements: dict
  contains:
    name:
      description: Name of the set.
      type: str
    directory:
      description: Where it lies.
      type: str
    files:
      description: Names of its files, the manifest last.
      type: list
      elements: str
    bytes:
      description: Size of all but the manifest.
      type: int
    created_at:
      description: When the dump was made, UTC.
      type: str
    encrypted:
      description: Whether a key is needed to read it.
      type: bool
    host:
      description: Name of the host that made it.
      type: str
    container:
      description: Name of the container that it was dumped from.
      type: str
    passed_over:
      description: Newer sets of the database that V(latest) does not mean, each with the reason.
      type: list
      elements: str
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    RecoverySet,
)
from ansible_collections.firedrill.postgres.plugins.plugin_utils.controller_sets import (
    find_set,
    passed_over,
)


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """See DOCUMENTATION."""
        self.set_options(var_options=variables, direct=kwargs)
        database, source = str(self.get_option("database")), str(self.get_option("source"))
        whole, called = bool(self.get_option("whole")), str(self.get_option("place"))
        found = []
        for place in (Path(str(term)) for term in terms):
            try:
                taken = find_set(place, database, source)
                described = _described(taken, whole)
                over = passed_over(place, taken) if place.is_dir() and source == "latest" else []
            except FiredrillError as error:
                raise AnsibleLookupError(_called(str(error), place, called)) from None
            found.append({**described, "passed_over": [_called(it, place, called) for it in over]})
        return found


def _called(said: str, place: Path, called: str) -> str:
    """A message with the directory called so, where that is another one than it was looked at in."""
    return said.replace(str(place if place.is_dir() else place.parent), called) if called else said


def _described(found: RecoverySet, whole: bool) -> dict[str, Any]:
    if whole:
        found.check_files()
    manifest = found.require_manifest()
    return {
        "name": found.name,
        "directory": str(found.path.parent.absolute()),
        "files": [*(entry.name for entry in manifest.entries), f"{found.name}.json"],
        "bytes": sum(entry.bytes for entry in manifest.entries),
        "created_at": manifest.created_at,
        "encrypted": found.locked,
        "host": manifest.source.host,
        "container": manifest.source.container,
    }
