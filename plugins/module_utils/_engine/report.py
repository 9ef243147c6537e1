# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The records of drills: an entry in the operator's own document, and one line in a log for machines.

Both are only ever appended to, in one write under a lock: the document may be open in an editor, be a link
or lie in a repository, and whatever happens, not a byte that was there before is written again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from .durable import sync_directory
from .errors import BusyError, HostError
from .model import Report, human_bytes, human_seconds, iso, parse_time, utc_now
from .mounts import not_mounted

LOG_NAME = "drills.jsonl"
_TITLE = "# Backup restore drills\n"
_ENTRY = "Backup restore validation"
_RECORD_MODE = 0o644
_LOG_MODE = 0o600
_LOCK_WAIT_S = 30.0
_LOCK_PAUSE_S = 0.1
#: The phases in which data comes back; the runbook's "restore duration".
_RESTORING = ("load", "analyze")
_MOST_TABLES = 60
_MOST_NOTES = 20
_LONGEST_NAME = 200
_LONGEST_TEXT = 400
#: What Markdown may read as more than text inside a line (spec.commonmark.org, 2.4 and 6), and at the start of one.
_SPECIAL = re.compile(r"[\\`*<>\[\]|~&$]|(?<![^\W_])_|_(?![^\W_])")
_SPECIAL_FIRST = re.compile(r"[-#>+=:]|\d+[.)]")


# -- the entry in a document --------------------------------------------------------------------------


def drill_heading(existing_text: str, day: date) -> str:
    """`DRILL-2026-11-24`, or with the next number when headings of the text have that day already."""
    name = f"DRILL-{day:%Y-%m-%d}"
    pattern = rf"^ {{0,3}}#{{1,6}}[ \t]+{name}(?:-(\d+))?(?![\w-])"
    numbers = [int(number or 1) for number in re.findall(pattern, existing_text, re.MULTILINE)]
    return f"{name}-{max(numbers) + 1}" if numbers else name


def markdown_entry(heading: str, report: Report) -> str:
    """The runbook's entry for a drill, from a report of one; nothing in it can break the document."""
    details = report.details
    target = details.get("target", "")
    where = {"scratch": ", restored into a throwaway server", "live": ", as it is live"}
    lines = [
        f"Date: {_prose(_moment_of(report))}",
        f"Verdict: {_prose(report.verdict or 'none')}{_because(details.get('reason'))}",
        f"Database: {_code(report.database)} in container {_code(report.container)}{where.get(target, '')}",
        f"Backup file: {_code(Path(details['path']).name if details.get('path') else report.set_name)}",
        f"Restore duration: {_restore_duration(report.phases, details)}",
        f"Row counts{' as restored' if details.get('restored_at') else ''}: {_rows(details.get('rows') or {})}",
        *(_check_line(check) for check in details.get("checks") or ()),
        f"Timings: {_timings(report.phases)}",
        f"Hardware: {_prose(details.get('hardware') or 'unknown')}",
    ]
    if not details.get("checks"):
        lines.insert(-2, "Checks: none was run")
    notes = [
        *_notes("warning", report.warnings),
        *_notes("difference", details.get("differences") or ()),
        *_notes("not compared", details.get("not_compared") or ()),
    ]
    lines.append("Notes:" if notes else "Notes: none")
    body = [f"- {line}" for line in lines] + [f"  - {note}" for note in notes]
    return f"### {heading}: {_ENTRY}\n\n" + "\n".join(body) + "\n"


def _moment_of(report: Report) -> str:
    return str(report.details.get("at") or iso(utc_now()))


def _day_of(report: Report) -> date:
    try:
        moment: datetime = parse_time(_moment_of(report))
    except ValueError:
        moment = utc_now()
    return moment.date()


def _restore_duration(phases: Mapping[str, float], details: Mapping[str, Any]) -> str:
    spent = [phases[name] for name in _RESTORING if name in phases]
    whole = human_seconds(details.get("rto_s") or 0.0)
    if spent:
        return f"{human_seconds(sum(spent))} (from the start to proven data, the RTO: {whole})"
    if details.get("restored_at"):
        return f"{whole}, of the restore at {details['restored_at']}"
    return "nothing was restored"


