# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How protected this host is, as a text file for the textfile collector of Prometheus' node_exporter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, Optional

from .clock import doubt
from .durable import replace_file
from .model import parse_time

FILE_NAME = "firedrill.prom"
VERDICTS = ("pass", "partial", "backup_bad", "environment", "not_tested")

_Value = Callable[[dict[str, Any]], Optional[float]]


def _within(part: str, key: str) -> _Value:
    return lambda row: (row.get(part) or {}).get(key)


def _moment(value: object) -> float | None:
    return parse_time(str(value)).timestamp() if value else None


def _checked(row: dict[str, Any]) -> float | None:
    """None while the clock is not set: the alert for a host that is silent has a clock that is."""
    at = row.get("checked_at")
    return None if not at or doubt(parse_time(str(at)), None) else _moment(at)


def _newest_copy(target: dict[str, Any]) -> float | None:
    return _moment(_within("newest_confirmed", "created_at")(target))


#: Name, help, and the value in a row of `status`; None where there is none.
_GAUGES: tuple[tuple[str, str, _Value], ...] = (
    (
        "last_success_timestamp_seconds",
        "When the newest complete recovery set was made.",
        lambda row: _moment(_within("newest_set", "created_at")(row)),
    ),
    (
        "last_verified_restore_timestamp_seconds",
        "When a set last passed a drill.",
        lambda row: _moment(row.get("last_pass_at")),
    ),
    (
        "last_drill_timestamp_seconds",
        "When the last drill was held, whatever its verdict.",
        lambda row: _moment(_within("last_drill", "at")(row)),
    ),
    ("newest_set_bytes", "Size of the newest complete set.", _within("newest_set", "bytes")),
    (
        "dump_duration_seconds",
        "How long the newest complete set took to make.",
        _within("newest_set", "took_s"),
    ),
    (
        "restore_duration_seconds",
        "Measured recovery time of the last drill.",
        lambda row: row.get("rto_s"),
    ),
    ("sets", "Number of recovery sets.", lambda row: row.get("sets")),
    ("sets_bytes", "Size of all recovery sets.", lambda row: row.get("sets_bytes")),
    ("free_bytes", "Free space of the backup directory.", lambda row: row.get("free_bytes")),
    ("problems", "How many problems `firedrill status` shows.", lambda row: len(row["problems"])),
    (
        "checked_timestamp_seconds",
        "When this was looked at.",
        _checked,
    ),
)


def render(rows: Iterable[dict[str, Any]]) -> str:
    """The file's text, from the rows of `status`.

    The format is that of https://prometheus.io/docs/instrumenting/exposition_formats/.
    """
    found = list(rows)
    lines: list[str] = []
    for name, words, value_of in _GAUGES:
        samples = [(row, value_of(row)) for row in found]
        known = [(row, value) for row, value in samples if value is not None]
        if known:
            lines += _head(name, words)
            lines += [f"firedrill_{name}{{{_labels(row)}}} {value:.17g}" for row, value in known]
    copies = [
        (f'{_labels(row)},target="{_escaped(target["target"])}"', _newest_copy(target))
        for row in found
        for target in row.get("offsite", ())
    ]
    confirmed = [(labels, moment) for labels, moment in copies if moment is not None]
    if confirmed:
        words = "When the newest set that is confirmed at an offsite target was made."
        lines += _head("last_copy_timestamp_seconds", words)
        lines += [
            f"firedrill_last_copy_timestamp_seconds{{{labels}}} {moment:.17g}"
            for labels, moment in confirmed
        ]
    drilled = [row for row in found if row.get("last_drill")]
    if drilled:
        lines += _head("drill_verdict", "1 for the verdict of the last drill, 0 for the others.")
        lines += [
            f'firedrill_drill_verdict{{{_labels(row)},verdict="{verdict}"}} '
            f"{int(row['last_drill']['verdict'] == verdict)}"
            for row in drilled
            for verdict in VERDICTS
        ]
    return "".join(f"{line}\n" for line in lines)


def write(directory: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Puts the file into the collector's directory, whole; anybody may read it, nothing in it is secret.

    :raises OSError: it could not be written.
    """
    replace_file(directory / FILE_NAME, render(rows), 0o644)


def _head(name: str, words: str) -> list[str]:
    return [f"# HELP firedrill_{name} {words}", f"# TYPE firedrill_{name} gauge"]


def _labels(row: dict[str, Any]) -> str:
    return f'name="{_escaped(row["name"])}",database="{_escaped(row.get("database", ""))}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
