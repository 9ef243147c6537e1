# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of the modules that make recovery sets."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  encrypt_with:
    description:
      - Encrypts every set that is made here, safety dumps too, by public keys, so that the host itself cannot read it.
        The dump is encrypted while it streams, and no plaintext of it reaches a disk.
      - V(age) takes X25519 and SSH public keys and is fast on processors without AES instructions; V(gpg) takes armored public keys.
      - Without it nothing is encrypted. Where the last backup of the database is, a backup warns then, and a restore that needs a
        safety dump is refused.
    type: str
    choices:
      - age
      - gpg
  recipients:
    description:
      - The public keys as text. Each of their private keys opens a set. They are checked before anything is done.
    type: list
    elements: str
    default: []
  recipients_files:
    description:
      - Files on the host with more public keys, one a line or as armored blocks.
    type: list
    elements: path
    default: []
"""
