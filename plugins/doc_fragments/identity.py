# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of the modules that open encrypted sets."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  identity:
    description:
      - The private key that opens an encrypted set, as text. It is sent to the host over the connection, is given to the programs
        through a pipe, and lies in no file of a disk.
      - Let the connection pipeline (C(ansible_pipelining=true)), as the roles do. Without that Ansible itself writes the options of a
        module to a temporary file on the host.
      - An identity of age (C(AGE-SECRET-KEY-...)), a private key of SSH, or an armored one of gpg; in each case without a passphrase.
    type: str
  identity_file:
    description:
      - Instead of O(identity) the path of a file on the host with the private key.
    type: path
"""
