# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What retention promises, whatever sets there are."""

from __future__ import annotations

import random
from dataclasses import astuple
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.retention import (
    Candidate,
    Decision,
    History,
    Policy,
    decide,
    find_loss,
)

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=timezone.utc)
CLOCK_WAS_SET = datetime(2000, 1, 1, tzinfo=timezone.utc)


#: A busy machine is no failure.
in_its_own_time = settings(deadline=None)


def aged(days: float, name: str = "", **more: Any) -> Candidate:
    return Candidate(name or f"set-{days:g}", NOW - timedelta(days=days), **more)


ages = st.one_of(
    st.floats(-3, 40, allow_nan=False),
    # The counting rules look back for years.
    st.floats(40, 1500),
    # A clock that was not set, or that ran ahead by years.
    st.sampled_from([-4000.0, 15000.0, 20000.0, 7.0, 0.0]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Candidate]:
    drawn = draw(
        st.lists(
            st.tuples(
                ages,
                st.booleans(),
                st.booleans(),
                st.booleans(),
                st.one_of(st.none(), st.integers(0, 100)),
                st.sampled_from([(), (), ("s3",), ("s3", "nas")]),
                st.booleans(),
            ),
            max_size=25,
        )
    )
    return [
        aged(
            age,
            f"set-{n:02}",
            passed=passed and not bad,
            damaged=bad,
            safety=safety,
            rows=rows,
            unconfirmed=unconfirmed,
            partly=(passed or partly) and not bad,
        )
        for n, (age, passed, bad, safety, rows, unconfirmed, partly) in enumerate(drawn)
    ]


counts = st.integers(0, 5)
policies = st.builds(
    Policy,
    days=st.floats(0, 30),
    keep_daily=counts,
    keep_weekly=counts,
    keep_monthly=counts,
    keep_yearly=counts,
)
PERIODS = {
    "keep_daily": lambda at: at.date(),
    "keep_weekly": lambda at: at.isocalendar()[:2],
    "keep_monthly": lambda at: (at.year, at.month),
    "keep_yearly": lambda at: at.year,
}


def restorable(sets: list[Candidate]) -> list[Candidate]:
    return [one for one in believed(sets) if not one.damaged and not one.safety]


def standing_for(sets: list[Candidate], policy: Policy) -> set[str]:
    """The sets that the counting rules keep, worked out the other way round: period by period."""
    found = set()
    for rule, period_of in PERIODS.items():
        periods = sorted({period_of(one.created) for one in restorable(sets)}, reverse=True)
        for period in periods[: getattr(policy, rule)]:
            members = [one for one in restorable(sets) if period_of(one.created) == period]
            found.add(members[0].name)
    return found


def believed(sets: list[Candidate]) -> list[Candidate]:
    """Those whose date can be right, newest first."""
    dated = [one for one in sets if CLOCK_WAS_SET <= one.created <= NOW]
    return sorted(dated, key=lambda one: (one.created, one.name), reverse=True)


def age_s(candidate: Candidate) -> float:
    return (NOW - candidate.created).total_seconds()


def kept(decisions: list[Decision]) -> set[str]:
    return {decision.name for decision in decisions if decision.keep}


@in_its_own_time
@given(histories(), policies)
def test_every_set_gets_one_decision_with_a_reason(sets: list[Candidate], policy: Policy) -> None:
    decisions = decide(sets, policy, NOW)
    assert sorted(decision.name for decision in decisions) == sorted(one.name for one in sets)
    assert all(decision.reason for decision in decisions)


@in_its_own_time
@given(histories(), policies)
def test_the_newest_complete_set_stays_whatever_its_age(
    sets: list[Candidate], policy: Policy
) -> None:
    for newest in believed(sets)[:1]:
        assert newest.name in kept(decide(sets, policy, NOW))


@in_its_own_time
@given(histories(), policies)
def test_the_newest_set_that_passed_a_drill_stays_whatever_its_age(
    sets: list[Candidate], policy: Policy
) -> None:
    for newest in [one for one in believed(sets) if one.passed][:1]:
        assert newest.name in kept(decide(sets, policy, NOW))


@in_its_own_time
@given(histories(), policies)
def test_the_newest_set_that_passed_a_drill_in_part_stays_whatever_its_age(
    sets: list[Candidate], policy: Policy
) -> None:
    for newest in [one for one in believed(sets) if one.partly][:1]:
        assert newest.name in kept(decide(sets, policy, NOW))


@in_its_own_time
@given(histories(), policies)
def test_a_bad_set_or_a_safety_dump_never_stands_in_for_the_newest_backup(
    sets: list[Candidate], policy: Policy
) -> None:
    for newest in [one for one in believed(sets) if not one.damaged and not one.safety][:1]:
        assert newest.name in kept(decide(sets, policy, NOW))


@in_its_own_time
@given(histories(), policies)
def test_a_set_whose_date_cannot_be_right_stays(sets: list[Candidate], policy: Policy) -> None:
    undated = {one.name for one in sets} - {one.name for one in believed(sets)}
    assert undated <= kept(decide(sets, policy, NOW))


@in_its_own_time
@given(histories(), policies)
def test_a_set_that_is_young_enough_stays(sets: list[Candidate], policy: Policy) -> None:
    young = {one.name for one in sets if age_s(one) <= policy.days * 86400.0}
    assert young <= kept(decide(sets, policy, NOW))


@in_its_own_time
@given(histories(), policies)
def test_the_newest_of_each_counted_period_stays(sets: list[Candidate], policy: Policy) -> None:
    assert standing_for(sets, policy) <= kept(decide(sets, policy, NOW))


@in_its_own_time
@given(histories(), policies)
def test_a_set_that_is_not_confirmed_at_a_target_stays(
    sets: list[Candidate], policy: Policy
) -> None:
    assert {one.name for one in sets if one.unconfirmed} <= kept(decide(sets, policy, NOW))


@in_its_own_time
@given(histories(), policies)
def test_while_there_is_a_reason_to_hold_everything_stays(
    sets: list[Candidate], policy: Policy
) -> None:
    decisions = decide(sets, policy, NOW, hold="the newest backup failed")
    assert all(decision.keep for decision in decisions)
    would_go = {one.name for one in sets} - kept(decide(sets, policy, NOW))
    held = {one.name for one in decisions if "the newest backup failed" in one.reason}
    assert held == would_go


@in_its_own_time
@given(histories(), policies)
def test_nothing_else_stays(sets: list[Candidate], policy: Policy) -> None:
    dated = believed(sets)
    old = {one.name for one in dated if (NOW - one.created).total_seconds() > policy.days * 86400.0}
    drilled = ([one for one in dated if one.passed], [one for one in dated if one.partly])
    groups = (dated, *drilled, restorable(sets))
    protected = {group[0].name for group in groups if group}
    protected |= standing_for(sets, policy) | {one.name for one in sets if one.unconfirmed}
    assert {one.name for one in sets} - kept(decide(sets, policy, NOW)) == old - protected


@in_its_own_time
@given(histories(), policies, st.randoms(use_true_random=False))
def test_the_order_of_the_sets_does_not_matter(
    sets: list[Candidate], policy: Policy, chance: random.Random
) -> None:
    shuffled = sets.copy()
    chance.shuffle(shuffled)
    assert decide(shuffled, policy, NOW) == decide(sets, policy, NOW)


@in_its_own_time
@given(histories(), policies, policies)
def test_more_to_keep_never_removes_more(
    sets: list[Candidate], policy: Policy, more: Policy
) -> None:
    longer = Policy(*(mine + other for mine, other in zip(astuple(policy), astuple(more))))
    assert kept(decide(sets, policy, NOW)) <= kept(decide(sets, longer, NOW))


@in_its_own_time
@given(histories(), policies)
def test_a_second_prune_at_once_removes_nothing(sets: list[Candidate], policy: Policy) -> None:
    stayed = kept(decide(sets, policy, NOW))
    left = [one for one in sets if one.name in stayed]
    assert kept(decide(left, policy, NOW)) == stayed


def test_a_set_from_the_future_does_not_push_out_the_newest_real_one() -> None:
    decisions = decide([aged(-400, "ahead"), aged(30, "real"), aged(31, "older")], Policy(7), NOW)
    assert {one.name: one.keep for one in decisions} == {
        "ahead": True,
        "real": True,
        "older": False,
    }
    assert "in the future" in decisions[0].reason


def test_a_clock_that_was_not_set_says_so_in_words() -> None:
    early = Candidate("early", datetime(1970, 1, 1, 0, 5, tzinfo=timezone.utc))
    decisions = decide([early, aged(1, "real")], Policy(7), NOW)
    assert [one.keep for one in decisions] == [True, True]
    assert "the clock was not set" in decisions[1].reason


def test_the_runbooks_seven_days_are_the_default() -> None:
    decisions = decide([aged(0), aged(7), aged(7.01), aged(8)], Policy(), NOW)
    assert [one.keep for one in decisions] == [True, True, False, False]
    assert decisions[3].reason == "it is 8 d 0 h old, older than 7 days"


@pytest.mark.parametrize(
    "policy", [Policy(-1), Policy(float("nan")), Policy(keep_daily=-1), Policy(keep_yearly=-1)]
)
def test_a_policy_that_makes_no_sense_removes_nothing(policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"days|below 0"):
        decide([aged(1), aged(100)], policy, NOW)


def test_a_month_is_answered_for_by_its_newest_set_in_words() -> None:
    sets = [aged(0), aged(20), aged(24), aged(25), aged(60)]
    decisions = decide(sets, Policy(7, keep_monthly=2), NOW)
    assert [one.keep for one in decisions] == [True, False, True, False, False]
    assert decisions[2].reason == "it is the newest of 2026-10, 2 monthly sets are kept"


def test_a_policy_is_told_in_words() -> None:
    assert str(Policy(7, keep_weekly=4, keep_yearly=1)) == "7 days, 4 weekly, 1 yearly"


# -- a host that was off, or a clock that is ahead ------------------------------------------------------


def pruned(sets: list[Candidate], policy: Policy, now: datetime = NOW) -> list[Candidate]:
    stay = kept(decide(sets, policy, now, history=History(sets, policy, now)))
    return [one for one in sets if one.name in stay]


@pytest.mark.parametrize(
    ("ages_of_backups", "left"),
    [
        # Tonight the clock is eight years ahead.
        ([0, *range(3000, 3010)], [0, *range(3000, 3007)]),
        # It stays so: the old ones go one by one, as they would have gone.
        ([0, 1, 2, *range(3000, 3010)], [0, 1, 2, *range(3000, 3005)]),
        ([*range(7), 3000, 3001], [*range(7), 3000]),
        ([*range(8), 3000, 3001], [*range(8)]),
        # There was but one before.
        ([0, 3000], [0, 3000]),
        # No backup, but a prune.
        ([*range(3000, 3010)], [*range(3000, 3008)]),
        # The host was off for a holiday.
        ([0, 21, 22, 23], [0, 21, 22, 23]),
        ([0, 1, 6, 21, 22], [0, 1, 6, 21, 22]),
        ([0, 1, 2, *range(21, 30)], [0, 1, 2, *range(21, 26)]),
        # And once more, with a backup or two between.
        ([0, 1, 21, 22, *range(50, 60)], [0, 1, 21, 22, *range(50, 54)]),
        ([0, 4, *range(12, 22)], [0, 4, *range(12, 18)]),
        ([0, 6, *range(18, 28)], [0, 6, *range(18, 24)]),
        # It was off for a week-end.
        ([0, 3, 4, 5, 6, 7, 10, 11], [0, 3, 4, 5, 6, 7]),
        # Somebody makes one a week, or one a month, and left one out.
        ([0, 7.1, 14.1, 21.2], [0]),
        ([0, 31, 62, 93], [0]),
        ([0, 60, 91], [0]),
        # That of last month and that of last year, which the rules do not ask for any more.
        ([0, 1, 2, 3, 4, 5, 6, 7, 20, 50, 80], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([0, 1, 2, 3, 4, 5, 6, 7, 400], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([0], [0]),
        ([], []),
    ],
)
def test_a_long_time_without_backups_costs_no_sets(
    ages_of_backups: list[float], left: list[float]
) -> None:
    assert pruned([aged(days) for days in ages_of_backups], Policy(7)) == [
        aged(days) for days in left
    ]


@pytest.mark.parametrize(
    ("days", "off", "spared"),
    [(0, 1.9, False), (0.5, 2.1, True), (30, 29, False), (30, 31, True), (365, 59, False)],
)
def test_a_time_is_long_when_all_sets_have_grown_too_old_in_it(
    days: float, off: float, spared: bool
) -> None:
    sets = [aged(0), *(aged(off + before) for before in range(8))]
    assert bool(History(sets, Policy(days), NOW).fresh_pause()) is spared
    assert bool(History(sets, Policy(days), NOW).why_spared(sets[1])) is spared


def test_a_dump_before_a_restore_ends_no_pause() -> None:
    sets = [aged(0), *(aged(days, safety=True) for days in range(1, 62)), aged(61), aged(62)]
    history = History(sets, Policy(7), NOW)
    assert history.fresh_pause() == (
        "there was no backup between 2026-09-24T03:00:00Z and 2026-11-24T03:00:00Z (61 d 0 h): is the clock right? "
        "Sets from before it stay until it is over for 7 days, or there are newer ones of 8 days"
    )
    decisions = decide(sets, Policy(7), NOW, history=history)
    reasons = {decision.name: decision.reason for decision in decisions}
    assert reasons["set-62"] == (
        "it is 62 d 0 h old, but there was no backup between 2026-09-24T03:00:00Z and 2026-11-24T03:00:00Z (61 d 0 h), "
        "and there are newer ones of 2 days, not yet of 8"
    )


@pytest.mark.parametrize(
    ("ages_of_backups", "told"),
    [
        ([21, 22, 23], True),
        ([0, 21, 22], True),
        ([0, 1, 22, 23], False),
        ([0, 1, 2], False),
        # After a week-end.
        ([0, 3, 4, 5, 6, 7], False),
        # The second of somebody who makes one now and then.
        ([0, 7.1], False),
        ([0], False),
        ([], False),
    ],
)
def test_a_pause_is_told_until_there_is_another_backup(
    ages_of_backups: list[float], told: bool
) -> None:
    sets = [aged(days) for days in ages_of_backups]
    assert bool(History(sets, Policy(7), NOW).fresh_pause()) is told


@in_its_own_time
@given(histories(), policies)
def test_a_pause_only_ever_makes_sets_stay_and_never_more_than_of_so_many_days(
    sets: list[Candidate], policy: Policy
) -> None:
    stayed = kept(decide(sets, policy, NOW))
    spared = kept(decide(sets, policy, NOW, history=History(sets, policy, NOW)))
    assert stayed <= spared
    backups = {one.created.date() for one in believed(sets) if not one.safety}
    for one in believed(sets):
        if one.name in spared - stayed:
            newer = {day for day in backups if day > one.created.date()}
            assert len(newer) <= policy.days + 1


def play(
    nights: list[float], policy: Policy, chance: random.Random, drill_every: int = 30
) -> tuple[list[int], list[str]]:
    """How many sets there were after each prune, and what was told; no night's backup is made at the same minute."""
    sets: list[Candidate] = []
    counts, told = [], []
    for night in nights:
        now = NOW + timedelta(days=night, minutes=chance.uniform(0, 30))
        sets = [Candidate(f"night-{night}", now, passed=night % drill_every == 0), *sets]
        now += timedelta(minutes=1)
        told += filter(None, [History(sets, policy, now).fresh_pause()])
        sets = pruned(sets, policy, now)
        counts.append(len(sets))
    return counts, told


@pytest.mark.parametrize(
    ("policy", "most"),
    [(Policy(7), 10), (Policy(7, keep_weekly=4, keep_monthly=6, keep_yearly=2), 21)],
)
@pytest.mark.parametrize("drill_every", [30, 400, 5000])
def test_a_host_that_is_always_on_keeps_what_the_rules_ask_for_and_is_told_of_no_pause(
    policy: Policy, most: int, drill_every: int
) -> None:
    counts, told = play([*range(900)], policy, random.Random(drill_every), drill_every)
    assert max(counts) <= most
    assert told == []


@pytest.mark.parametrize(
    ("on", "of", "most"), [(2, 14, 10), (5, 30, 12), (1, 14, 3), (3, 7, 7), (20, 60, 10)]
)
def test_a_host_that_is_on_now_and_then_prunes(on: int, of: int, most: int) -> None:
    nights = [float(night) for night in range(900) if night % of < on]
    counts, unused_told = play(nights, Policy(7), random.Random(on))
    assert max(counts) <= most


@pytest.mark.parametrize("every", [3, 7, 8])
def test_two_backups_at_a_time_now_and_then_are_no_reason_to_keep_them_for_ever(every: int) -> None:
    """Before and after each change of the application."""
    nights = [week * every + later for week in range(100) for later in (0, 0.1)]
    counts, unused_told = play(nights, Policy(7), random.Random(every))
    assert max(counts) <= 2 * 9


def test_a_host_that_is_off_at_week_ends_is_told_of_no_pause() -> None:
    nights = [float(night) for night in range(400) if night % 7 < 5]
    assert play(nights, Policy(7), random.Random(1))[1] == []


def test_what_is_kept_over_a_pause_is_what_would_have_been_kept_without_it() -> None:
    """A daily host is off for 40 days, in any night of its life."""
    for pause_at in range(20, 60):
        nights = [float(night if night < pause_at else night + 40) for night in range(80)]
        counts, told = play(nights, Policy(7), random.Random(pause_at))
        assert min(counts[20:]) >= 7
        assert len(told) == 1


# -- losses of rows ------------------------------------------------------------------------------------


def counted(*rows: int | None) -> list[Candidate]:
    """Backups of days that follow each other, the newest last."""
    return [
        aged(len(rows) - number, f"day-{number}", rows=count) for number, count in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("rows", "lost"),
    [
        ((100, 49), ("day-0", "day-1")),
        ((100, 50), None),
        ((1, 0), ("day-0", "day-1")),
        ((0, 0), None),
        ((100,), None),
        ((), None),
        # It lasts while the backups after it are as small, and ends when the rows are back.
        ((100, 3, 3, 4), ("day-0", "day-1")),
        ((100, 3, 60), None),
        ((100, 3, 100, 2), ("day-2", "day-3")),
        # Nobody counted.
        ((100, None, 3), ("day-0", "day-2")),
        ((None, 3), None),
        # That there is none is known without counting.
        ((None, 0), ("day-0", "day-1")),
        ((100, None, 0, 0), ("day-1", "day-2")),
        ((None, 0, None), None),
        ((None, 0, 3), None),
        ((0, None, 0), ("day-1", "day-2")),
        ((0, None), None),
        ((None, None), None),
        # A slow decline is no accident.
        ((100, 60, 31, 16), None),
    ],
)
def test_a_loss_of_more_than_half_the_rows_is_seen_until_they_are_back(
    rows: tuple[int | None, ...], lost: tuple[str, str] | None
) -> None:
    loss = find_loss(counted(*rows), NOW)
    assert (loss and (loss.before.name, loss.after.name)) == lost


def test_a_loss_that_was_acknowledged_is_none_but_the_next_one_is() -> None:
    sets = counted(100, 3, 4)
    assert find_loss(sets, NOW, sets[1].created) is None
    later = counted(100, 3, 4, 1)
    loss = find_loss(later, NOW, later[1].created)
    assert str(loss) == "day-3 has 1 rows, day-2 before it had 4"


def test_rows_that_nobody_counted_are_told_so() -> None:
    loss = find_loss(counted(None, 0), NOW)
    assert str(loss) == "day-1 has 0 rows, day-0 before it had some"


def test_an_acknowledgement_of_the_future_hides_no_loss() -> None:
    """A clock that was ahead once wrote it."""
    sets = counted(100, 3)
    assert find_loss(sets, NOW, NOW + timedelta(days=15000))


def test_a_dump_before_a_restore_and_a_wrong_clock_are_no_loss() -> None:
    sets = [aged(2, "old", rows=100), aged(1, "safety", rows=1, safety=True)]
    sets += [aged(0, "new", rows=90), aged(-400, "ahead", rows=1), aged(20000, "early", rows=999)]
    assert find_loss(sets, NOW) is None


@in_its_own_time
@given(histories())
def test_a_loss_between_the_two_newest_backups_is_always_seen(sets: list[Candidate]) -> None:
    backups = [one for one in believed(sets) if not one.safety and one.rows is not None]
    if len(backups) > 1:
        newest, before = backups[:2]
        lost = (newest.rows or 0) * 2 < (before.rows or 0)
        found = find_loss(sets, NOW)
        assert not lost or (found and found.after == newest)
