# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checks of a drill: SQL that must be true, how old the data is, and what the application answers."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import partial
from typing import Any, Callable

from .answers import compiled, judge, printable, problem_of, request_of, shown
from .containers import Containers
from .errors import ConfigError, FiredrillError, TargetError
from .model import (
    Assertion,
    CheckResult,
    Freshness,
    HttpCheck,
    human_seconds,
    iso,
    parse_time,
    utc_now,
)
from .probe import Answer, Request, ask
from .questions import ask as ask_sql
from .server import Server

_NAME_CHARACTERS = 200
#: Two clocks of one network differ by less.
_CLOCK_SKEW_S = 60
_POLL_PAUSE_S = 0.5
#: A request with less time than this is not worth making.
_SHORTEST_REQUEST_S = 0.5
_REPEATABLE = ("GET", "HEAD", "OPTIONS")


def skipped(kind: str, names: Iterable[str], reason: str) -> list[CheckResult]:
    """Results for checks that are not run, so that nobody takes their absence for a success."""
    return [CheckResult(kind, _bare(name), "skipped", reason) for name in names]


# -- SQL ---------------------------------------------------------------------------------------------


def run_assertions(
    server: Server, database: str, assertions: Iterable[Assertion], *, isolated: bool = False
) -> list[CheckResult]:
    """Asks each assertion in a session and a read-only transaction of its own.

    :param isolated: the server is a throwaway without a network; see questions.ask().
    :returns: one result for each: `ok` when its only value is true, `failed` when it is anything else,
        `error` when it could not be asked. Nothing is raised for one of them.
    """
    results = []
    for assertion in assertions:
        began = time.monotonic()
        try:
            with server.session(database) as session:
                status, reason = _judge_rows(ask_sql(session, assertion.sql, isolated=isolated))
        except FiredrillError as error:
            status, reason = "error", error.what
        name = printable(assertion.label, _NAME_CHARACTERS)
        results.append(CheckResult("assertion", name, status, reason, _since(began)))
    return results


def _judge_rows(rows: Sequence[tuple[Any, ...]]) -> tuple[str, str]:
    if not rows:
        return "failed", "it returned no row, not true"
    if len(rows) > 1 or len(rows[0]) != 1:
        return "error", "it returned more than one value; an assertion has one, which must be true"
    value = rows[0][0]
    if value is True:
        return "ok", ""
    return "failed", f"it returned {'NULL' if value is None else shown(value)}, not true"


def check_freshness(
    freshness: Freshness,
    created: datetime,
    server: Server | None,
    database: str,
    *,
    isolated: bool = False,
) -> CheckResult:
    """Whether the data is young enough now: the set, or with `sql` the moment that it returns.

    :param created: when the set's snapshot was taken.
    :param server: for the SQL, which returns one timestamp, date, ISO 8601 text or seconds since 1970 (UTC
        where there is no zone); with None it is skipped.
    :returns: a result whose reason gives the age in words, also when it is `ok`.
    """
    began = time.monotonic()
    name, subject = "age of the set", "the set is"
    rows: Sequence[tuple[Any, ...]] = ()
    try:
        if freshness.sql:
            name, subject = "age of the data", "the newest data is"
            if server is None:
                return CheckResult(
                    "freshness", name, "skipped", "there is no server to ask the SQL"
                )
            with server.session(database) as session:
                rows = ask_sql(session, freshness.sql, isolated=isolated)
            if not rows or rows[0][0] is None:
                reason = "it returned no moment: is the table empty?"
                return CheckResult("freshness", name, "failed", reason, _since(began))
            created = _moment(rows)
        status, reason = _judge_age(subject, created, freshness.max_age_s)
    except FiredrillError as error:
        status, reason = "error", error.what
    except (ValueError, ArithmeticError, OSError):
        status, reason = "error", f"it returned {shown(rows[0])}, which is no moment"
    return CheckResult("freshness", name, status, reason, _since(began))


def _judge_age(subject: str, moment: datetime, limit_s: float) -> tuple[str, str]:
    age_s = (utc_now() - moment).total_seconds()
    if age_s < -_CLOCK_SKEW_S:
        return "error", f"{subject} of {iso(moment)}, which lies in the future: is a clock wrong?"
    age, limit = human_seconds(max(age_s, 0.0)), human_seconds(limit_s)
    if age_s <= limit_s:
        return "ok", f"{subject} {age} old"
    return "failed", f"{subject} {age} old ({iso(moment)}), at most {limit} were allowed"


def _moment(rows: Sequence[tuple[Any, ...]]) -> datetime:
    """:raises ValueError: (or ArithmeticError, or OSError) there is not one value, or it is no moment."""
    if len(rows) > 1 or len(rows[0]) != 1:
        raise ValueError
    value = rows[0][0]
    if isinstance(value, datetime):
        # Our sessions' TimeZone is UTC.
        return value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return datetime.fromtimestamp(float(value), timezone.utc)
    return parse_time(str(value))