def _rows(rows: Mapping[str, int]) -> str:
    if not rows:
        return "not counted"
    # As in the runbook, `users` and not `public.users`.
    counts = [
        f"{_name(table.partition('public.')[2] or table)}={count}" for table, count in rows.items()
    ]
    return ", ".join(counts[:_MOST_TABLES]) + _more(len(counts) - _MOST_TABLES)


def _check_line(check: Mapping[str, Any]) -> str:
    kind, name = str(check.get("kind", "")), _name(str(check.get("name", "")))
    label = name if kind == "http" else f"{_prose(kind.capitalize())} ({name})"
    return f"{label}: {_prose(str(check.get('status', '')))}{_because(check.get('reason'))}"


def _timings(phases: Mapping[str, float]) -> str:
    return (
        ", ".join(f"{_prose(name)} {human_seconds(spent)}" for name, spent in phases.items())
        or "none"
    )


def _notes(kind: str, texts: Iterable[str]) -> list[str]:
    notes = [f"{kind}: {_prose(text)}" for text in texts]
    rest = len(notes) - _MOST_NOTES
    return notes[:_MOST_NOTES] + ([f"{kind}:{_more(rest)}"] if rest > 0 else [])


def _more(count: int) -> str:
    return f" and {count} more, see the log" if count > 0 else ""


def _because(reason: object) -> str:
    return f" ({_prose(str(reason))})" if reason else ""


