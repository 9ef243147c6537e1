# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An HTTP check: the request that it makes, and the answer held against what it expects.

What was sent never appears in what is said of the answer.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import math
import re
import string
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from .errors import ConfigError, HostError
from .model import HttpCheck
from .probe import Answer, Request

try:
    import jmespath
    from jmespath.exceptions import ArityError, JMESPathError, UnknownFunctionError

    HAS_JMESPATH = True
except ImportError:
    HAS_JMESPATH = False

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_MASK = "********"
_SHOWN_CHARACTERS = 120
#: Below this length a secret is masked as a word of its own only, else half of the text would go.
_SHORT_CHARACTERS = 4
_PUBLIC_HEADERS = frozenset(
    ("accept", "accept-language", "content-type", "host", "origin", "user-agent")
)


def problem_of(check: HttpCheck) -> str:
    """Why a check makes no sense, without its body and headers; "" when it does."""
    if bool(check.url) == bool(check.service):
        return "set either `url`, or `service` and `port`"
    if check.service and not 0 < check.port < 65536:
        return f"{check.port} is no port"
    if check.service and not check.path.startswith("/"):
        return "its `path` has to begin with /"
    if check.url:
        try:
            url = urlsplit(check.url)
            good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            good = False
        if not good:
            return "its `url` has to be like http://host:port/path"
        if url.username is not None:
            return "its `url` has a user or password in it; send them as a header (Authorization)"
    if not _TOKEN.fullmatch(check.method):
        return "its `method` is no HTTP method"
    for header, value in check.headers.items():
        text = str(value)
        if not _TOKEN.fullmatch(str(header)) or any(c in text for c in "\r\n\0"):
            return "one of its `headers` has a character that HTTP does not allow"
        if any(ord(c) > 255 for c in text):
            return "one of its `headers` has a character beyond Latin-1"
    if not 100 <= check.expect_status <= 599:
        return f"{check.expect_status} is no HTTP status"
    if check.equals is not None and not check.expect:
        return "`equals` says nothing without `expect`"
    if not (math.isfinite(check.timeout_s) and check.timeout_s > 0):
        return "its `timeout_s` has to be more than 0"
    try:
        _encoded(check.body)
    except (TypeError, ValueError, RecursionError):
        return "its `body` cannot be written as JSON"
    return ""


def request_of(check: HttpCheck) -> Request:
    """What goes over the wire; for a service the addresses are still missing."""
    headers = {"User-Agent": "firedrill", "Accept": "application/json, */*", "Connection": "close"}
    body, kind = _encoded(check.body)
    if kind:
        headers["Content-Type"] = kind
    given = {name.lower() for name in check.headers}
    headers = {name: value for name, value in headers.items() if name.lower() not in given}
    headers.update({name: str(value) for name, value in check.headers.items()})
    if not check.url:
        plain = Request((), check.port, path=_ascii(check.path))
        return replace(plain, method=check.method.upper(), headers=headers, body=body)
    url = urlsplit(check.url)
    host = url.hostname or ""
    tls = url.scheme == "https"
    path = _ascii((url.path or "/") + (f"?{url.query}" if url.query else ""))
    return Request(
        (host,),
        url.port or (443 if tls else 80),
        host,
        tls,
        check.method.upper(),
        path,
        headers,
        body,
    )


def _encoded(body: Any) -> tuple[bytes | None, str]:
    """A body as bytes, with its Content-Type where it is JSON."""
    if body is None:
        return None, ""
    if not isinstance(body, str):
        return json.dumps(body, allow_nan=False).encode(), "application/json"
    try:
        is_json = isinstance(json.loads(body), (dict, list))
    except ValueError:
        is_json = False
    return body.encode(), "application/json" if is_json else ""


def _ascii(path: str) -> str:
    """A path as it may stand in a request; what is percent-encoded already stays."""
    return quote(path, safe=string.punctuation)


def compiled(expression: str) -> Any:
    """A JMESPath expression, ready for `search`.

    :raises ConfigError: it is none.
    :raises HostError: the library is missing.
    """
    if not HAS_JMESPATH:
        raise HostError(
            "Python's jmespath library is missing on this host, and a check uses `expect`",
            state="Nothing was changed",
            todo="Install the package python3-jmespath (or `pip install jmespath`)",
        )
    try:
        expected = jmespath.compile(expression)
        try:
            # A function that does not exist is noticed when it is called.
            expected.search({})
        except (ArityError, UnknownFunctionError):
            raise
        except JMESPathError:
            pass
        return expected
    except JMESPathError as error:
        words = " ".join(str(error).split())
        raise ConfigError(
            f"{json.dumps(expression)} is no JMESPath expression: {words}",
            state="Nothing was changed",
            todo="See https://jmespath.org; a literal string stands in '...', another literal in `...`",
        ) from error


def judge(check: HttpCheck, answer: Answer) -> tuple[str, str]:
    """Status and reason of a CheckResult for an answer."""
    if answer.kind == "unasked":
        return "error", answer.problem
    if answer.problem:
        return "failed", answer.problem
    if answer.status != check.expect_status:
        return "failed", f"{_status(answer.status)} came back, {check.expect_status} was expected"
    if not check.expect:
        return "ok", ""
    if answer.too_long:
        return "failed", "the answer is too long to be read as JSON (over 1 MiB)"
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        kind = printable(answer.content_type) or "no Content-Type"
        return "failed", f"the answer is not JSON ({kind}, {len(answer.body)} characters)"
    try:
        return _judge_document(check, document)
    except RecursionError:
        return "failed", "the answer is nested too deeply"


