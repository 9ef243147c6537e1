# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The records of drills: the document stays whole, the entry says what was and was not proven."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import threading
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from recovery_sets import drilled

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import report as records
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    BusyError,
    HostError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.report import LOG_NAME

DAY = date(2026, 11, 24)
HOSTILE = [
    "a`b``c",
    "```\n# not a heading\n```",
    "line\nbreak\r\n- not: an item",
    "\n\n# Not a heading\n\n",
    "<script>alert(1)</script>",
    "<!-- the rest is gone",
    "[a link](http://example.com) ![image](x)",
    "**bold** *em* __strong__ _em_ ~~gone~~",
    "a | b | c",
    "\\` \\",
    "`",
    "&lt;&copy;",
    "tab\tnul\0esc\x1b[31m\u202egnp.exe\u2028next\udcff",
    "$x_1$ and $(reboot)",
    "    indented as code",
    "- an item",
    "1. first",
    "> quoted",
    "=====",
    "-----",
]


def drill(**more: Any) -> Report:
    details = {
        "at": "2026-11-24T08:30:00Z",
        "reason": "5 checks of 5 are ok",
        "rows": {"public.users": 3, "public.jobs": 12, "app.Odd": 0},
        "checks": [
            {
                "kind": "server",
                "name": "version",
                "status": "ok",
                "reason": "PostgreSQL 17.6",
                "seconds": 0.1,
            },
            {
                "kind": "evidence",
                "name": "equal",
                "status": "ok",
                "reason": "3 tables",
                "seconds": 0.2,
            },
            {
                "kind": "assertion",
                "name": "SELECT count(*) > 0 FROM users",
                "status": "ok",
                "reason": "",
                "seconds": 0,
            },
            {"kind": "http", "name": "Health check", "status": "ok", "reason": "", "seconds": 0.02},
            {
                "kind": "http",
                "name": "Login smoke test",
                "status": "skipped",
                "reason": "no password",
                "seconds": 0,
            },
        ],
        "rto_s": 21.5,
        "hardware": "Raspberry Pi 4 Model B, aarch64, 4 processors, 4.0 GB",
        "path": "/var/backups/ai_fsm_20261124_081943.dump",
        "target": "scratch",
        "differences": [],
        "not_compared": [],
        **more.pop("details", {}),
    }
    values: dict[str, Any] = {
        "action": "drill",
        "changed": True,
        "msg": "pass",
        "database": "ai_fsm",
        "container": "ai-fsm-db",
        "set_name": "ai_fsm_20261124_081943",
        "verdict": "pass",
        "phases": {
            "check set": 0.2,
            "start server": 3.1,
            "load": 14.0,
            "analyze": 2.0,
            "checks": 0.4,
        },
        **more,
    }
    return Report(**values, details=details)


# -- the heading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "heading"),
    [
        ("", "DRILL-2026-11-24"),
        ("# Log\n\n### DRILL-2026-11-23: x\n", "DRILL-2026-11-24"),
        ("### DRILL-2026-11-24: Backup restore validation\n", "DRILL-2026-11-24-2"),
        ("# DRILL-2026-11-24\n## DRILL-2026-11-24-2\n", "DRILL-2026-11-24-3"),
        ("### DRILL-2026-11-24-7: x\n", "DRILL-2026-11-24-8"),
        ("### DRILL-2026-11-24-9: x\n### DRILL-2026-11-24-10: x\n", "DRILL-2026-11-24-11"),
        ("### DRILL-2026-11-24\r\n- Date\r\n", "DRILL-2026-11-24-2"),
        ("See DRILL-2026-11-24 below.\n", "DRILL-2026-11-24"),
        ("### DRILL-2026-11-245: x\n", "DRILL-2026-11-24"),
        ("### DRILL-2026-11-24-old: x\n", "DRILL-2026-11-24"),
        ("### DRILL-<YYYY-MM-DD>: Backup restore validation\n", "DRILL-2026-11-24"),
    ],
)
def test_several_drills_of_a_day_get_distinct_headings(text: str, heading: str) -> None:
    assert records.drill_heading(text, DAY) == heading


# -- the entry ------------------------------------------------------------------------------------


