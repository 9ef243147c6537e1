# Copyright (c) Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules by their real main(): options in, a result or one readable failure out. No engine and no mock of one."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common import warnings
from ansible.module_utils.testing import patch_module_args
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils import _adapter
from ansible_collections.firedrill.postgres.plugins.module_utils._engine import run as engine_run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    BusyError,
    RefusedError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report

MODULES = "ansible_collections.firedrill.postgres.plugins.modules"
ROOT = Path(__file__).resolve().parents[2]
SECRET = "it's \\a \"$(se)cret`;&|<>*?[]#~=%\u00fc"

DUMP = "pg_dump_container"
RESTORE = "pg_restore_container"
DRILL = "restore_drill"
KEY_CHECK = "key_check"
ENGINE = {DUMP: "backup", RESTORE: "restore", DRILL: "drill", KEY_CHECK: "check_key"}


class Result:
    """What a module printed for Ansible, and its exit status."""

    def __init__(self, status: Any, output: str) -> None:
        self.status = status
        self.text = output
        self.values: dict[str, Any] = json.loads(output)

    @property
    def msg(self) -> str:
        return str(self.values["msg"])


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without a Docker engine, where the engine may think that it is root; returns the backup directory."""
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setattr(engine_run, "RUNTIME_DIRECTORY", tmp_path / "run")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    return tmp_path / "backups"


@pytest.fixture
def call(host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls a module's main(); `place` is its directory option, and a container is named unless `bare`."""

    def run(module: str, *, bare: bool = False, **options: Any) -> Result:
        given = {"database": "app", **options}
        if not bare:
            given.setdefault("container", "db")
            given.setdefault("dest" if module == DUMP else "backup_dir", str(host))
        # Ansible keeps them for the whole process; in a test that would be for all modules.
        warnings._global_warnings.clear()
        with patch_module_args(given), pytest.raises(SystemExit) as ended:
            importlib.import_module(f"{MODULES}.{module}").main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return Result(ended.value.code, printed.out)

    return run


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Notes the requests that reach the engine, in whose place it answers with an empty report."""
    requests: list[Any] = []

    def note(request: Any, **unused_more: Any) -> Report:
        requests.append(request)
        return Report(action="noted", changed=False, msg="noted", database="app")

    for name in (*ENGINE.values(), "roll_back"):
        monkeypatch.setattr(_adapter, name, note)
    return requests


def answer(monkeypatch: pytest.MonkeyPatch, module: str, outcome: Report | Exception) -> None:
    """Lets the engine end in `outcome`."""

    def act(unused_request: Any) -> Report:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(_adapter, ENGINE[module], act)


# -- options that make no sense


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (RESTORE, {}, "missing: src"),
        (RESTORE, {"src": "latest", "method": "clone"}, "method must be one of: swap, replace"),
        (
            RESTORE,
            {"src": "latest", "state": "absent"},
            "state must be one of: restored, rolled_back",
        ),
        (RESTORE, {"src": "latest", "jobs": "many"}, "jobs"),
        (
            RESTORE,
            {"src": "latest", "post_sql": [{"file": "/tmp/post.sql", "sql": "SELECT 1"}]},
            "mutually exclusive: file|container_file|sql found in post_sql",
        ),
        (
            RESTORE,
            {"src": "latest", "post_sql": [{}]},
            "one of the following is required: file, container_file, sql found in post_sql",
        ),
        (DUMP, {"project": "shop", "service": "db"}, "mutually exclusive: container|project"),
        (DUMP, {"evidence": "some"}, "evidence must be one of: full, counts, none"),
        (DUMP, {"min_free_bytes": "2 GB"}, "min_free_bytes"),
        (DUMP, {"dst": "/tmp"}, "Unsupported parameters"),
        (DRILL, {"target": "staging"}, "target must be one of: scratch, live"),
        (DRILL, {"fail_on": ["pass"]}, "fail_on must be one or more of"),
        (
            DRILL,
            {"assertions": [{"name": "no query"}]},
            "missing required arguments: sql found in assertions",
        ),
        (DRILL, {"freshness": {}}, "missing required arguments: max_age_s found in freshness"),
        (DRILL, {"http_checks": [{"path": "/"}]}, "required: url, service found in http_checks"),
        (
            DRILL,
            {"http_checks": [{"service": "web"}]},
            "required together: service, port found in http_checks",
        ),
        (
            DRILL,
            {"http_checks": [{"service": "web", "port": 80, "url": "http://127.0.0.1/"}]},
            "mutually exclusive: url|service found in http_checks",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_named_and_nothing_is_begun(
    call: Any, engine: list[Any], host: Path, module: str, options: dict[str, Any], words: str
) -> None:
    result = call(module, **options)
    assert result.status == 1
    assert result.values["failed"] is True
    assert words in result.msg
    assert engine == []
    assert not host.exists()


@pytest.mark.parametrize("module", [DUMP, RESTORE, DRILL])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "one of the following is required: container, project"),
        ({"project": "shop"}, "required together: project, service"),
        ({"service": "db"}, "required together: project, service"),
        ({"container": "db", "service": "db"}, "mutually exclusive: container|service"),
    ],
)
def test_a_target_that_is_not_named_completely_is_refused(
    call: Any, engine: list[Any], host: Path, module: str, target: dict[str, str], words: str
) -> None:
    place = {
        "dest" if module == DUMP else "backup_dir": str(host),
        **({"src": "latest"} if module == RESTORE else {}),
    }
    result = call(module, bare=True, **place, **target)
    assert result.status == 1
    assert words in result.msg
    assert engine == []


# -- what goes wrong in the engine


@pytest.mark.parametrize(
    ("module", "options", "check"),
    [
        *((DUMP, {}, check) for check in (False, True)),
        *((RESTORE, {"src": "latest"}, check) for check in (False, True)),
        *((RESTORE, {"state": "rolled_back"}, check) for check in (False, True)),
        # One that is made has a verdict instead.
        (DRILL, {}, True),
    ],
)
def test_a_docker_engine_that_does_not_answer_is_one_clean_sentence(
    call: Any, host: Path, module: str, options: dict[str, Any], check: bool
) -> None:
    result = call(module, _ansible_check_mode=check, **options)
    assert result.status == 1
    assert result.msg.startswith("No Docker engine answers at /nonexistent/docker.sock.")
    assert "\n" not in result.msg
    assert result.values["error"] == "host"
    assert "exception" not in result.values
    assert not host.exists()


def test_a_drill_without_a_docker_engine_fails_with_a_verdict(call: Any, host: Path) -> None:
    result = call(DRILL)
    assert result.status == 1
    assert result.values["verdict"] == "environment"
    assert result.values["reason"].startswith("No Docker engine answers at /nonexistent")
    assert "\n" not in result.msg
    assert not host.exists()


def test_an_error_of_the_engine_keeps_its_words_and_its_kind(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, DUMP, BusyError("Another run", state="Nothing was changed", todo="Wait"))
    result = call(DUMP)
    assert result.msg == "Another run. Nothing was changed. Wait."
    assert result.values["error"] == "busy"
    assert "findings" not in result.values


def test_a_refused_restore_lists_every_finding(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, RESTORE, RefusedError("Refused", ["no disk", "no extension"]))
    result = call(RESTORE, src="latest")
    assert result.msg == "Refused: (1) no disk; (2) no extension."
    assert result.values["error"] == "refused"
    assert result.values["findings"] == ["no disk", "no extension"]


def test_the_unexpected_is_one_line_that_says_where(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, DRILL, ZeroDivisionError("first line\nsecond line"))
    result = call(DRILL)
    assert result.status == 1
    assert re.fullmatch(
        r"internal error: ZeroDivisionError: first line \(test_modules\.py, line \d+\)\. Please report .*",
        result.msg,
    )
    assert result.values["error"] == "internal"
    assert "exception" not in result.values


# -- what a report becomes


def test_a_report_becomes_a_flat_result_with_its_warnings(
    call: Any, monkeypatch: pytest.MonkeyPatch, host: Path
) -> None:
    host.mkdir()
    report = Report(
        action="backup",
        changed=True,
        msg="made",
        set_name="app_1",
        phases={"dump": 1.5},
        warnings=["old tools"],
        details={"path": str(host), "rows": {"public.t": 3}},
    )
    answer(monkeypatch, DUMP, report)
    values = call(DUMP).values
    del values["invocation"]
    assert "old tools" in json.dumps(values.pop("warnings"))
    assert values == {
        "action": "backup",
        "changed": True,
        "msg": "made",
        "set_name": "app_1",
        "phases": {"dump": 1.5},
        # And nothing of what Ansible likes to add about a path.
        "path": str(host),
        "rows": {"public.t": 3},
    }


@pytest.mark.parametrize("diff", [False, True])
def test_the_diff_shows_rows_per_table_before_and_after(
    call: Any, monkeypatch: pytest.MonkeyPatch, diff: bool
) -> None:
    details = {"rows_before": {"b": 1, "a": None}, "rows_after": {"b": 2}}
    answer(monkeypatch, RESTORE, Report("restore", True, "done", database="app", details=details))
    values = call(RESTORE, src="latest", _ansible_diff=diff).values
    assert values["rows_before"] == {"b": 1, "a": None}
    assert values.get("diff") == (
        {
            "before_header": "rows of app before",
            "after_header": "rows of app after",
            "before": "a: unknown\nb: 1\n",
            "after": "b: 2\n",
        }
        if diff
        else None
    )


@pytest.mark.parametrize(
    ("verdict", "options", "failed", "warned"),
    [
        ("pass", {}, False, False),
        ("partial", {}, False, True),
        ("partial", {"fail_on": ["partial"]}, True, False),
        ("backup_bad", {}, True, False),
        ("environment", {}, True, False),
        ("not_tested", {}, True, False),
        ("not_tested", {"fail_on": []}, False, False),
    ],
)
def test_only_a_drill_that_passed_looks_green(
    call: Any,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
    options: dict[str, Any],
    failed: bool,
    warned: bool,
) -> None:
    report = Report("drill", False, f"{verdict}: reason", verdict=verdict, details={"checks": []})
    answer(monkeypatch, DRILL, report)
    result = call(DRILL, **options)
    assert bool(result.values.get("failed")) is failed
    assert ("warnings" in result.values) is warned
    assert result.values["verdict"] == verdict
    assert result.values["checks"] == []


# -- options become requests


def test_a_restore_request_has_every_option(call: Any, engine: list[Any], host: Path) -> None:
    options = {
        "src": "before:2026-02-19",
        "method": "replace",
        "stop_services": ["web", "worker"],
        "jobs": 3,
        "no_owner": True,
        "no_privileges": True,
        "post_sql": [{"container_file": "/a.sql"}, {"sql": "SELECT 1"}],
        "keep_previous": False,
        "safety_dump": True,
        "verify": False,
        "force": True,
        "restore_superusers": True,
        "fresh_cluster": True,
        "identity": "a key",
        "encrypt_with": "age",
        "recipients": ["age1a", "age1b"],
        "timeout": 60,
        "user": "admin",
        "login_password": SECRET,
    }
    call(RESTORE, _ansible_check_mode=True, **options)
    (request,) = engine
    assert request == _adapter.RestoreRequest(
        target=_adapter.Target("app", container="db", user="admin", login_password=SECRET),
        directory=host,
        source="before:2026-02-19",
        method="replace",
        stop_services=("web", "worker"),
        jobs=3,
        no_owner=True,
        no_privileges=True,
        post_sql=(
            _adapter.SqlScript(container_file="/a.sql"),
            _adapter.SqlScript(sql="SELECT 1"),
        ),
        keep_previous=False,
        safety_dump=True,
        verify=False,
        force=True,
        restore_superusers=True,
        fresh_cluster=True,
        identity="a key",
        encryption=_adapter.Encryption("age", ("age1a", "age1b")),
        timeout_s=60,
        check=True,
    )


def test_options_that_are_left_out_are_the_engines_own_defaults(
    call: Any, engine: list[Any], host: Path
) -> None:
    call(DUMP)
    call(RESTORE, src="latest")
    call(DRILL)
    target = _adapter.Target("app", container="db")
    assert engine == [
        _adapter.BackupRequest(target, host),
        _adapter.RestoreRequest(target, host),
        _adapter.DrillRequest(target, host),
    ]


@pytest.mark.parametrize("module", [RESTORE, DRILL, KEY_CHECK])
def test_a_set_at_a_target_is_looked_for_where_the_settings_of_the_host_say(
    call: Any, engine: list[Any], host: Path, tmp_path: Path, module: str
) -> None:
    known = {"host": "nas", "path": "/b", "identity_file": "/k", "known_hosts_file": "/h"}
    settings = {
        "backup_dir": str(host),
        "databases": {"shop": {"container": "db", "database": "app"}},
        "offsite": {"nas": {"type": "rsync", **known}},
    }
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(settings))
    call(module, src="offsite:latest", config=str(config))
    call(module, src="latest", config=str(tmp_path / "nowhere.yml"))
    far, near = engine
    assert far.source == "offsite:latest"
    assert (far.offsite.names, far.offsite.folder) == (["nas"], "shop")
    assert near.offsite.names == []
    result = call(module, src="offsite:latest", config=str(tmp_path / "nowhere.yml"))
    assert "There is no configuration file" in result.msg


def test_public_keys_without_a_program_are_refused(call: Any, engine: list[Any]) -> None:
    result = call(DUMP, recipients=["age1a"])
    assert "Set encrypt_with to age or gpg" in result.msg
    assert engine == []


def test_a_file_of_public_keys_that_is_gone_is_a_failed_backup_for_the_retention(
    call: Any, tmp_path: Path
) -> None:
    lay_out(tmp_path)
    options = {"encrypt_with": "age", "recipients_files": [str(tmp_path / "gone")]}
    for check in (True, False):
        assert Attempts(tmp_path, "shop").latest("dump") is None
        failed = call(
            DUMP, database="shop", dest=str(tmp_path), _ansible_check_mode=check, **options
        )
        assert "gone" in failed.msg
    found = Attempts(tmp_path, "shop").latest("dump")
    assert found
    assert found.failed


def test_a_file_of_public_keys_that_is_gone_is_in_the_way_of_no_restore_without_a_safety_dump(
    call: Any, engine: list[Any], tmp_path: Path
) -> None:
    options = {"encrypt_with": "age", "recipients_files": [str(tmp_path / "gone")]}
    call(RESTORE, src="latest", **options)
    (request,) = engine
    assert request.encryption is None
    assert "gone" in call(RESTORE, src="latest", method="replace", **options).msg
    assert engine == [request]


def test_a_drill_request_has_every_check(call: Any, engine: list[Any], host: Path) -> None:
    call(
        DRILL,
        bare=True,
        project="shop",
        service="db",
        backup_dir=str(host),
        target="live",
        src="20260219_020000",
        assertions=[{"sql": "SELECT true", "name": "true"}],
        freshness={"max_age_s": "3600", "sql": "SELECT now()"},
        http_checks=[
            {
                "service": "web",
                "port": "3000",
                "path": "/login",
                "method": "POST",
                "headers": {"X-Retry": 3},
                "body": {"password": SECRET},
                "expect": "user.role",
                "equals": "owner",
            },
            {"url": "http://127.0.0.1:8080/health", "expect_status": 204},
        ],
        record_file=str(host / "LOG.md"),
        log_file=str(host / "drills.jsonl"),
    )
    (request,) = engine
    assert request == _adapter.DrillRequest(
        target=_adapter.Target("app", project="shop", service="db"),
        directory=host,
        source="20260219_020000",
        live=True,
        assertions=(_adapter.Assertion("SELECT true", "true"),),
        freshness=_adapter.Freshness(3600.0, "SELECT now()"),
        http_checks=(
            _adapter.HttpCheck(
                service="web",
                port=3000,
                path="/login",
                method="POST",
                headers={"X-Retry": "3"},
                body={"password": SECRET},
                expect="user.role",
                equals="owner",
            ),
            _adapter.HttpCheck(url="http://127.0.0.1:8080/health", expect_status=204),
        ),
        record_file=host / "LOG.md",
        log_file=host / "drills.jsonl",
    )


# -- secrets


def test_secrets_are_in_no_result_and_no_log(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    monkeypatch.setattr(
        _adapter.AnsibleModule,
        "log",
        lambda unused_self, *values, **more: logged.append((values, more)),
    )
    # One for each place, so that none is hidden only because it is known from another.
    password, header, body, script, key = (f"{SECRET}{n}" for n in range(5))
    check = {
        "service": "web",
        "port": 80,
        "headers": {"Authorization": header},
        "body": {"password": [body]},
    }
    answer(
        monkeypatch, DRILL, Report("drill", False, f"{password} {header} {body}", verdict="pass")
    )
    answer(monkeypatch, RESTORE, Report("restore", True, f"played {script}, opened by {key}"))
    shown = call(DRILL, login_password=password, http_checks=[check], _ansible_verbosity=3).text
    secrets = {"post_sql": [{"sql": script}], "identity": key}
    shown += call(RESTORE, src="latest", **secrets, _ansible_verbosity=3).text
    assert len(logged) == 2
    # However it is escaped, its readable middle is not there.
    assert "cret`" not in shown + repr(logged)


# -- the roles offer what the modules can do


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


@pytest.mark.parametrize("role", ROLES)
def test_a_role_documents_each_variable_with_its_real_default(role: str) -> None:
    place = ROOT / "roles" / role
    specs = _yaml(place / "meta" / "argument_specs.yml")["argument_specs"]
    defaults = _yaml(place / "defaults" / "main.yml")
    promised = {
        n: o["default"] for n, o in specs["main"]["options"].items() if not o.get("required")
    }
    assert promised == defaults
    readme = (place / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE) == list(specs["main"]["options"])


@pytest.mark.parametrize("role", ROLES)
def test_a_role_uses_each_variable_that_it_documents(role: str) -> None:
    place = ROOT / "roles" / role
    specs = _yaml(place / "meta" / "argument_specs.yml")["argument_specs"]
    files = {path.stem: path for path in (place / "tasks").iterdir()}
    # It is a part of `main` that can be run by itself.
    assert specs.pop("check", specs["main"]) == specs["main"]
    for entry, spec in specs.items():
        others = set(files) - set(specs) if entry == "main" else set()
        used = [files[name] for name in (entry, *others)]
        if entry == "main":
            used += [*(place / "templates").glob("*"), *(place / "vars").glob("*")]
        text = "".join(path.read_text(encoding="utf-8") for path in used)
        found = set(re.findall(r"\bfiredrill_\w+", text))
        # What it gives on to the roles that it calls is theirs.
        given = set(re.findall(r"^(?: {8}| {12})(firedrill_\w+):", text, re.MULTILINE))
        assert found - (given - set(spec["options"])) == set(spec["options"])


@pytest.mark.parametrize("role", ROLES)
def test_a_task_that_gets_a_private_key_writes_it_to_no_file_of_the_host(role: str) -> None:
    for path in (ROOT / "roles" / role / "tasks").iterdir():
        for task in _yaml(path):
            modules = [value for value in task.values() if isinstance(value, dict)]
            if any("identity" in options for options in modules):
                # That of the connection outranks the general one, whoever has set it.
                for name in ("ansible_pipelining", "ansible_ssh_pipelining"):
                    assert task["vars"][name] is True, task["name"]


@pytest.mark.parametrize(
    ("role", "module", "apart"),
    [
        ("backup", DUMP, set()),
        ("restore", RESTORE, {"state", "config"}),
        ("drill", DRILL, {"config"}),
    ],
)
def test_a_role_gives_its_module_every_option(role: str, module: str, apart: set[str]) -> None:
    options = {*_adapter.TARGET, *importlib.import_module(f"{MODULES}.{module}").ARGUMENTS} - apart
    tasks = _yaml(ROOT / "roles" / role / "tasks" / "main.yml")
    given = [
        task[f"firedrill.postgres.{module}"]
        for task in tasks
        if f"firedrill.postgres.{module}" in task
    ]
    assert given
    assert all(set(one) == options for one in given)
