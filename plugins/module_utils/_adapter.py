# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Between AnsibleModule and the engine; the only file that knows both."""

from __future__ import annotations

import re
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from ._engine.attempts import failures_noted
from ._engine.config import load_config
from ._engine.drill import DrillRequest, drill
from ._engine.dump import BackupRequest, backup
from ._engine.errors import ConfigError, FiredrillError, RefusedError
from ._engine.fetch import FAR
from ._engine.keyproofs import check_key
from ._engine.model import Assertion, Encryption, Freshness, HttpCheck, Report, SqlScript, Target
from ._engine.recipients import encryption_of
from ._engine.restoration import RestoreRequest
from ._engine.restore import restore
from ._engine.rollback import roll_back
from ._engine.targets import Offsite
from ._engine.verify import VerifyRequest

Params = dict[str, Any]

#: Options of every module, documented by the fragment `target`.
TARGET = {
    "container": {"type": "str"},
    "project": {"type": "str"},
    "service": {"type": "str"},
    "database": {"type": "str", "required": True},
    "user": {"type": "str"},
    "login_password": {"type": "str", "no_log": True},
    "login_host": {"type": "str"},
    "login_port": {"type": "int", "default": 5432},
    "timeout": {"type": "int", "default": 0},
}
#: Options of the modules that make sets, documented by the fragment `encryption`.
ENCRYPTION = {
    "encrypt_with": {"type": "str", "choices": ["age", "gpg"]},
    "recipients": {"type": "list", "elements": "str", "default": []},
    "recipients_files": {"type": "list", "elements": "path", "default": []},
}
#: Options of the modules that open sets, documented by the fragment `sets`.
IDENTITY = {
    "identity": {"type": "str", "no_log": True},
    "identity_file": {"type": "path"},
}
#: Verdicts that fail a task which does not say which ones do.
_FAILED = ("backup_bad", "environment", "not_tested")
_TARGET_RULES: dict[str, list[tuple[str, ...]]] = {
    "mutually_exclusive": [("container", "project"), ("container", "service")],
    "required_one_of": [("container", "project")],
    "required_together": [("project", "service")],
}


class _Module(AnsibleModule):
    def _log_invocation(self) -> None:
        # Ansible logs a list of suboptions as Python text, where it does not recognise a secret that had to be
        # escaped (a quote, a backslash) and leaves it readable in the journal.
        plain = {
            name: str(value)
            for name, value in self.params.items()
            if isinstance(value, (str, int)) and not self.argument_spec.get(name, {}).get("no_log")
        }
        self.log("Invoked with " + " ".join(f"{n}={v}" for n, v in plain.items()), log_args=plain)

    def add_path_info(self, kwargs: Params) -> Params:
        # `path` is the dump file of a report; Ansible would add its owner, mode, `state` and more to the result.
        return kwargs