def _line(text: str, limit: int) -> str:
    """Text without line breaks, control characters and what turns the direction of writing."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _prose(text: str) -> str:
    """Text in which nothing is markup."""
    return _SPECIAL.sub(lambda m: f"\\{m.group()}", _line(text, _LONGEST_TEXT))


def _name(text: str) -> str:
    """A name as it is where it is harmless, else as code: SQL with backslashes is hard to read."""
    line = _line(text, _LONGEST_NAME)
    plain = line and not _SPECIAL.search(line) and not _SPECIAL_FIRST.match(line)
    return line if plain else _code(line)


def _code(text: str) -> str:
    """Text as a code span, whose fence is longer than any run of backticks in it."""
    line = _line(text, _LONGEST_NAME)
    if not line:
        return "none"
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


# -- the files ----------------------------------------------------------------------------------------


def append_record(record_file: Path, report: Report) -> str:
    """Adds the entry of a drill to a Markdown document, and makes the document where there is none.

    :returns: the heading, which no other entry of the document has.
    :raises HostError: nothing was added, and the document is as it was.
    """
    with _appending(record_file, _RECORD_MODE) as descriptor:
        existing = _content(descriptor)
        text = existing.decode("utf-8", errors="replace")
        heading = drill_heading(text, _day_of(report))
        entry = markdown_entry(heading, report)
        if not text.strip():
            entry = f"{_TITLE}\n{entry}"
        elif not text.endswith("\n"):
            entry = f"\n\n{entry}"
        elif not text.endswith(("\n\n", "\n\r\n")):
            entry = f"\n{entry}"
        if b"\r\n" in existing:
            entry = entry.replace("\n", "\r\n")
        _append(descriptor, record_file, entry.encode())
    return heading


def append_json(log_file: Path, report: Report) -> None:
    """Adds a report to a log, as one line of JSON; a new log has mode 0600.

    :raises HostError: nothing was added.
    """
    line = json.dumps(report.as_dict(), default=str) + "\n"
    with _appending(log_file, _LOG_MODE) as descriptor:
        size = os.fstat(descriptor).st_size
        # A line that a power failure cut off must not swallow this one.
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        _append(descriptor, log_file, (b"\n" if torn else b"") + line.encode())


@contextlib.contextmanager
def _appending(path: Path, mode: int) -> Iterator[int]:
    """A descriptor for a regular file that is there afterwards, under a lock of its own."""
    if absent := not_mounted(path.parent):
        raise HostError(
            f"The record {path} cannot be written: {absent}",
            state="Nothing was added to it",
            todo="Mount the disk",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = not path.exists()
        descriptor = _locked(path, mode)
        try:
            if made:
                sync_directory(path.parent)
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(
            f"The record {path} cannot be written: {error.strerror or error}",
            state="Nothing was added to it",
            todo="Is the path right, is there space, is the file system writable?",
        ) from error


def _locked(path: Path, mode: int) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        descriptor = os.open(path, flags, mode)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # An editor that saves by renaming may have put another file there meanwhile.
            now = path.stat()
            if (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise BusyError(
                f"The record {path} is locked by another process",
                state="Nothing was added to it",
                todo=f"`lslocks` says by which; it was waited for {_LOCK_WAIT_S:.0f} s",
            )
        time.sleep(_LOCK_PAUSE_S)


def _content(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read()


def _append(descriptor: int, path: Path, data: bytes) -> None:
    """Everything in one write and on the disk, or nothing.

    :raises OSError: it was not possible.
    """
    before = os.fstat(descriptor).st_size
    written = 0
    try:
        written = os.write(descriptor, data)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    except BaseException:
        # Only our own bytes may go: somebody who knows of no lock may have added his own.
        if written and os.fstat(descriptor).st_size == before + written:
            os.ftruncate(descriptor, before)
        raise


# -- reading the log ------------------------------------------------------------------------------------


def read_log(log_file: Path) -> list[dict[str, Any]]:
    """The reports of a log, the oldest first; none when there is no log. A line that was cut off is left out.

    :raises HostError: it is there and cannot be read.
    """
    try:
        lines = log_file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"The log {log_file} cannot be read: {error.strerror}") from error
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                found.append(entry)
    return found


def last_drills(log_file: Path) -> dict[str, dict[str, str]]:
    """The last drill of each set, by the set's name: its `verdict`, and `at`, when it was.

    A drill of a live database is left out: it says nothing of the set that was restored into it.
    """
    return {
        name: {"verdict": str(entry.get("verdict", "")), "at": str(entry.get("at", ""))}
        for name, entry in _drills(log_file)
    }


def passed_sets(log_file: Path, *, partly: bool = False) -> set[str]:
    """Every set that passed a drill and that none found damaged since.

    :param partly: those also of which not everything could be tested, and what was, was good.
    """
    enough = ("pass", "partial") if partly else ("pass",)
    passed = set()
    for name, entry in _drills(log_file):
        if entry.get("verdict") in enough:
            passed.add(name)
        elif _damaged(entry):
            passed.discard(name)
    return passed


def damaged_sets(log_file: Path) -> set[str]:
    """Every set that could not be read, or gave back other data than was dumped, and was not found intact since."""
    damaged = set()
    for name, entry in _drills(log_file):
        if _damaged(entry):
            damaged.add(name)
        elif _evidence_of(entry) == "ok":
            damaged.discard(name)
    return damaged


def _damaged(entry: Mapping[str, Any]) -> bool:
    """Age and assertions tell of the database: a set that gave everything back is intact, whatever they say."""
    return entry.get("verdict") == "backup_bad" and _evidence_of(entry) in ("", "failed")


def _evidence_of(entry: Mapping[str, Any]) -> str:
    """The status of the comparison with the evidence; "" for a drill that did not get so far."""
    listed = entry.get("checks")
    checks = listed if isinstance(listed, list) else []
    found = (one for one in checks if isinstance(one, dict) and one.get("kind") == "evidence")
    return next((str(one.get("status", "")) for one in found), "")


def _drills(log_file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in read_log(log_file):
        name = entry.get("set_name")
        if entry.get("action") == "drill" and entry.get("target") != "live" and name:
            yield str(name), entry


def hardware() -> str:
    """The machine in a few words: model, processors, memory."""
    try:
        model = Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = found[1] if found else "unknown model"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return ", ".join(
        [
            model,
            platform.machine(),
            f"{os.cpu_count()} processors",
            human_bytes(memory) + " of memory",
        ]
    )
