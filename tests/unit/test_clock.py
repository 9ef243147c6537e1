# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A clock that is not set yet: runs wait for it after the boot, and nothing gets a date that says nothing."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import clock
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import HostError

UNSET = datetime(1970, 1, 1, 0, 2, tzinfo=timezone.utc)
RIGHT = datetime(2026, 2, 19, 2, 0, tzinfo=timezone.utc)


class Board:
    """A host that was started `uptime_s` ago; `shown` is what its clock shows, one look after the other."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, shown: list[datetime], uptime_s: float = 5
    ) -> None:
        self.shown = shown
        self.looks = 0
        monkeypatch.setattr(clock, "_PAUSE_S", 0.01)
        monkeypatch.setattr(clock, "uptime_s", lambda: uptime_s)
        monkeypatch.setattr(clock, "utc_now", self._look)

    def _look(self) -> datetime:
        self.looks += 1
        return self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]


def test_a_run_after_the_boot_waits_until_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch, [UNSET, UNSET, UNSET, RIGHT])
    assert clock.await_clock(None) == ""
    assert board.looks == 4


def test_it_waits_for_a_clock_that_shows_less_than_the_newest_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A board without a battery goes on where it was shut down."""
    board = Board(monkeypatch, [RIGHT - timedelta(days=1), RIGHT])
    assert clock.await_clock(RIGHT - timedelta(hours=1)) == ""
    assert board.looks == 2


def test_a_clock_that_is_never_set_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch, [UNSET])
    with pytest.raises(HostError) as caught:
        clock.await_clock(RIGHT, wait_s=0.05)
    assert board.looks > 1
    assert "the clock says 1970-01-01T00:02:00Z: it is not set" in str(caught.value)
    assert "timedatectl" in str(caught.value)


@pytest.mark.parametrize(("wait_s", "uptime_s"), [(600, 601), (0, 5)])
def test_nobody_waits_long_after_the_boot_or_who_only_asks(
    monkeypatch: pytest.MonkeyPatch, wait_s: float, uptime_s: float
) -> None:
    board = Board(monkeypatch, [UNSET], uptime_s)
    with pytest.raises(HostError):
        clock.await_clock(None, wait_s)
    assert board.looks == 1


def test_a_set_of_the_future_is_a_doubt_and_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The set may be what is wrong, and there must be a backup."""
    Board(monkeypatch, [RIGHT], uptime_s=1e6)
    found = clock.await_clock(RIGHT + timedelta(hours=30))
    assert "the newest set is of 2026-02-20T08:00:00Z" in found
    assert "30 h 0 min lie between" in found


@pytest.mark.parametrize(
    ("now", "newest", "said"),
    [
        (RIGHT, None, ""),
        (RIGHT, RIGHT - timedelta(days=400), ""),
        (RIGHT, RIGHT + timedelta(seconds=clock.TOLERANCE_S), ""),
        (RIGHT, RIGHT + timedelta(seconds=clock.TOLERANCE_S + 1), "the newest set is of"),
        (clock.FLOOR, None, ""),
        (clock.FLOOR - timedelta(seconds=1), None, "it is not set"),
        (UNSET, RIGHT, "it is not set"),
    ],
)
def test_a_clock_is_doubted_when_it_cannot_be_right(
    now: datetime, newest: datetime | None, said: str
) -> None:
    found = clock.doubt(now, newest)
    assert said in found
    assert bool(found) == bool(said)


def test_a_host_was_started_before_now() -> None:
    assert 0 < clock.uptime_s() < 10 * 365 * 86400