def run_module(act: Callable[[Params, bool], Report], arguments: Params, **rules: Any) -> None:
    """Runs one module: its options to `act`, what that reports or raises to Ansible.

    :param act: one of the functions below.
    :param arguments: options of this module beside those of the target.
    :param rules: dependencies between its options, as AnsibleModule takes them.
    """
    module = _Module(
        argument_spec={**TARGET, **arguments}, supports_check_mode=True, **_TARGET_RULES, **rules
    )
    report, failure = None, {}
    try:
        report = act(module.params, module.check_mode)
    except FiredrillError as error:
        failure = failure_of(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, a traceback helps no operator
        failure = {"msg": _internal(error), "error": "internal"}
    # Not inside `except`: there Ansible would add the traceback to the result.
    if report is None:
        module.fail_json(**failure)
    else:
        _finish(module, report)


def _finish(module: AnsibleModule, report: Report) -> None:
    for text in report.warnings:
        module.warn(text)
    result = result_of(report, diff=module._diff)
    if report.verdict in module.params.get("fail_on", _FAILED):
        module.fail_json(**result)
    if report.verdict == "partial":
        module.warn(report.msg)
    module.exit_json(**result)


def result_of(report: Report, *, diff: bool) -> Params:
    """What a module returns of a report; with `diff` the rows per table before and after a restore."""
    result = {name: value for name, value in report.as_dict().items() if value != ""}
    del result["warnings"]
    before, after = result.get("rows_before"), result.get("rows_after")
    if diff and before is not None and after is not None:
        result["diff"] = {
            "before_header": f"rows of {report.database} before",
            "after_header": f"rows of {report.database} after",
            "before": _rows_text(before),
            "after": _rows_text(after),
        }
    return result


def _rows_text(rows: dict[str, int | None]) -> str:
    return "".join(
        f"{table}: {'unknown' if count is None else count}\n"
        for table, count in sorted(rows.items())
    )


def failure_of(error: FiredrillError) -> Params:
    """What a module returns of an error of the engine."""
    failure: Params = {"msg": str(error), "error": _word(error)}
    if isinstance(error, RefusedError):
        failure["findings"] = list(error.findings)
    return failure


def _word(error: FiredrillError) -> str:
    """`InterruptedRun` as `interrupted`, `SetError` and what is one as `set`."""
    kinds = [kind for kind in type(error).__mro__ if issubclass(kind, FiredrillError)]
    # The last is FiredrillError itself.
    return re.sub(r"(Error|Run)$", "", kinds[max(0, len(kinds) - 2)].__name__).lower()


def _internal(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"internal error: {type(error).__name__}{': ' + lines[0] if lines else ''} "
        f"({Path(place.filename).name}, line {place.lineno}). Please report it with this message."
    )


# -- options to requests


def run_backup(params: Params, check: bool) -> Report:
    """pg_dump_container."""
    directory = Path(params["dest"])
    # A file of public keys that cannot be read fails a backup as well.
    with failures_noted(directory, params["database"], check=check):
        request = BackupRequest(
            target=_target(params),
            directory=directory,
            compress=params["compress"],
            evidence=params["evidence"],
            globals=params["globals"],
            exclude_table_data=tuple(params["exclude_table_data"]),
            min_free_bytes=params["min_free_bytes"],
            timeout_s=params["timeout"],
            check=check,
            encryption=_encryption(params),
        )
    return backup(request)


def run_restore(params: Params, check: bool) -> Report:
    """pg_restore_container."""
    request = RestoreRequest(
        target=_target(params),
        directory=Path(params["backup_dir"]),
        source=params["src"] or "",
        method=params["method"],
        stop_services=tuple(params["stop_services"]),
        jobs=params["jobs"],
        no_owner=params["no_owner"],
        no_privileges=params["no_privileges"],
        post_sql=tuple(SqlScript(**_given(script)) for script in params["post_sql"]),
        keep_previous=params["keep_previous"],
        safety_dump=params["safety_dump"],
        verify=params["verify"],
        force=params["force"],
        restore_superusers=params["restore_superusers"],
        fresh_cluster=params["fresh_cluster"],
        timeout_s=params["timeout"],
        check=check,
        offsite=_offsite(params),
        **_identity(params),
    )
    if request.wants_safety_dump:
        # Public keys that are gone must not be in the way of a restore that needs none.
        request = replace(request, encryption=_encryption(params))
    return restore(request) if params["state"] == "restored" else roll_back(request)


def run_drill(params: Params, check: bool) -> Report:
    """restore_drill."""
    freshness, record, log = params["freshness"], params["record_file"], params["log_file"]
    return drill(
        DrillRequest(
            target=_target(params),
            directory=Path(params["backup_dir"]),
            source=params["src"],
            live=params["target"] == "live",
            assertions=tuple(Assertion(**_given(one)) for one in params["assertions"]),
            freshness=Freshness(**_given(freshness)) if freshness else None,
            http_checks=tuple(_http_check(one) for one in params["http_checks"]),
            record_file=Path(record) if record else None,
            log_file=Path(log) if log else None,
            jobs=params["jobs"],
            timeout_s=params["timeout"],
            check=check,
            offsite=_offsite(params),
            **_identity(params),
        )
    )


def run_key_check(params: Params, check: bool) -> Report:
    """key_check."""
    return check_key(
        VerifyRequest(
            target=_target(params),
            directory=Path(params["backup_dir"]),
            source=params["src"],
            timeout_s=params["timeout"],
            offsite=_offsite(params),
            **_identity(params),
        ),
        note=not check,
    )


def _identity(params: Params) -> Params:
    path = params["identity_file"]
    return {
        "identity": params["identity"] or "",
        "identity_file": Path(path) if path else None,
    }


def _encryption(params: Params) -> Encryption | None:
    method, keys, files = (params[name] for name in ENCRYPTION)
    if method:
        return encryption_of(method, keys, [Path(path) for path in files])
    if keys or files:
        raise ConfigError(
            "Public keys are named, but not what encrypts to them",
            state="Nothing was changed",
            todo="Set encrypt_with to age or gpg",
        )
    return None


def _given(options: Params) -> Params:
    """The options that were set; the engine knows the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def _target(params: Params) -> Target:
    names = set(TARGET) - {"timeout"}
    return Target(**_given({name: params[name] for name in names}))


def _offsite(params: Params) -> Offsite:
    """The offsite targets, if the set is to come from one."""
    if not (params["src"] or "").startswith(FAR):
        return Offsite()
    config = load_config(Path(params["config"]))
    return config.offsite_of(Path(params["backup_dir"]), params["database"])


def _http_check(options: Params) -> HttpCheck:
    given = _given(options)
    given["headers"] = {name: str(value) for name, value in given.get("headers", {}).items()}
    return HttpCheck(**given)
