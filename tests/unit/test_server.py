# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for a server, without one."""

from __future__ import annotations

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import server


def test_a_wait_ends_in_time_however_long_each_answer_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def ask() -> bool:
        nonlocal now
        # As long as a connection to a server that hangs.
        now += 15
        return False

    monkeypatch.setattr("time.monotonic", lambda: now)
    assert not server.wait_until(ask, 60, pause_s=0)
    assert now == 60
