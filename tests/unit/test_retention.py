# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What retention promises, whatever sets there are."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.retention import (
    Candidate,
    Decision,
    Policy,
    decide,
)

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=timezone.utc)
CLOCK_WAS_SET = datetime(2000, 1, 1, tzinfo=timezone.utc)


#: A busy machine is no failure.
in_its_own_time = settings(deadline=None)


def aged(days: float, name: str = "", **more: bool) -> Candidate:
    return Candidate(name or f"set-{days:g}", NOW - timedelta(days=days), **more)


ages = st.one_of(
    st.floats(-3, 40, allow_nan=False),
    # A clock that was not set, or that ran ahead by years.
    st.sampled_from([-4000.0, 15000.0, 20000.0, 7.0, 0.0]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Candidate]:
    drawn = draw(
        st.lists(st.tuples(ages, st.booleans(), st.booleans(), st.booleans()), max_size=25)
    )
    return [
        aged(age, f"set-{n:02}", passed=passed and not bad, found_bad=bad, safety=safety)
        for n, (age, passed, bad, safety) in enumerate(drawn)
    ]


policies = st.builds(Policy, days=st.floats(0, 30))


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
def test_a_bad_set_or_a_safety_dump_never_stands_in_for_the_newest_backup(
    sets: list[Candidate], policy: Policy
) -> None:
    for newest in [one for one in believed(sets) if not one.found_bad and not one.safety][:1]:
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
def test_nothing_else_stays(sets: list[Candidate], policy: Policy) -> None:
    dated = believed(sets)
    old = {one.name for one in dated if (NOW - one.created).total_seconds() > policy.days * 86400.0}
    groups = (
        dated,
        [one for one in dated if one.passed],
        [one for one in dated if not one.found_bad and not one.safety],
    )
    protected = {group[0].name for group in groups if group}
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
@given(histories(), policies, st.floats(0, 30))
def test_more_days_never_remove_more(sets: list[Candidate], policy: Policy, more: float) -> None:
    longer = replace(policy, days=policy.days + more)
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


@pytest.mark.parametrize("days", [-1, float("nan")])
def test_days_that_are_no_number_of_days_remove_nothing(days: float) -> None:
    with pytest.raises(ValueError, match="days"):
        decide([aged(1), aged(100)], Policy(days), NOW)
