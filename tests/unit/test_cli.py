# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line: what it takes, how it ends, and what it prints where. No server is needed for any of it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    __version__,
    cli,
    commands,
    due,
    errors,
    outcomes,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine import run as engine_run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.arguments import (
    build_parser,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.commands import Command
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import (
    Section,
    load_config,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.due import due_tasks
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import Copy, Ledger
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Report,
    iso,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.outcomes import (
    failure,
    success,
    worst,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.retention import Policy
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.schedule import Schedule
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import (
    Offsite,
    RcloneTarget,
)

ROOT = Path(__file__).resolve().parents[2]
TWO = "backup_dir: {dir}\ndatabases:\n  one: {{container: c1}}\n  two: {{container: c2, database: second}}\n"
ONE = (
    "backup_dir: {dir}\ndatabases:\n  one: {{container: c1, timeout_s: 60, stop_services: [web]}}\n"
)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    directory = tmp_path / "sets"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def one(tmp_path: Path, sets: Path) -> str:
    return _config(tmp_path, sets, ONE)


@pytest.fixture
def two(tmp_path: Path, sets: Path) -> str:
    return _config(tmp_path, sets, TWO)


def _config(tmp_path: Path, sets: Path, text: str) -> str:
    path = tmp_path / "config.yml"
    path.write_text(text.format(dir=sets))
    return str(path)


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would reach for Docker finds nothing."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")


class Printed:
    """What one call of the command printed, and its status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        capsys.readouterr()
        self.status = cli.main(words)
        self.out, self.err = capsys.readouterr()
        assert "Traceback" not in self.out + self.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def requests_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[Any]:
    """The requests that a command line turns into; nothing is run."""
    seen = []

    def take(request: Any, progress: object = None, **unused: object) -> Report:
        seen.append(request)
        return Report(action="", changed=False, msg="")

    for name in ("backup", "restore", "roll_back", "drill", "verify", "check_key", "prune"):
        monkeypatch.setattr(commands, name, take)
    assert cli.main(["--quiet", *words]) == 0
    return seen


def test_a_private_key_is_read_from_standard_input_or_named_by_its_file(
    one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["restore", "latest"], ["drill"], ["verify"], ["keycheck"]):
        monkeypatch.setattr("sys.stdin", io.StringIO("AGE-SECRET-KEY-X\n"))
        (given,) = requests_of(monkeypatch, "--config", one, *words, "--identity-file", "-")
        assert (given.identity, given.identity_file) == ("AGE-SECRET-KEY-X\n", None)
        assert "AGE-SECRET" not in repr(given)
        (named,) = requests_of(monkeypatch, "--config", one, *words, "--identity-file", "/k")
        assert (named.identity, named.identity_file) == ("", Path("/k"))


@pytest.mark.parametrize("command", ["drill", "verify", "keycheck"])
def test_a_set_that_is_named_is_of_one_database(
    tmp_path: Path, sets: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    both = _config(tmp_path, sets, TWO.replace("second", "shop"))
    name = lay_out(sets).name
    by_words = {"verify": (name,)}.get(command, ("--set", name))
    (asked,) = requests_of(monkeypatch, "--config", both, command, *by_words)
    assert (asked.target.database, asked.source) == ("shop", name)
    assert len(requests_of(monkeypatch, "--config", both, command)) == 2


def test_a_drill_of_the_live_databases_goes_by_no_set(
    two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("drill", "--live", "--set", "shop_20260219_020000")
    assert len(requests_of(monkeypatch, "--config", two, *words)) == 2


def test_standard_input_without_a_key_is_told(
    one: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    said = Printed(capsys, "--config", one, "keycheck", "--identity-file", "-")
    assert "Standard input gave no private key" in said.err


# -- wrong use ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("frob",), "invalid choice: 'frob'"),
        (("restore",), "the following arguments are required: SOURCE"),
        (("restore", "latest", "--method", "magic"), "invalid choice: 'magic'"),
        (("backup", "--evidence", "some"), "invalid choice: 'some'"),
        (("backup", "--timeout", "soon"), '"soon" is no number from 0 on'),
        (("prune", "--days", "nan"), '"nan" is no number from 0 on'),
        (("prune", "--days", "-1"), '"-1" is no number from 0 on'),
        (("drill", "--jobs", "1.5"), '"1.5" is no number from 0 on'),
        (("prune", "--dry"), "unrecognized arguments: --dry"),
        (("list", "--force"), "unrecognized arguments: --force"),
        (("backup", "a", "b"), "unrecognized arguments: b"),
        (("backup", "a", "--database", "b"), 'Both "a" and --database "b" were given'),
        (("backup", "--container", "c", "--database", "d"), "--backup-dir is needed"),
        (("backup", "--container", "c", "--backup-dir", "/b"), "--database is needed"),
        (("backup", "--database", "d", "--backup-dir", "/b"), "--container, or --project and"),
        (("backup", "--project", "p", "--database", "d", "--backup-dir", "/b"), "--project and"),
        (("verify", "--backup-dir", "/b"), "--database is needed"),
        (("list", "--config", "/c", "--container", "c"), "exclude each other"),
        (("list", "--config", "/nonexistent/c.yml"), "There is no configuration file"),
        (("verify", "x", "--all", "--backup-dir", "/b"), "Either --all or a set"),
    ],
)
def test_wrong_use_is_one_message_and_status_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    printed = Printed(capsys, *words)
    assert printed.status == 2
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.startswith("firedrill: ")
    assert printed.err.count("\n") == 1


def test_wrong_use_with_json_is_one_document_and_silence_beside_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = Printed(capsys, "restore", "--json")
    assert (printed.status, printed.err) == (2, "")
    assert printed.json["failed"] is True
    assert "SOURCE" in printed.json["msg"]
    assert printed.json["error"] == "ConfigError"


def test_a_wrong_configuration_is_status_2_and_names_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "c.yml").write_text("backup_dir: /b\ndatabase: {}\n")
    printed = Printed(capsys, "backup", "--config", f"{tmp_path}/c.yml")
    assert printed.status == 2
    assert f"{tmp_path}/c.yml cannot be used" in printed.err
    assert "did you mean databases?" in printed.err


def test_a_database_that_the_settings_do_not_have_is_named_with_those_they_have(
    capsys: pytest.CaptureFixture[str], two: str
) -> None:
    printed = Printed(capsys, "--config", two, "backup", "three")
    assert printed.status == 2
    assert 'has no database "three", it has one, two' in printed.err


@pytest.mark.parametrize("words", [("restore", "latest"), ("rollback",)])
def test_what_changes_a_database_has_to_be_told_which_of_several(
    capsys: pytest.CaptureFixture[str], two: str, words: tuple[str, ...]
) -> None:
    printed = Printed(capsys, "--config", two, *words)
    assert printed.status == 2
    assert "Which database? The settings have one, two" in printed.err


# -- what is asked of the engine ----------------------------------------------------------------------


def test_options_may_stand_before_and_after_the_command(
    monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    for words in (["--config", one, "backup"], ["backup", "--config", one]):
        assert requests_of(monkeypatch, *words)[0].target.container == "c1"


def test_options_outrank_the_settings_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    (plain,) = requests_of(monkeypatch, "--config", one, "restore", "latest")
    assert (plain.source, plain.method, plain.verify, plain.force) == (
        "latest",
        "swap",
        True,
        False,
    )
    assert (plain.timeout_s, plain.stop_services, plain.check) == (60, ("web",), False)
    words = "--method replace --force --no-verify --no-safety-dump --dry-run --timeout 5 --jobs 3"
    words += " --stop-service app --stop-service worker --no-owner --no-privileges"
    (other,) = requests_of(
        monkeypatch, "--config", one, "restore", "before:2026-02-19", *words.split()
    )
    assert (other.source, other.method, other.verify, other.force) == (
        "before:2026-02-19",
        "replace",
        False,
        True,
    )
    assert (other.timeout_s, other.stop_services, other.check) == (5, ("app", "worker"), True)
    assert (other.safety_dump, other.jobs) == (False, 3)
    assert (other.no_owner, other.no_privileges) == (True, True)


@pytest.mark.parametrize("command", ["backup", "drill", "verify"])
def test_without_a_name_every_database_gets_its_turn(
    monkeypatch: pytest.MonkeyPatch, two: str, command: str
) -> None:
    found = requests_of(monkeypatch, "--config", two, command)
    assert [request.target.database for request in found] == ["one", "second"]


@pytest.mark.parametrize("name", ["two", "second"])
def test_a_database_is_known_by_its_name_in_the_settings_and_by_its_own(
    monkeypatch: pytest.MonkeyPatch, two: str, name: str
) -> None:
    for words in (["backup", name], ["backup", "--database", name]):
        found = requests_of(monkeypatch, "--config", two, *words)
        assert [request.target.container for request in found] == ["c2"]


def test_a_drill_takes_a_set_and_may_be_live(monkeypatch: pytest.MonkeyPatch, one: str) -> None:
    (request,) = requests_of(
        monkeypatch, "--config", one, "drill", "--set", "20260219_020000", "--live", "--dry-run"
    )
    assert (request.source, request.live, request.check) == ("20260219_020000", True, True)


def test_drills_by_hand_and_by_the_schedule_are_told_the_checks_of_the_application(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sets: Path
) -> None:
    checked = "backup_dir: {dir}\ndatabases: {{a: {{container: c, http_checks: [{{url: 'http://x/'}}]}}}}\n"
    path = _config(tmp_path, sets, checked)
    (by_hand,) = requests_of(monkeypatch, "--config", path, "drill")
    planned = []
    monkeypatch.setattr(due, "uptime_s", lambda: 1e6)
    monkeypatch.setattr(due, "drill", lambda request, unused_progress: planned.append(request))
    section = load_config(Path(path)).sections["a"]
    due._Drill(Schedule()).run(section, None)
    for request in (by_hand, *planned):
        assert [check.label for check in request.http_checks] == ["GET http://x/"]
    assert len(planned) == 1


def test_it_works_without_a_file_of_settings(monkeypatch: pytest.MonkeyPatch, sets: Path) -> None:
    words = ["--container", "c", "--database=-odd name", "--backup-dir", str(sets)]
    (request,) = requests_of(monkeypatch, "backup", "--user", "u", *words)
    assert (request.target.container, request.target.database) == ("c", "-odd name")
    assert (request.target.user, request.directory) == ("u", sets)
    (request,) = requests_of(
        monkeypatch,
        *("restore", "latest", "--project", "p", "--service", "db", "--database", "d"),
        *("--backup-dir", str(sets)),
    )
    assert (request.target.project, request.target.service) == ("p", "db")


def test_prune_takes_its_days_from_the_settings_unless_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sets: Path
) -> None:
    path = _config(tmp_path, sets, ONE + "retention: {{days: 30}}\n")
    (request,) = requests_of(monkeypatch, "--config", path, "prune", "--dry-run")
    assert (request.policy.days, request.check, request.database) == (30, True, "")
    (request,) = requests_of(monkeypatch, "--config", path, "prune", "one", "--days", "3")
    assert (request.policy.days, request.check, request.database) == (3, False, "one")


def test_no_option_takes_a_password_since_every_process_list_would_show_it() -> None:
    helps = [build_parser().format_help()]
    assert not re.search(r"--[a-z-]*password(?!-file)", " ".join(helps))


# -- exit statuses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        ("", 0),
        ("pass", 0),
        ("intact", 0),
        ("backup_bad", 3),
        ("environment", 4),
        ("partial", 5),
        ("not_tested", 6),
        ("something new", 1),
    ],
)
def test_each_verdict_has_its_exit_status(verdict: str, status: int) -> None:
    report = Report(action="drill", changed=False, msg="", verdict=verdict)
    assert success(report).status == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.FiredrillError("x"), 1),
        (errors.TargetError("x"), 1),
        (errors.SetError("x"), 1),
        (errors.ServerError("x"), 1),
        (errors.RefusedError("x", ["a", "b"]), 1),
        (errors.MismatchError("x"), 1),
        (errors.ConfigError("x"), 2),
        (errors.HostError("x"), 4),
        (errors.BusyError("x"), 7),
        (errors.InterruptedRun("x", by_signal=True), 8),
        (KeyboardInterrupt(), 8),
        (PermissionError(13, "Permission denied", "/b"), 4),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_status(error: BaseException, status: int) -> None:
    assert failure(error).status == status


def test_of_several_databases_the_worst_status_counts() -> None:
    def ended(*statuses: int) -> int:
        return worst([outcomes.Outcome(status, {}) for status in statuses])

    assert ended(0, 0) == 0
    assert ended(0, 5) == 5
    assert ended(6, 3, 4) == 3
    assert ended(7, 1, 0) == 1
    assert sorted(outcomes.WORST_FIRST) == list(range(10))


def test_the_help_lists_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    printed = Printed(capsys, "--help")
    assert printed.status == 0
    for status in range(9):
        assert re.search(rf"^  {status}  \w", printed.out, re.MULTILINE)
    order = " ".join(str(status) for status in outcomes.WORST_FIRST)
    assert f"in this order: {order}." in printed.out


def test_the_version_is_the_engines(capsys: pytest.CaptureFixture[str]) -> None:
    printed = Printed(capsys, "--version")
    assert (printed.status, printed.out) == (0, f"firedrill {__version__}\n")


# -- errors ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="the engine runs as root")
@pytest.mark.parametrize(
    "words",
    [("backup",), ("restore", "latest"), ("rollback",), ("drill",), ("backup", "--dry-run")],
)
def test_without_a_docker_engine_it_says_so_with_status_4(
    capsys: pytest.CaptureFixture[str], one: str, words: tuple[str, ...]
) -> None:
    printed = Printed(capsys, "--config", one, "--quiet", *words)
    assert printed.status == 4
    assert printed.out == ""
    assert "No Docker engine answers at /nonexistent/docker.sock" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="the engine runs as root")
def test_an_error_of_the_engine_is_json_too(capsys: pytest.CaptureFixture[str], one: str) -> None:
    printed = Printed(capsys, "--config", one, "--json", "backup")
    assert (printed.status, printed.err) == (4, "")
    assert printed.json["action"] == "backup"
    assert printed.json["name"] == "one"
    assert printed.json["error"] == "HostError"


@pytest.mark.skipif(os.geteuid() != 0, reason="the engine runs as root")
def test_json_of_several_databases_is_a_list_with_each_of_them(
    capsys: pytest.CaptureFixture[str], two: str
) -> None:
    printed = Printed(capsys, "--config", two, "--json", "backup")
    assert printed.status == 4
    assert [document["name"] for document in printed.json] == ["one", "two"]


def test_a_failure_of_one_database_does_not_keep_the_next_from_its_turn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, two: str
) -> None:
    def backup(request: Any, progress: object) -> Report:
        if request.target.database == "one":
            raise errors.TargetError("It is not there")
        return Report(action="backup", changed=True, msg="done", database="second")

    monkeypatch.setattr(commands, "backup", backup)
    printed = Printed(capsys, "--config", two, "backup")
    assert printed.status == 1
    assert "firedrill: one: It is not there." in printed.err
    assert printed.out == "second: done\n"


@pytest.mark.parametrize(
    ("cause", "turns"),
    [("the signal SIGTERM", ["one"]), ("its time limit of 5 s", ["one", "second"])],
)
def test_a_signal_ends_all_of_it_but_a_time_limit_only_one_database(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    two: str,
    cause: str,
    turns: list[str],
) -> None:
    seen = []

    def backup(request: Any, progress: object) -> Report:
        seen.append(request.target.database)
        raise errors.InterruptedRun(
            f"The backup was ended by {cause}", by_signal=cause.startswith("the signal")
        )

    monkeypatch.setattr(commands, "backup", backup)
    assert Printed(capsys, "--config", two, "backup").status == 8
    assert seen == turns


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_what_nobody_thought_of_is_one_line_without_its_text(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    one: str,
    json_too: list[str],
) -> None:
    def backup(request: Any, progress: object) -> Report:
        raise KeyError("geheim")

    monkeypatch.setattr(commands, "backup", backup)
    printed = Printed(capsys, "--config", one, *json_too, "backup")
    said = printed.json["msg"] if json_too else printed.err
    assert printed.status == 1
    assert "Unexpected KeyError at test_cli.py, line" in said
    assert "please report it" in said
    assert "geheim" not in printed.out + printed.err


@pytest.mark.parametrize("command", ["list", "prune", "verify --all"])
def test_a_directory_that_is_not_there_is_an_error_and_no_empty_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    printed = Printed(capsys, *command.split(), "--backup-dir", str(tmp_path / "absent"))
    assert printed.status == 4
    assert "absent cannot be read: No such file or directory" in printed.err


def test_verify_of_all_of_nothing_is_no_success(
    capsys: pytest.CaptureFixture[str], sets: Path
) -> None:
    printed = Printed(capsys, "verify", "--all", "--backup-dir", str(sets))
    assert printed.status == 1
    assert f"There is no set in {sets}" in printed.err


# -- what is printed ---------------------------------------------------------------------------------


def test_a_dump_without_a_manifest_is_listed_as_such(
    capsys: pytest.CaptureFixture[str], sets: Path
) -> None:
    (sets / "shop_20260219_020000.dump").write_bytes(b"PGDMP")
    (sets / "shop_20260220_020000.dump").write_bytes(b"PGDMP")
    (sets / "shop_20260220_020000.json").write_text("{}")
    (sets / "notes.txt").write_text("mine")
    printed = Printed(capsys, "list", "--backup-dir", str(sets))
    assert printed.status == 0
    head, newer, older = printed.out.splitlines()
    assert " ".join(head.split()) == "SET DATABASE AGE SIZE EVIDENCE LAST DRILL PROBLEMS"
    assert re.match(r"shop_20260219_020000 +\? .* 5 B +- +never +it has no manifest", older)
    assert "was edited or damaged" in newer
    (second, first) = Printed(capsys, "list", "--json", "--backup-dir", str(sets)).json
    assert first["name"] == "shop_20260219_020000"
    assert first["created_at"] == "2026-02-19T02:00:00Z"
    assert (first["bytes"], first["evidence"], first["last_drill"]) == (5, None, None)
    assert first["problems"] == ["it has no manifest beside it"]
    assert len(second["problems"]) == 1


def test_an_empty_list_is_an_empty_document(capsys: pytest.CaptureFixture[str], sets: Path) -> None:
    printed = Printed(capsys, "list", "--json", "--backup-dir", str(sets))
    assert (printed.status, printed.json) == (0, [])


def test_a_copy_that_its_target_has_let_go_is_not_told_as_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sets: Path
) -> None:
    far = "offsite: {{nas: {{type: rclone, remote: 'nas:x'}}, bucket: {{type: rclone, remote: 'b:x'}}}}\n"
    text = "backup_dir: {dir}\ndatabases: {{shop: {{container: c1}}}}\n" + far
    settings = _config(tmp_path, sets, text)
    made = lay_out(sets, created=utc_now() - timedelta(days=3))
    ledger = Ledger(sets, "shop")
    ledger.note(made.name, "nas", Copy("confirmed", iso(utc_now())))
    ledger.removed(made.name, "nas", utc_now())
    (row,) = Printed(capsys, "--config", settings, "list", "--json").json
    assert row["offsite"] == {"nas": "removed", "bucket": ""}
    printed = Printed(capsys, "--config", settings, "list")
    assert "nas (kept no longer), NOT bucket" in " ".join(printed.out.split())


def test_no_upload_keeps_the_backup_of_another_database_waiting(
    tmp_path: Path, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_run, "RUNTIME_DIRECTORY", tmp_path / "run")
    lay_out(sets, created=utc_now() - timedelta(days=3))
    far = Offsite((RcloneTarget("nas", "nas:x"),))
    sections = [Section(name, sets, {"database": "shop"}, far) for name in ("one", "two")]
    tasks = due_tasks(sections, Schedule(), Policy(), check=True)
    assert [(task.action, task.label) for task in tasks] == [
        (action, name) for action in ("backup", "drill", "copy") for name in ("one", "two")
    ]


def test_a_long_upload_keeps_no_later_run_from_its_backups_and_drills(
    tmp_path: Path, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_run, "RUNTIME_DIRECTORY", tmp_path / "run")
    lay_out(sets, created=utc_now() - timedelta(days=3))
    section = Section("one", sets, {"database": "shop"}, Offsite((RcloneTarget("nas", "nas:x"),)))

    def asked() -> Iterator[str]:
        return (task.action for task in due_tasks([section], Schedule(), Policy(), check=True))

    uploading = asked()
    assert [next(uploading) for unused in range(3)] == ["backup", "drill", "copy"]
    assert list(asked()) == ["backup", "drill"]
    assert list(uploading) == []
    assert list(asked()) == ["backup", "drill", "copy"]
    busy = asked()
    next(busy)
    with pytest.raises(errors.BusyError, match="doing the same"):
        next(asked())
    busy.close()  # type: ignore[attr-defined]


def test_what_lies_on_a_disk_that_is_there_is_settled_first(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    sets: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (
        "databases:\n  one: {{container: c1, backup_dir: /away}}\n"
        "  two: {{container: c2, backup_dir: {dir}}}\n"
        "  three: {{container: c3, backup_dir: {dir}}}\n"
    )
    settled = []

    def settle(request: Any, progress: object) -> Report:
        settled.append(request.target.database)
        return Report(action="settle", changed=False, msg="Nothing was interrupted")

    monkeypatch.setattr(commands, "settle_interrupted", settle)
    monkeypatch.setattr(
        commands, "not_mounted", lambda place: "" if place == sets else "it is away"
    )
    assert Printed(capsys, "--config", _config(tmp_path, sets, text), "settle").status == 0
    assert settled == ["two", "three", "one"]


def test_a_directory_that_answers_with_errors_keeps_no_other_database_from_its_turn(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    sets: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As of a disk that fails: nobody can tell what is there.
    broken = tmp_path / ("x" * 300)
    settings = _config(
        tmp_path,
        sets,
        f"databases:\n  one: {{{{container: c1, backup_dir: {broken}}}}}\n"
        "  two: {{container: c2, backup_dir: {dir}}}\n"
        f"alarms: {{{{metrics_dir: '{tmp_path}'}}}}\n",
    )
    (tmp_path / "schedule.yml").write_text('backup: "02:00"\ndrill: {day: 1, time: "03:30"}\n')
    monkeypatch.setattr(engine_run, "RUNTIME_DIRECTORY", tmp_path / "run")
    monkeypatch.setattr(due, "uptime_s", lambda: 1e6)
    printed = Printed(capsys, "--config", settings, "due", "--json")
    told = {(one["name"], one["action"]): one for one in printed.json}
    assert "File name too long" in told["one", "backup"]["msg"]
    assert "Docker" in told["two", "backup"]["msg"]
    rows = {
        one["name"]: one for one in Printed(capsys, "--config", settings, "status", "--json").json
    }
    assert "cannot be read: File name too long" in rows["one"]["problems"][0]
    assert rows["one"]["free_bytes"] is None
    assert rows["two"]["free_bytes"] > 0
    assert 'firedrill_problems{name="two"' in (tmp_path / "firedrill.prom").read_text()
    assert Printed(capsys, "--config", settings, "status").status != 0


def test_prune_never_touches_what_is_not_ours(
    capsys: pytest.CaptureFixture[str], sets: Path
) -> None:
    for name in ("shop_20200101_000000.dump", "other_20200101_000000.json", "notes.txt"):
        (sets / name).write_text("mine")
    printed = Printed(capsys, "prune", "--days", "0", "--backup-dir", str(sets))
    assert printed.status == 0
    assert "Removed 0 sets" in printed.out
    assert "leave shop_20200101_000000: it has no manifest beside it" in printed.out
    assert len(list(sets.iterdir())) == 3


def test_sets_that_are_not_offsite_stay_however_their_directory_is_spelled(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sets: Path
) -> None:
    (tmp_path / "link").symlink_to(sets)
    text = (
        "databases:\n  one: {{container: c1, backup_dir: {dir}}}\n"
        f"  shop: {{{{container: c2, backup_dir: {tmp_path / 'link'}}}}}\n"
    )
    made, *unused_newer = (
        lay_out(sets, created=utc_now() - timedelta(days=days)) for days in range(20, 0, -1)
    )
    far = f"offsite: {{{{nas: {{{{type: rclone, remote: '{tmp_path / 'far'}'}}}}}}}}\n"
    Printed(capsys, "--config", _config(tmp_path, sets, text + far), "prune")
    assert (sets / made.dump.name).exists()
    printed = Printed(capsys, "--config", _config(tmp_path, sets, text), "prune")
    assert printed.err.count("Removed") + printed.out.count("Removed") == 1
    assert not (sets / made.dump.name).exists()


def test_options_alone_prune_no_directory_whose_keeping_is_settled(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    sets: Path,
    two: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "DEFAULT_PATH", Path(two))
    made = lay_out(sets, created=utc_now() - timedelta(days=300))
    lay_out(sets, created=utc_now() - timedelta(days=299))
    link = tmp_path / "link"
    link.symlink_to(sets)
    for directory in (sets, link):
        refused = Printed(capsys, "prune", "--backup-dir", str(directory))
        assert refused.status == 2
        assert f"{two} says how long the sets in {directory} are kept, of one" in refused.err
    assert (sets / made.dump.name).exists()
    other = tmp_path / "other"
    other.mkdir()
    assert Printed(capsys, "prune", "--backup-dir", str(other)).status == 0


def test_a_command_for_one_database_leaves_the_figures_of_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sets: Path
) -> None:
    settings = _config(tmp_path, sets, f"{TWO}alarms: {{{{metrics_dir: '{tmp_path}'}}}}\n")
    for words in ("prune",), ("--database", "one", "prune"):
        assert Printed(capsys, "--config", settings, *words).status == 0
        figures = (tmp_path / "firedrill.prom").read_text()
        assert [name for name in ("one", "two") if f'_problems{{name="{name}"' in figures] == [
            "one",
            "two",
        ]


def test_hostile_names_cannot_steer_the_terminal_or_break_a_line(
    capsys: pytest.CaptureFixture[str], sets: Path
) -> None:
    (sets / "a\x1b[2J\n[red]\u202eb.dump").write_bytes(b"x")
    (sets / "\udcff.dump").write_bytes(b"x")
    printed = Printed(capsys, "list", "--backup-dir", str(sets))
    assert printed.status == 0
    assert len(printed.out.splitlines()) == 3
    assert r"a\x1b[2J\n[red]\u202eb" in printed.out
    assert "\x1b" not in printed.out
    assert len(Printed(capsys, "list", "--json", "--backup-dir", str(sets)).json) == 2


def report_of_a_drill() -> Report:
    checks = [{"kind": "http", "name": "health", "status": "skipped", "reason": "no network"}]
    return Report(
        action="drill",
        changed=True,
        msg="not everything could be checked",
        verdict="partial",
        warnings=["old image"],
        details={"checks": checks, "differences": ["public.a: 1 row, not 2"], "not_compared": []},
    )


def test_a_drill_that_is_not_a_pass_is_told_on_standard_error_with_its_checks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    monkeypatch.setattr(commands, "drill", lambda request, progress: report_of_a_drill())
    printed = Printed(capsys, "--config", one, "--quiet", "drill")
    assert (printed.status, printed.out) == (5, "")
    assert printed.err.splitlines() == [
        "firedrill: warning: old image",
        "partial: not everything could be checked",
        "  skipped  http health: no network",
        "  differs: public.a: 1 row, not 2",
    ]


def test_a_restore_shows_the_rows_of_the_live_database_of_the_set_and_of_the_set_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    rows = {
        "rows_before": {"public.jobs": 0, "public.users": 42, "public.gone": 5, "public.same": 7},
        "rows_after": {"public.jobs": 0, "public.users": 41, "public.same": 7, "odd\n": 1},
    }
    earlier = {"public.jobs": 1180, "public.users": 41, "public.gone": 5, "public.same": 7}
    done = Report(action="restore", changed=True, msg="Would restore", details=rows)
    monkeypatch.setattr(commands, "restore", lambda request, progress: done)
    words = ("--config", one, "restore", "latest", "--dry-run")
    assert Printed(capsys, *words).out.splitlines() == [
        "Would restore",
        "  odd\\n: - -> 1 rows",
        "  public.gone: 5 -> - rows",
        "  public.users: 42 -> 41 rows",
        "  2 other tables have as many as before",
    ]
    done.details = {**rows, "earlier_set": "shop_1", "rows_earlier": earlier}
    # A dump of the accident has what the live database has, so the set before it has to be seen.
    assert Printed(capsys, *words).out.splitlines() == [
        "Would restore",
        "  odd\\n: - -> 1 rows (- in shop_1)",
        "  public.gone: 5 -> - rows (5 in shop_1)",
        "  public.jobs: 0 -> 0 rows (1180 in shop_1)",
        "  public.users: 42 -> 41 rows (41 in shop_1)",
        "  1 other table has as many as before",
    ]


def test_a_restore_that_changes_no_count_shows_no_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    rows = {"public.jobs": 3}
    details = {"rows_before": rows, "rows_after": rows, "earlier_set": "", "rows_earlier": {}}
    done = Report(action="restore", changed=False, msg="It is there", details=details)
    monkeypatch.setattr(commands, "restore", lambda request, progress: done)
    assert Printed(capsys, "--config", one, "restore", "latest").out == "It is there\n"


def test_quiet_says_nothing_of_a_success_but_its_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    done = Report(action="backup", changed=True, msg="done", warnings=["mind the disk"])
    monkeypatch.setattr(commands, "backup", lambda request, progress: done)
    printed = Printed(capsys, "--config", one, "--quiet", "backup")
    assert (printed.status, printed.out) == (0, "")
    assert printed.err == "firedrill: warning: mind the disk\n"


def test_a_report_in_json_is_the_engines_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    monkeypatch.setattr(commands, "drill", lambda request, progress: report_of_a_drill())
    printed = Printed(capsys, "--config", one, "--json", "drill")
    assert (printed.status, printed.err) == (5, "")
    assert printed.json == report_of_a_drill().as_dict()


def phases(request: Any, progress: Any) -> Report:
    for phase, done in (("dump", 0), ("dump", 10), ("dump", 20), ("verify", 0)):
        progress(phase, done, 0)
    return Report(action="backup", changed=True, msg="done")


def test_progress_without_a_terminal_is_one_plain_line_a_phase(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one: str
) -> None:
    monkeypatch.setattr(commands, "backup", phases)
    printed = Printed(capsys, "--config", one, "backup")
    assert printed.out == "done\n"
    lines = printed.err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ backup: dump \.\.\.", lines[0])


@pytest.mark.parametrize("has_rich", [True, False])
def test_progress_on_a_terminal_moves_where_rich_is_there_and_is_plain_elsewhere(
    monkeypatch: pytest.MonkeyPatch, one: str, has_rich: bool
) -> None:
    monkeypatch.setattr(commands, "backup", phases)
    monkeypatch.setattr(cli, "HAS_RICH", has_rich)
    monkeypatch.setenv("TERM", "xterm")
    reading, writing = pty.openpty()
    with os.fdopen(writing, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        assert cli.main(["--config", one, "backup"]) == 0
    shown = os.read(reading, 100_000).decode()
    os.close(reading)
    assert ("\x1b[" in shown) == has_rich
    assert ("Z backup: dump ..." in shown) != has_rich


@pytest.mark.parametrize("terminal", [True, False])
def test_a_display_that_fails_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, one: str, terminal: bool
) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

        def isatty(self) -> bool:
            return terminal

    monkeypatch.setattr(commands, "backup", phases)
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Gone())
        assert cli.main(["--config", one, "backup"]) == 0


# -- as a process -----------------------------------------------------------------------------------


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a process, by its launcher."""
    return subprocess.run(
        [str(ROOT / "firedrill"), *words],
        check=False,
        text=True,
        capture_output=True,
        **options,
    )


def test_the_launcher_of_a_checkout_runs_the_command_from_anywhere(tmp_path: Path) -> None:
    link = tmp_path / "firedrill"
    link.symlink_to(ROOT / "firedrill")
    done = subprocess.run(
        [str(link), "--version"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, f"firedrill {__version__}\n")


def test_root_imports_nothing_from_the_directory_it_stands_in(tmp_path: Path) -> None:
    for name in ("docker", "yaml", "json", "_engine"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run("--version", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_early_is_no_error(sets: Path) -> None:
    for number in range(2000):
        (sets / f"shop_20260219_{number:06}.dump").write_bytes(b"x")
    line = f"'{ROOT}/firedrill' list --backup-dir '{sets}' | head -n1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("SET ")


def test_output_that_cannot_be_written_is_an_error(sets: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [str(ROOT / "firedrill"), "list", "--json", "--backup-dir", str(sets)],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "the output is lost" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_c_locale_of_a_timer_can_print_every_name(sets: Path) -> None:
    (sets / "größe_例え.dump").write_bytes(b"x")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = run("list", "--backup-dir", str(sets), env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "it has no manifest" in done.stdout


def test_every_command_has_a_request_behind_it(one: str) -> None:
    for words in ("backup", "restore latest", "drill", "verify", "list", "rollback", "prune"):
        options = build_parser().parse_args(["--config", one, *words.split()])
        assert Command(options).name == words.split()[0]
