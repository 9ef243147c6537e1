# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command `firedrill`: what it prints, and where. The only file that imports rich."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from . import arguments
from .commands import Command
from .ledger import REMOVED
from .model import Report, human_bytes, iso, parse_time, utc_now
from .outcomes import FAILED, OK, Outcome, failure, worst
from .run import Progress
from .wording import STATUS_HEADS, ago, status_cells

try:
    import rich.console
    import rich.progress
    import rich.table
    import rich.text

    HAS_RICH = True
except ImportError:
    HAS_RICH = False

_TO_THE_RIGHT = ("AGE", "SIZE", "RTO", "FREE")
#: How often a plain line tells that a long phase is still on.
_REPEAT_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (without the program's name) and returns its exit status; raises nothing."""
    words = list(sys.argv[1:] if argv is None else argv)
    screen = _Screen(as_json="--json" in words)
    try:
        return _main(words, screen)
    except SystemExit as leaving:  # --help and --version have printed already
        return leaving.code if isinstance(leaving.code, int) else OK
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- one line, never a traceback
        outcome = failure(error, screen.action)
        screen.tell(outcome)
        return screen.finish([outcome])


def _main(words: list[str], screen: _Screen) -> int:
    options = arguments.build_parser().parse_args(words)
    screen.action = options.command
    screen.quiet = options.quiet
    screen.dry = bool(getattr(options, "check", False))
    command = Command(options)
    screen.several = command.several
    if command.name == "list":
        return screen.sets(command.rows())
    if command.name == "status":
        return screen.status(command.status())
    screen.stamped = command.name in ("due", "settle")
    outcomes = []
    for outcome in command.run(screen.watch):
        outcomes.append(outcome)
        screen.tell(outcome)
    for warning in command.tell():
        screen.warn(warning)
    return screen.finish(outcomes)


def printable(text: str) -> str:
    """Text in which nothing can steer a terminal or end a line: names of files and databases are others' work."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class _Screen:
    """Standard output and standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.quiet = self.dry = self.several = False
        #: Whether each line begins with the time: a log has many runs.
        self.stamped = False
        self.action = ""
        self._lost = False
        for stream in (sys.stdout, sys.stderr):
            # In the C locale of a timer a name that is not ASCII must not end the run.
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

    def _out(self, text: str) -> None:
        """To standard output. Whoever reads it may have left; what is being done goes on all the same."""
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            # What Python still holds would fail once more when it ends.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            # Readers that have seen enough (`firedrill list | head`) have lost nothing.
            if not isinstance(error, BrokenPipeError):
                self._lost = True
                self._err(f"firedrill: the output is lost: {error}")

    def _err(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(printable(text) + "\n")
            sys.stderr.flush()

    def _json(self, document: Any) -> None:
        self._out(json.dumps(document, indent=1))

    def _stamp(self) -> str:
        return f"{iso(utc_now())} " if self.stamped else ""

    def _status(self, status: int) -> int:
        return FAILED if self._lost and status == OK else status

    @contextlib.contextmanager
    def watch(self, label: str) -> Iterator[Progress | None]:
        """The display of one run."""
        if self.as_json or self.quiet:
            yield None
        elif HAS_RICH and _is_terminal(sys.stderr):
            with _Moving(label) as moving:
                yield moving
        else:
            yield _Lines(label, self._err)

    def tell(self, outcome: Outcome) -> None:
        """One outcome, as soon as it is there; JSON has to wait for the last."""
        if self.as_json:
            return
        report = outcome.report
        if report is None:
            name = outcome.document["name"]
            before = f"{name}: " if self.several and name else ""
            self._err(f"{self._stamp()}firedrill: {before}{outcome.error}")
            return
        for warning in report.warnings:
            self.warn(warning)
        # The message of these names its set or directory.
        plain = report.action in ("verify", "prune") or not self.several
        before = "" if plain else f"{report.database}: "
        verdict = f"{report.verdict}: " if report.verdict else ""
        if report.msg.startswith(verdict):
            verdict = ""
        first = f"{self._stamp()}{before}{verdict}{report.msg}"
        for line in [first, *_more(report, dry=self.dry)]:
            if outcome.status:
                self._err(line)
            elif not self.quiet:
                self._out(printable(line))

    def warn(self, words: str) -> None:
        self._err(f"{self._stamp()}firedrill: warning: {words}")

    def finish(self, outcomes: list[Outcome]) -> int:
        """The JSON; returns the worst status."""
        if self.as_json:
            documents = [outcome.document for outcome in outcomes]
            self._json(documents if self.several else documents[0])
        return self._status(worst(outcomes) if outcomes else OK)

    def sets(self, rows: list[dict[str, Any]]) -> int:
        """The table of `list`."""
        if self.as_json:
            self._json(rows)
            return self._status(OK)
        if not rows:
            self._out("There is no set.")
            return self._status(OK)
        far = ("OFFSITE",) if any(row["offsite"] for row in rows) else ()
        heads = ("SET", "DATABASE", "AGE", "SIZE", "EVIDENCE", "LAST DRILL", *far, "PROBLEMS")
        cells = [[*_cells(row), *([_offsite(row)] if far else []), _problems(row)] for row in rows]
        return self._table(heads, cells, [_style(row) for row in rows])

    def status(self, rows: list[dict[str, Any]]) -> int:
        """The table of `status`, and what is wrong below it."""
        wrong = FAILED if any(row["problems"] for row in rows) else OK
        if self.as_json:
            self._json(rows)
            return self._status(wrong)
        styles = ["red" if row["problems"] else "" for row in rows]
        if not self.quiet:
            self._table(STATUS_HEADS, [status_cells(row) for row in rows], styles)
        for row in rows:
            for problem in row["problems"]:
                self._err(f"firedrill: {row['name']}: {problem}")
        return self._status(wrong)

    def _table(self, heads: Sequence[str], lines: list[list[str]], styles: list[str]) -> int:
        cells = [[printable(cell) for cell in line] for line in lines]
        if HAS_RICH and _is_terminal(sys.stdout):
            table = rich.table.Table(box=None, pad_edge=False)
            for head in heads:
                table.add_column(
                    head, overflow="fold", justify="right" if head in _TO_THE_RIGHT else "left"
                )
            for line, style in zip(cells, styles):
                # Text and not markup: a name may hold brackets.
                table.add_row(*(rich.text.Text(cell) for cell in line), style=style)
            with contextlib.suppress(OSError):
                rich.console.Console().print(table)
            return self._status(OK)
        widths = [max(len(line[n]) for line in [list(heads), *cells]) for n in range(len(heads))]
        for line in [list(heads), *cells]:
            padded = (cell.ljust(width) for cell, width in zip(line, widths))
            self._out("  ".join(padded).rstrip())
        return self._status(OK)


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except ValueError:
        return False


# -- words -----------------------------------------------------------------------------------------


def _cells(row: dict[str, Any]) -> list[str]:
    evidence, drill = row["evidence"], row["last_drill"]
    shown = "-"
    if evidence:
        tables = f"{evidence['tables']} {'table' if evidence['tables'] == 1 else 'tables'}"
        rows = f"{evidence['rows']} rows"
        shown = {"none": f"none, {tables}", "sealed": f"sealed, {rows}"}.get(
            evidence["level"], f"{evidence['level']}, {tables}, {rows}"
        )
    drilled = "never"
    if drill:
        with contextlib.suppress(ValueError):
            drilled = f"{drill['verdict']}, {ago((utc_now() - parse_time(drill['at'])).total_seconds())} ago"
    name = f"{row['name']} (safety)" if row["purpose"] == "safety" else row["name"]
    return [
        name,
        row["database"] or "?",
        ago(row["age_s"]),
        human_bytes(row["bytes"]),
        shown,
        drilled,
    ]


def _problems(row: dict[str, Any]) -> str:
    return "; ".join(row["problems"])


def _offsite(row: dict[str, Any]) -> str:
    """Which targets have confirmed a set, which have let it go since, and which have not got it."""
    words = {"": "NOT {}", REMOVED: "{} (kept no longer)"}
    states = [words.get(at, "{}").format(target) for target, at in row["offsite"].items()]
    return ", ".join(states) or "-"


def _style(row: dict[str, Any]) -> str:
    bad = row["problems"] or (row["last_drill"] or {}).get("verdict") == "backup_bad"
    return "red" if bad else ""


def _more(report: Report, *, dry: bool) -> list[str]:
    """What a person wants to see beside the message."""
    details = report.details
    lines = []
    for check in details.get("checks", ()):
        why = f": {check['reason']}" if check.get("reason") else ""
        lines.append(f"  {check['status']:8} {check['kind']} {check['name']}{why}")
    lines += [f"  differs: {text}" for text in details.get("differences", ())]
    lines += [f"  not compared: {text}" for text in details.get("not_compared", ())]
    for one in details.get("targets", ()):
        verb = "would upload" if dry else "uploaded"
        told = [f"{verb} {', '.join(one['uploaded'])}"] if one["uploaded"] else []
        told += [f"missing {', '.join(one['missing'])}"] if one["missing"] else []
        lines.append(f"  {one['target']} ({one['place']}): {'; '.join(told) or 'has everything'}")
    if report.action == "restore":
        lines += _rows(details)
    if report.action == "prune":
        # Who only asks wants to know why the others stay, too.
        for verb, key in (("remove", "removed"), ("keep", "kept"))[: 2 if dry else 1]:
            lines += [
                f"  {verb} {one['name']} ({human_bytes(one['bytes'])}): {one['reason']}"
                for one in details[key]
            ]
        lines += [
            f"  leave {one['name']}: {'; '.join(one['problems'])}" for one in details["skipped"]
        ]
    return lines


def _rows(details: Mapping[str, Any]) -> list[str]:
    """The rows of each table before and after a restore, and in the set before the one restored; equal ones are counted."""
    before, after, earlier = (
        details.get(key, {}) for key in ("rows_before", "rows_after", "rows_earlier")
    )
    lines, same = [], 0
    for table in sorted({*before, *after}):
        live, restored, older = (_count(rows, table) for rows in (before, after, earlier))
        if live == restored and (not earlier or older == restored):
            same += 1
            continue
        beside = f" ({older} in {details['earlier_set']})" if earlier else ""
        lines.append(f"  {table}: {live} -> {restored} rows{beside}")
    if lines and same:
        lines.append(
            f"  {same} other {'table has' if same == 1 else 'tables have'} as many as before"
        )
    return lines


def _count(rows: Mapping[str, int | None], table: str) -> str:
    """In digits; where nobody knows, or there is no such table, `-`."""
    count = rows.get(table)
    return "-" if count is None else str(count)


# -- progress --------------------------------------------------------------------------------------


class _Lines:
    """Progress for a log: one line when a phase begins, and one a minute while it lasts."""

    def __init__(self, label: str, write: Any) -> None:
        self._label = label
        self._write = write
        self._phase = ""
        self._said = 0.0

    def __call__(self, phase: str, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        if phase == self._phase and now - self._said < _REPEAT_S:
            return
        size = f", {human_bytes(done_bytes)}" if done_bytes else ""
        self._phase, self._said = phase, now
        self._write(f"{iso(utc_now())} {self._label}: {phase}{size} ...")


class _Moving:
    """Progress on a terminal: the phase, its bytes and the time so far, in one line that goes away."""

    def __init__(self, label: str) -> None:
        self._label = printable(label)
        self._display = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.TextColumn("{task.fields[size]}", markup=False),
            rich.progress.TimeElapsedColumn(),
            console=rich.console.Console(stderr=True),
            transient=True,
        )
        self._task = self._display.add_task(self._label, total=None, size="")

    def __enter__(self) -> _Moving:
        with self._unharmed():
            self._display.start()
        return self

    def __exit__(self, *unused_error: object) -> None:
        with self._unharmed():
            self._display.stop()

    def __call__(self, phase: str, done_bytes: int, total_bytes: int) -> None:
        size = human_bytes(done_bytes) if done_bytes else ""
        if total_bytes:
            size = f"{size or '0 B'} of {human_bytes(total_bytes)}"
        with self._unharmed():
            self._display.update(
                self._task, description=f"{self._label}: {printable(phase)}", size=size
            )

    @staticmethod
    def _unharmed() -> contextlib.AbstractContextManager[None]:
        # A terminal that goes away in the middle of a restore must not end the restore.
        return contextlib.suppress(Exception)
