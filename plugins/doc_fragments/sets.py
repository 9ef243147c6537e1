# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of the modules that read recovery sets."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  backup_dir:
    description:
      - Directory of the recovery sets on the host, the O(firedrill.postgres.pg_dump_container#module:dest) of the dumps.
      - The journal of restores lies there too.
    type: path
    required: true
  config:
    description:
      - The settings of the C(firedrill) command on the host, which role P(firedrill.postgres.engine#role) writes. Only read for a set
        at an offsite target, whose description is in them.
    type: path
    default: /etc/firedrill/config.yml
"""

    LOADING = r"""
options:
  jobs:
    description:
      - How many connections load the data at once; V(0) means one for each processor of the host.
    type: int
    default: 0
"""