# -- HTTP --------------------------------------------------------------------------------------------


def validate(checks: Iterable[HttpCheck]) -> None:
    """Finds what is wrong with HTTP checks before anything runs.

    :raises ConfigError: one makes no sense; body and headers are not in the message.
    :raises HostError: `expect` is used and the jmespath library is missing.
    """
    for check in checks:
        problem = problem_of(check)
        if problem:
            raise ConfigError(
                f'HTTP check "{_name(check)}": {problem}',
                state="Nothing was changed",
                todo="Correct it",
            )
        if check.expect:
            try:
                compiled(check.expect)
            except ConfigError as error:
                error.what = f'HTTP check "{_name(check)}": {error.what}'
                raise


def run_http_checks(
    containers: Containers, project: str, checks: Sequence[HttpCheck]
) -> list[CheckResult]:
    """Makes each request, and again while the application is starting, for `timeout_s` seconds at most.

    :param project: the Compose project of the checks' services; without one they are containers' names.
    :returns: one result for each: `ok`, `failed`, or `error` when it could not be asked.
    :raises ConfigError: as validate() does.
    """
    validate(checks)
    results = []
    for check in checks:
        began = time.monotonic()
        try:
            status, reason = _run(containers, project, check)
        except FiredrillError as error:
            status, reason = "error", error.what
        results.append(CheckResult("http", _name(check), status, reason, _since(began)))
    return results


def _run(containers: Containers, project: str, check: HttpCheck) -> tuple[str, str]:
    request = request_of(check)
    deadline = time.monotonic() + check.timeout_s
    if check.url:
        return _settled(check, deadline, partial(ask, request))
    idents = [
        ident for ident, runs in containers.services(project, [check.service]).items() if runs
    ]
    if not idents:
        raise TargetError(f'No container of service "{check.service}" is running')
    for ident in idents:
        attempt = partial(_ask_inside, containers, ident, request)
        status, reason = _settled(check, deadline, attempt)
        if status != "ok":
            where = containers.name_of(ident)
            return status, reason if where in reason else f"{reason} (in container {where})"
    return "ok", ""


def _settled(
    check: HttpCheck, deadline: float, attempt: Callable[[float], Answer]
) -> tuple[str, str]:
    """The first answer that is not the one of an application that is starting, or else the last, judged."""
    began = time.monotonic()
    asked = False
    while True:
        answer = trouble = None
        try:
            answer = attempt(max(deadline - time.monotonic(), _SHORTEST_REQUEST_S))
        except TargetError as error:
            # It ran when we began, so it may be in the middle of a restart.
            if not asked:
                raise
            trouble = error
        asked = True
        starting = answer is None or _starting(check, answer)
        if not starting or time.monotonic() + _POLL_PAUSE_S > deadline:
            break
        time.sleep(_POLL_PAUSE_S)
    if answer is None:
        raise trouble or TargetError("It was not asked")
    status, reason = judge(check, answer)
    if status == "failed" and (starting or answer.kind == "timeout"):
        reason += f", for {human_seconds(_since(began))}"
    return status, reason


def _starting(check: HttpCheck, answer: Answer) -> bool:
    if answer.kind == "refused":
        return True
    # Docker's own proxy of a published port takes the connection before the application listens. Who may
    # have read a request that changes something is not sent it again.
    if check.method.upper() in _REPEATABLE and (answer.kind == "broken" or answer.status == 502):
        return answer.status != check.expect_status
    return answer.status == 503 and check.expect_status != 503


def _ask_inside(containers: Containers, ident: str, request: Request, timeout_s: float) -> Answer:
    """Asks in the network namespace of a container, as it runs now.

    :raises TargetError: it does not run, or was restarted meanwhile.
    """
    container = containers.find(name=ident)
    try:
        namespace = os.open(f"/proc/{container.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError(
            f"The network of container {container.name} cannot be looked up: {error.strerror}"
        ) from error
    try:
        # The number may have become another process's; the descriptor now says whose it was.
        if not containers.unchanged(container):
            raise TargetError(f"Container {container.name} was stopped or restarted just now")
        addresses = tuple(filter(None, ("127.0.0.1", "::1", container.address)))
        return ask(replace(request, addresses=addresses), timeout_s, namespace)
    finally:
        os.close(namespace)


def _name(check: HttpCheck) -> str:
    return printable(check.name or _bare(check.label), _NAME_CHARACTERS)


def _bare(label: str) -> str:
    """A label without what a URL may hide: a password before the host, a token in the query."""
    return re.sub(r"//[^/\s]*@", "//", re.sub(r"(?<=/)(\S*?)\?\S*$", r"\1", label))


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