def test_the_entry_has_every_line_of_the_runbook() -> None:
    entry = records.markdown_entry("DRILL-2026-11-24", drill())
    lines = entry.splitlines()
    assert lines[0] == "### DRILL-2026-11-24: Backup restore validation"
    for line in (
        "- Date: 2026-11-24T08:30:00Z",
        "- Verdict: pass (5 checks of 5 are ok)",
        "- Backup file: `ai_fsm_20261124_081943.dump`",
        "- Restore duration: 16.0 s (from the start to proven data, the RTO: 21.5 s)",
        "- Row counts: users=3, jobs=12, app.Odd=0",
        "- Health check: ok",
        "- Login smoke test: skipped (no password)",
        "- Evidence (equal): ok (3 tables)",
        "- Assertion (`SELECT count(*) > 0 FROM users`): ok",
        "- Timings: check set 0.2 s, start server 3.1 s, load 14.0 s, analyze 2.0 s, checks 0.4 s",
        "- Hardware: Raspberry Pi 4 Model B, aarch64, 4 processors, 4.0 GB",
        "- Notes: none",
    ):
        assert line in lines
    assert "restored into a throwaway server" in entry


def test_what_was_found_and_what_was_not_compared_stands_in_the_notes() -> None:
    report = drill(
        verdict="backup_bad",
        warnings=["an old pg_dump"],
        details={
            "differences": ["public.users: 2 rows, not 3"],
            "not_compared": ["public.v (foreign table)"],
        },
    )
    lines = records.markdown_entry("DRILL-2026-11-24", report).splitlines()
    assert lines[-4:] == [
        "- Notes:",
        "  - warning: an old pg_dump",
        "  - difference: public.users: 2 rows, not 3",
        "  - not compared: public.v (foreign table)",
    ]


def test_a_drill_that_got_nowhere_claims_nothing() -> None:
    report = Report("drill", True, "", database="ai_fsm", container="db", verdict="environment")
    report.details["reason"] = "the disk is full"
    entry = records.markdown_entry("DRILL-2026-11-24", report)
    for line in (
        "- Verdict: environment (the disk is full)",
        "- Backup file: none",
        "- Restore duration: nothing was restored",
        "- Row counts: not counted",
        "- Checks: none was run",
    ):
        assert line in entry
    assert ": ok" not in entry


def test_a_database_with_hundreds_of_tables_does_not_flood_the_document() -> None:
    rows = {f"public.t{number}": number for number in range(500)}
    differences = [f"public.t{number}: gone" for number in range(500)]
    entry = records.markdown_entry(
        "DRILL-2026-11-24", drill(details={"rows": rows, "differences": differences})
    )
    assert "t59=59 and 440 more, see the log" in entry
    assert "difference: and 480 more, see the log" in entry
    assert len(entry) < 5000


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_and_no_reason_can_break_the_document(text: str) -> None:
    check = {"kind": "http", "name": text, "status": "failed", "reason": text}
    report = drill(
        database=text,
        container=text,
        warnings=[text],
        phases={text: 1.0},
        details={
            "path": f"/x/{text.replace('/', '')}.dump",
            "reason": text,
            "rows": {f"public.{text}": 1},
            "checks": [check, {**check, "kind": "assertion"}],
            "hardware": text,
            "differences": [text],
            "not_compared": [text],
        },
    )
    entry = records.markdown_entry("DRILL-2026-11-24", report)
    after = "\n## After\n\nText *of the operator*.\n"
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(entry + after)
    kinds = Counter(token.type for token in tokens)
    assert kinds["heading_open"] == 2
    # Date, verdict, database, file, duration, rows, two checks, timings, hardware, notes and three of them.
    assert kinds["list_item_open"] == 14
    assert not {"fence", "code_block", "html_block", "table_open", "hr"} & kinds.keys()
    inline = Counter(child.type for token in tokens for child in token.children or ())
    assert inline["em_open"] == 1  # The operator's own.
    assert (
        not {"html_inline", "link_open", "image", "strong_open", "s_open", "hardbreak"}
        & inline.keys()
    )
    assert entry.encode().decode().replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "text", ["a`b``c", "`x`", "[a](b)", "<b>", "a_b", "_a_", "\\x", "&amp;", "a*b*c"]
)
def test_what_is_escaped_reads_as_it_was_written(text: str) -> None:
    entry = records.markdown_entry("D", drill(database=text, warnings=[text]))
    parts = [
        child.content
        for token in MarkdownIt("gfm-like", {"linkify": False}).parse(entry)
        for child in token.children or ()
    ]
    assert text in parts
    assert f"warning: {text}" in "".join(parts)


# -- the document ---------------------------------------------------------------------------------


