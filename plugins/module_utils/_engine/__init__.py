# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine: dump, restore and drill one PostgreSQL database in a container; knows no Ansible."""

from __future__ import annotations

__version__ = "0.1.0"