def _judge_document(check: HttpCheck, document: Any) -> tuple[str, str]:
    hidden = secrets_of(check)
    expression = printable(check.expect)
    try:
        found = compiled(check.expect).search(document)
    except (ArityError, UnknownFunctionError) as error:
        return "error", f"{expression} is no JMESPath expression: {shown(str(error), hidden)}"
    except JMESPathError as error:
        return (
            "failed",
            f"{expression} cannot be applied to the answer: {shown(str(error), hidden)}",
        )
    if check.equals is None:
        if found is True:
            return "ok", ""
        return "failed", f"{expression} is {shown(found, hidden)}, not true" + _hint(found)
    if same(found, check.equals):
        return "ok", ""
    return "failed", f"{expression} is {shown(found, hidden)}, not {shown(check.equals, hidden)}"


def _hint(found: Any) -> str:
    return (
        ""
        if found is None or isinstance(found, bool)
        else "; without `equals` it has to be a comparison"
    )


def _status(status: int) -> str:
    """`401 Unauthorized`, in the words of the standard and not of the server."""
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    return (
        f"{phrase} (redirects are not followed)"
        if 300 <= status < 400 and status != 304
        else phrase
    )


def same(found: Any, wanted: Any) -> bool:
    """Whether two values are equal as JSON, where a template may have made text of a number or a boolean.

    1 is no true, "1.0" is no 1, and upper case matters but for "True" and "False".
    """
    if isinstance(found, bool) or isinstance(wanted, bool):
        if isinstance(found, str) or isinstance(wanted, str):
            return str(found).lower() == str(wanted).lower()
        return found is wanted
    if isinstance(found, (int, float)) and isinstance(wanted, (int, float)):
        return found == wanted
    if isinstance(found, str) and isinstance(wanted, str):
        return found == wanted
    if isinstance(found, (int, float, str)) and isinstance(wanted, (int, float, str)):
        return str(found) == str(wanted)
    if isinstance(found, list) and isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(same(*pair) for pair in zip(found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        by_name = {str(key): value for key, value in wanted.items()}
        return found.keys() == by_name.keys() and all(
            same(value, by_name[key]) for key, value in found.items()
        )
    return found is None and wanted is None


def shown(value: Any, hidden: tuple[str, ...] = ()) -> str:
    """A value as JSON for people: without what is hidden, on one line, shortened."""
    text = json.dumps(_masked(value, hidden), ensure_ascii=False, default=str)
    return printable(text)


def printable(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """Text on one line, without what moves a terminal's cursor, and not longer than `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _masked(value: Any, hidden: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        for secret in hidden:
            pattern = re.escape(secret)
            if len(secret) < _SHORT_CHARACTERS:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            value = re.sub(pattern, _MASK, value, flags=re.IGNORECASE)
        return value
    if isinstance(value, dict):
        return {_masked(str(key), hidden): _masked(entry, hidden) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(entry, hidden) for entry in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and str(value) in hidden:
        return _MASK
    return value


def secrets_of(check: HttpCheck) -> tuple[str, ...]:
    """Every text of a request that its answer might echo and nobody may see, the longest first."""
    plain = set(_leaves(check.body))
    for name, value in check.headers.items():
        if name.lower() not in _PUBLIC_HEADERS:
            plain.update(_of_header(str(value)))
    plain.update(value for unused_name, value in parse_qsl(urlsplit(check.url or check.path).query))
    forms = {form for secret in plain - {""} for form in _forms(secret)}
    return tuple(sorted(forms, key=lambda text: (-len(text), text)))


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is, and as JSON, HTML, a URL or base64 write it."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield html.escape(secret)
    yield quote(secret, safe="", errors="replace")
    yield base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode()


def _leaves(body: Any) -> Iterator[str]:
    if isinstance(body, dict):
        for value in body.values():
            yield from _leaves(value)
    elif isinstance(body, (list, tuple)):
        for value in body:
            yield from _leaves(value)
    elif isinstance(body, str):
        yield body
        yield from (value for unused_name, value in parse_qsl(body))
        try:
            inner = json.loads(body)
        except (ValueError, RecursionError):
            return
        if isinstance(inner, (dict, list)):
            yield from _leaves(inner)
    elif body is not None and not isinstance(body, bool):
        yield str(body)


def _of_header(value: str) -> Iterator[str]:
    """A header's value, its words (`Bearer <token>`, `session=<token>`), and what Basic hides in base64."""
    yield value
    words = re.split(r"[\s;,]+", value)
    for word in words:
        yield word
        yield word.partition("=")[2]
    if words[0].lower() == "basic" and len(words) > 1:
        try:
            user_and_password = base64.b64decode(words[1], validate=True).decode()
        except (binascii.Error, ValueError):
            return
        yield user_and_password
        yield from user_and_password.split(":", 1)
