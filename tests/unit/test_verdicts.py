# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a drill's checks come to, and how much of it others hear of an encrypted set."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Assertion,
    CheckResult,
    Comparison,
    Report,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.verdicts import (
    NO_APPLICATION,
    discreet,
    verdict_of,
)

OK = CheckResult("evidence", "equal", "ok", "7 tables")
WITH_NAMES = Comparison(
    5,
    ("public.orders: 3 rows expected, 2 found", "public.bills is missing"),
    ("public.v (a view)",),
)
UNREAD = Comparison(5, (), ("public.orders (cannot be read)",), ("public.orders (cannot be read)",))


def check(kind: str, status: str, reason: str = "because") -> CheckResult:
    return CheckResult(kind, "it", status, reason)


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([OK], "pass"),
        ([OK, check("http", "skipped", NO_APPLICATION)], "pass"),
        ([OK, check("freshness", "skipped")], "partial"),
        ([check("evidence", "partial")], "partial"),
        ([check("evidence", "partial"), check("assertion", "failed")], "backup_bad"),
        ([OK, check("assertion", "error")], "environment"),
        ([OK, check("http", "failed")], "environment"),
        ([check("server", "ok"), check("evidence", "skipped")], "not_tested"),
        ([check("server", "ok")], "not_tested"),
    ],
)
def test_the_verdict_is_that_of_the_worst_check(results: list[CheckResult], verdict: str) -> None:
    assert verdict_of(results)[0] == verdict


def others_hear(
    results: list[CheckResult], comparison: Comparison, trouble: str | None = None
) -> Report:
    """What is told of a drill whose own report names tables and rows."""
    verdict, reason = verdict_of(results)
    details = {
        "checks": [asdict(one) for one in results],
        "reason": reason,
        "rows": {"public.orders": 3},
        "differences": list(comparison.differences),
        "not_compared": list(comparison.not_compared),
    }
    outcome = Report(
        *("drill", True, f"{verdict}: shop_1: {reason}"),
        set_name="shop_1",
        verdict=verdict,
        warnings=["public.orders is odd"],
        details=details,
    )
    assertions = [Assertion("SELECT true FROM public.orders"), Assertion("SELECT 1", "paid")]
    found = discreet(outcome, results, comparison, assertions, trouble)
    assert "public." not in str(found)
    return found


def test_how_many_tables_differ_is_told_and_not_which() -> None:
    failed = CheckResult("evidence", "equal", "failed", "; ".join(WITH_NAMES.differences))
    found = others_hear([failed], WITH_NAMES)
    assert found.msg == (
        "backup_bad: shop_1: evidence equal: 2 differences, told to whoever held the drill"
    )


def test_how_many_tables_could_not_be_read_is_told_and_not_which() -> None:
    found = others_hear([check("evidence", "partial", UNREAD.unread[0])], UNREAD)
    assert "evidence it is not whole: 1 not compared, told to whoever held the drill" in found.msg


def test_an_assertion_is_told_by_its_name_and_one_without_by_its_number() -> None:
    results = [
        CheckResult("assertion", "SELECT true FROM public.orders", "failed", "it is 3"),
        CheckResult("assertion", "paid", "error", "no table public.paid"),
    ]
    found = others_hear(results, Comparison(7, (), ()))
    assert [one["name"] for one in found.details["checks"]] == ["number 1", "paid"]
    assert found.details["reason"] == "assertion number 1: told to whoever held the drill"


def test_a_drill_that_passed_and_one_that_was_ended_are_told_as_they_are() -> None:
    assert others_hear([OK], Comparison(7, (), ())).msg == "pass: shop_1: 1 checks of 1 are ok"
    ended = others_hear([check("server", "ok")], Comparison(0, (), ()), "it was ended by a signal")
    assert ended.msg == "not_tested: shop_1: it was ended by a signal"


def test_a_drill_of_the_live_database_is_told_as_one() -> None:
    failed = [CheckResult("assertion", "SELECT true FROM public.orders", "failed", "it is 3")]
    outcome = Report(
        *("drill", True, "backup_bad: public.orders"),
        database="shop",
        set_name="shop_1",
        verdict="backup_bad",
        details={"target": "live"},
    )
    found = discreet(outcome, failed, Comparison(0, (), ()), [Assertion("SELECT 1")], None)
    assert found.msg == (
        'backup_bad: the live database "shop": assertion number 1: told to whoever held the drill'
    )


def test_a_report_that_has_a_discreet_one_is_the_same_for_who_made_it() -> None:
    report = Report("drill", changed=False, msg="public.orders differs", details={"rows": {"t": 1}})
    before = report.as_dict()
    report.discreet = Report("drill", changed=False, msg="one differs")
    assert report.as_dict() == before
    assert report.public.msg == "one differs"
    assert report.discreet.public is report.discreet