def test_a_record_that_is_not_there_is_begun_with_a_title(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "DECISION_LOG.md"
    assert records.append_record(path, drill()) == "DRILL-2026-11-24"
    text = path.read_text()
    assert text.startswith(
        "# Backup restore drills\n\n### DRILL-2026-11-24: Backup restore validation\n\n- Date"
    )
    assert records.append_record(path, drill()) == "DRILL-2026-11-24-2"
    assert path.read_text().startswith(text + "\n### DRILL-2026-11-24-2: ")


@pytest.mark.parametrize(
    "document",
    [
        b"# Decisions\n\nText.\n",
        b"# Decisions\n\nNo line break at the end",
        b"# Decisions\n\nTwo at the end.\n\n",
        b"# Decisions\r\n\r\nFrom another system.\r\n",
        b"# Entscheidungen in Latin-1: K\xf6ln \xff\n",
    ],
)
def test_not_a_byte_of_the_document_is_changed(tmp_path: Path, document: bytes) -> None:
    path = tmp_path / "log.md"
    path.write_bytes(document)
    records.append_record(path, drill())
    found = path.read_bytes()
    assert found.startswith(document)
    added = found[len(document) :].decode()
    if b"\r\n" in document:
        assert "\n" not in added.replace("\r\n", "")
    whole = (document + added.encode()).replace(b"\r\n", b"\n")
    assert b"\n\n### DRILL-2026-11-24: " in whole
    assert b"\n\n\n" not in whole


def test_the_document_stays_the_same_file_with_its_mode_and_links(tmp_path: Path) -> None:
    real, link, hard = tmp_path / "real.md", tmp_path / "link.md", tmp_path / "hard.md"
    real.write_text("# Log\n")
    real.chmod(0o664)
    link.symlink_to(real)
    os.link(real, hard)
    before = real.stat()
    records.append_record(link, drill())
    after = real.stat()
    assert link.is_symlink()
    assert (after.st_ino, after.st_mode, after.st_uid, after.st_nlink) == (
        before.st_ino,
        before.st_mode,
        before.st_uid,
        2,
    )
    assert "DRILL-2026-11-24" in hard.read_text()


def test_drills_that_end_at_once_each_get_an_entry_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(records.append_record(path, drill())))
        for unused_thread in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 12
    text = path.read_text()
    assert text.count("# Backup restore drills\n") == 1
    assert all(text.count(f"### {heading}: ") == 1 for heading in found)


@pytest.mark.parametrize("add", [records.append_record, records.append_json])
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, add: Any) -> None:
    path = tmp_path / "log"
    path.write_text("# Log\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(HostError) as caught:
            add(path, drill())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "# Log\n"
    assert "Nothing was added to it" in str(caught.value)
    add(path, drill())


@pytest.mark.parametrize("kind", ["directory", "fifo", "under a file", "device"])
def test_a_record_that_is_no_file_is_an_error_in_words(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "under a file":
        path.write_text("")
        path = path / "y"
    else:
        path = Path("/dev/null")
    with pytest.raises(HostError) as caught:
        records.append_record(path, drill())
    assert str(path) in str(caught.value)


def test_a_document_that_somebody_locks_for_ever_does_not_hold_the_drill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_LOCK_WAIT_S", 0.3)
    path = tmp_path / "log.md"
    path.write_text("# Log\n")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError):
            records.append_record(path, drill())
    assert path.read_text() == "# Log\n"


def test_an_editor_that_saves_by_renaming_does_not_swallow_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    path.write_text("# Log\n")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=records.append_record, args=(path, drill()))
        thread.start()
        # It opens the old file, and waits for the lock.
        time.sleep(0.3)
        (tmp_path / "new").write_text("# Saved by the editor\n")
        (tmp_path / "new").rename(path)
    thread.join()
    assert path.read_text().startswith("# Saved by the editor\n\n### DRILL-2026-11-24: ")


# -- the log --------------------------------------------------------------------------------------


def test_the_log_is_one_line_a_drill_and_nobody_elses_to_read(tmp_path: Path) -> None:
    path = tmp_path / "drills.jsonl"
    records.append_json(path, drill(warnings=["two\nlines", "ü\u2028\udcff"]))
    records.append_json(path, drill(verdict="backup_bad"))
    assert path.stat().st_mode & 0o777 == 0o600
    lines = path.read_text().splitlines()
    assert [json.loads(line)["verdict"] for line in lines] == ["pass", "backup_bad"]
    assert records.read_log(path)[0]["rows"] == {"public.users": 3, "public.jobs": 12, "app.Odd": 0}
    assert records.read_log(path)[0]["warnings"] == ["two\nlines", "ü\u2028\udcff"]


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_line_that_a_power_failure_cut_off_costs_no_other_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "drills.jsonl"
    for verdict in ("pass", "partial"):
        records.append_json(path, drill(verdict=verdict))
    path.write_bytes(path.read_bytes()[:-cut])
    kept = ["pass", "partial"] if cut == 1 else ["pass"]
    assert [entry["verdict"] for entry in records.read_log(path)] == kept
    records.append_json(path, drill(verdict="environment"))
    assert [entry["verdict"] for entry in records.read_log(path)] == [*kept, "environment"]


