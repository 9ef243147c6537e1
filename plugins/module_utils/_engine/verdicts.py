# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a drill's checks come to, and how much of it others may hear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from .model import Assertion, CheckResult, Comparison, Report

NO_APPLICATION = (
    "the throwaway server has no network and no application; run the drill with target live for it"
)
#: Statuses of a check that leave a drill `partial`, in words.
_SHORT = {"skipped": "was skipped", "partial": "is not whole"}
_UNTOLD = "told to whoever held the drill"


def verdict_of(results: Iterable[CheckResult]) -> tuple[str, str]:
    """The verdict over all checks, and the reason for it.

    A broken promise about the data is `backup_bad`; an application that does not answer, or a check that
    could not be asked, is `environment`; one that was not run, or not whole, leaves at best `partial`. That the throwaway
    server has no application is no shortcoming of a drill of a set, which is asked for its data.
    """
    listed = list(results)
    data = [r for r in listed if r.status == "failed" and r.kind != "http"]
    elsewhere = [
        r for r in listed if r.status == "error" or (r.status == "failed" and r.kind == "http")
    ]
    skipped = [r for r in listed if r.status in _SHORT and r.reason != NO_APPLICATION]
    passed = [r for r in listed if r.status in ("ok", "partial") and r.kind != "server"]
    for verdict, culprits in (("backup_bad", data), ("environment", elsewhere)):
        if culprits:
            return verdict, "; ".join(f"{r.kind} {r.name}: {r.reason}" for r in culprits[:5])
    if not passed:
        return "not_tested", "no check was run" + (f": {skipped[0].reason}" if skipped else "")
    if skipped:
        return "partial", "; ".join(
            f"{r.kind} {r.name} {_SHORT[r.status]}: {r.reason}" for r in skipped[:5]
        )
    unasked = len([r for r in listed if r.reason == NO_APPLICATION])
    besides = f", {unasked} of the application skipped" if unasked else ""
    return "pass", f"{len(passed)} checks of {len(passed)} are ok{besides}"


def discreet(
    outcome: Report,
    results: Sequence[CheckResult],
    comparison: Comparison,
    assertions: Sequence[Assertion],
    trouble: str | None,
) -> Report:
    """An outcome without what is in the database: what an encrypted set hides must not lie beside it in a record, or go
    to others.

    :param trouble: what ended the drill early, in words that may be told; None when nothing did.
    """
    live = outcome.details.get("target") == "live"
    subject = f'the live database "{outcome.database}"' if live else outcome.set_name
    # One without a name is called by its SQL, which names tables.
    names = iter([one.name or f"number {number}" for number, one in enumerate(assertions, 1)])
    told = [
        replace(
            one,
            name=next(names) if one.kind == "assertion" else one.name,
            reason=_told_reason(one, comparison),
        )
        for one in results
    ]
    reason = verdict_of(told)[1] if trouble is None else trouble
    return replace(
        outcome,
        msg=f"{outcome.verdict}: {subject}: {reason}",
        warnings=[],
        details={
            **outcome.details,
            "rows": {},
            "differences": [],
            "not_compared": [],
            "checks": [asdict(one) for one in told],
            "reason": reason,
        },
    )


def _told_reason(result: CheckResult, comparison: Comparison) -> str:
    if result.status == "ok":
        return ""
    if result.reason == NO_APPLICATION or (result.kind, result.status) == ("evidence", "skipped"):
        return result.reason
    if result.kind == "evidence" and comparison.differences:
        return f"{len(comparison.differences)} differences, {_UNTOLD}"
    if result.kind == "evidence" and comparison.unread:
        return f"{len(comparison.unread)} not compared, {_UNTOLD}"
    return _UNTOLD


def told_trouble(blamed: str, did: str = "held the drill") -> str:
    """What others may hear of an error whose text may name what is in the set.

    :param did: what the one did who was told all of it.
    """
    return f"{blamed}; what it said is told to whoever {did}"
