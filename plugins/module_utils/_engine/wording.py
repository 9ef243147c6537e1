# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A row of `status` in the words of a table, for this host's own and for that of a whole inventory."""

from __future__ import annotations

from typing import Any

from .model import human_bytes, human_seconds, parse_time

STATUS_HEADS = (
    *(
        "HOST",
        "DATABASE",
        "NEWEST SET",
        "AGE",
        "SIZE",
        "LAST DRILL",
        "RTO",
        "OFFSITE",
        "NEXT RUN",
        "FREE",
    ),
)


def ago(seconds: float) -> str:
    """An age."""
    return human_seconds(seconds) if seconds >= 0 else "in the future"


def status_cells(row: dict[str, Any]) -> list[str]:
    """The cells under STATUS_HEADS; what is not known is a dash."""
    newest, drill = row.get("newest_set"), row.get("last_drill")
    free = row.get("free_bytes")
    return [
        str(row.get("host") or "-"),
        str(row.get("database") or "-"),
        newest["name"] if newest else "-",
        ago(newest["age_s"]) if newest else "-",
        human_bytes(newest["bytes"]) if newest else "-",
        f"{drill['verdict']}, {ago(drill['age_s'])} ago" if drill else "-",
        human_seconds(row["rto_s"]) if row.get("rto_s") else "-",
        _offsite(row),
        _next(row),
        "-" if free is None else human_bytes(free),
    ]


def _offsite(row: dict[str, Any]) -> str:
    """Which of the targets have every set, and what is with those that have not."""
    return ", ".join(map(_target, row.get("offsite") or ())) or "-"


def _target(target: dict[str, Any]) -> str:
    name, missing = target["target"], len(target["missing"])
    if target["failing_since"]:
        return f"NOT {name} (fails)"
    return f"NOT {name} ({missing} missing)" if missing else str(name)


def _next(row: dict[str, Any]) -> str:
    """Which run is the next, and when."""
    runs = [(row[f"next_{job}"], job) for job in ("backup", "drill") if row.get(f"next_{job}")]
    if not runs:
        return "-"
    at, job = min(runs)
    left_s = (parse_time(at) - parse_time(row["checked_at"])).total_seconds()
    return f"{job} in {human_seconds(max(0.0, left_s))}"