def test_a_log_with_anything_in_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "drills.jsonl"
    assert records.read_log(path) == []
    path.write_bytes(b'\xff\xfe\x00\n[1]\n"x"\n\n' + b"[" * 200_000 + b'\n{"action": "drill"}\n')
    assert records.read_log(path) == [{"action": "drill"}]
    assert records.last_drills(path) == {}
    assert records.passed_sets(path) == set()
    path.write_text(
        '{"action": "drill", "set_name": "a", "verdict": "backup_bad", "checks": [1]}\n'
    )
    assert records.damaged_sets(path) == {"a"}
    with pytest.raises(HostError):
        records.read_log(tmp_path)


def log(path: Path, *entries: tuple[str, str]) -> Path:
    for number, (name, verdict) in enumerate(entries):
        at = f"2026-11-24T08:{number:02}:00Z"
        records.append_json(path, drill(set_name=name, verdict=verdict, details={"at": at}))
    return path


def test_the_last_drill_of_each_set_is_the_one_that_counts(tmp_path: Path) -> None:
    path = log(
        tmp_path / "log",
        ("a_20261101_020000", "pass"),
        ("b", "pass"),
        ("a_20261101_020000", "partial"),
    )
    assert records.last_drills(path) == {
        "a_20261101_020000": {"verdict": "partial", "at": "2026-11-24T08:02:00Z"},
        "b": {"verdict": "pass", "at": "2026-11-24T08:01:00Z"},
    }


def test_a_set_that_passed_stays_passed_when_a_later_drill_had_trouble_of_its_own(
    tmp_path: Path,
) -> None:
    path = log(
        tmp_path / "log",
        ("z_20261102_020000", "pass"),
        ("z_20261102_020000", "environment"),
        ("a_20261101_020000", "pass"),
    )
    assert records.passed_sets(path) == {"z_20261102_020000", "a_20261101_020000"}


def test_a_set_of_which_not_everything_could_be_tested_passed_in_part(tmp_path: Path) -> None:
    path = log(tmp_path / LOG_NAME, ("a", "pass"), ("b", "partial"), ("c", "not_tested"))
    assert records.passed_sets(path) == {"a"}
    assert records.passed_sets(path, partly=True) == {"a", "b"}
    drilled(tmp_path, "b", "backup_bad", evidence="failed")
    assert records.passed_sets(path, partly=True) == {"a"}


def test_a_set_that_was_found_bad_since_has_not_passed(tmp_path: Path) -> None:
    path = log(tmp_path / LOG_NAME, ("a_20261101_020000", "pass"), ("a_20261102_020000", "pass"))
    drilled(tmp_path, "a_20261102_020000", "backup_bad", evidence="failed")
    assert records.passed_sets(path) == {"a_20261101_020000"}


@pytest.mark.parametrize("kind", ["freshness", "assertion"])
@pytest.mark.parametrize("evidence", ["ok", "skipped"])
def test_a_set_that_is_only_old_or_whose_assertion_fails_is_not_damaged(
    tmp_path: Path, kind: str, evidence: str
) -> None:
    path = log(tmp_path / LOG_NAME, ("a", "pass"))
    drilled(tmp_path, "a", "backup_bad", **{kind: "failed", "evidence": evidence})
    assert (records.damaged_sets(path), records.passed_sets(path)) == (set(), {"a"})


@pytest.mark.parametrize(
    "checks",
    [
        {},
        {"freshness": "failed"},
        {"evidence": "failed"},
        {"freshness": "ok", "evidence": "failed"},
    ],
)
def test_a_set_that_could_not_be_read_or_gave_other_data_back_is_damaged_until_one_finds_it_intact(
    tmp_path: Path, checks: dict[str, str]
) -> None:
    path = tmp_path / LOG_NAME
    drilled(tmp_path, "a", "backup_bad", **checks)
    assert records.damaged_sets(path) == {"a"}
    drilled(tmp_path, "a", "environment")
    assert records.damaged_sets(path) == {"a"}
    drilled(tmp_path, "a", "partial", evidence="ok", http="skipped")
    assert records.damaged_sets(path) == set()


def test_a_drill_of_the_live_database_says_nothing_of_a_set(tmp_path: Path) -> None:
    path = tmp_path / "log"
    records.append_json(path, drill(details={"target": "live"}))
    assert records.passed_sets(path) == set()
    assert records.last_drills(path) == {}
