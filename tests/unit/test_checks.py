# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checks of a drill, as far as they need no container: HTTP goes to a real server on the loopback."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import quote

import pytest
from ports import free_port

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    answers,
    checks,
    probe,
    questions,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.containers import (
    Containers,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import ConfigError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    CheckResult,
    Freshness,
    HttpCheck,
    utc_now,
)

NO_CONTAINERS = cast(Containers, None)  # A check of a `url` asks for none.
PASSWORD = "k0rrekt \"Pferd\" 'Batterie' ß$(reboot)"


@dataclass
class Seen:
    """What reached the server, and how it answers: `(status, headers, body)` for one request after the other."""

    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    act: Callable[[BaseHTTPRequestHandler], object] | None = None
    url: str = ""
    port: int = 0

    def json(self, document: object, status: int = 200) -> None:
        """From now on, this document is the answer."""
        self.answers.append(
            (status, {"Content-Type": "application/json"}, json.dumps(document).encode())
        )


@pytest.fixture
def app() -> Iterator[Seen]:
    """A web server that answers as the test says; the last answer is repeated."""
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.requests.append((self.command, self.path, dict(self.headers.items()), body))
            if seen.act:
                seen.act(self)
                return
            status, headers, content = (
                seen.answers[0] if len(seen.answers) == 1 else seen.answers.pop(0)
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_HEAD = do_PUT = answer

        def log_message(self, *unused: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen.port = server.server_address[1]
    seen.url = f"http://127.0.0.1:{seen.port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield seen
    server.shutdown()
    thread.join()
    server.server_close()


def run(check: HttpCheck) -> CheckResult:
    return checks.run_http_checks(NO_CONTAINERS, "", [check])[0]


def children() -> str:
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:
        return file.read()


# -- what an answer has to be ---------------------------------------------------------------------


def test_a_health_endpoint_that_answers_as_promised_is_ok(app: Seen) -> None:
    app.json({"status": "ok", "checks": {"db": "ok"}})
    result = run(
        HttpCheck("Health check", url=f"{app.url}/api/health", expect="checks.db", equals="ok")
    )
    assert (result.kind, result.name, result.status, result.reason) == (
        "http",
        "Health check",
        "ok",
        "",
    )
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ("owner", "owner"),
        (200, 200),
        (200, "200"),
        ("200", 200),
        (1.5, "1.5"),
        (2, 2.0),
        (True, True),
        (True, "true"),
        (True, "True"),
        (False, "False"),
        ([1, "a"], ["1", "a"]),
        ([1, 2], (1, 2)),
        ({"a": 1}, {"a": "1"}),
        ({"1": None}, {1: None}),
    ],
)
def test_a_template_that_made_text_of_a_value_does_not_break_a_check(
    found: Any, wanted: Any
) -> None:
    assert answers.same(found, wanted)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ("Owner", "owner"),
        ("owner ", "owner"),
        (True, 1),
        (1, True),
        (0, False),
        (True, "yes"),
        ("1.0", 1),
        ("05", 5),
        (None, "None"),
        (None, ""),
        (None, False),
        ("", None),
        ([], {}),
        ([1], [1, 2]),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1}, {"b": 1}),
        ("[1]", [1]),
    ],
)
def test_values_that_only_resemble_each_other_are_not_equal(found: Any, wanted: Any) -> None:
    assert not answers.same(found, wanted)


def test_an_expression_without_equals_has_to_be_true_itself(app: Seen) -> None:
    app.json({"status": "ok"})
    assert run(HttpCheck(url=app.url, expect="status == 'ok'")).status == "ok"
    plain = run(HttpCheck(url=app.url, expect="status"))
    assert plain.status == "failed"
    assert plain.reason.startswith('status is "ok", not true')
    absent = run(HttpCheck(url=app.url, expect="nothing"))
    assert (absent.status, absent.reason) == ("failed", "nothing is null, not true")


def test_a_wrong_value_is_shown_shortened_beside_the_expected_one(app: Seen) -> None:
    app.json({"role": "x" * 5000})
    result = run(HttpCheck(url=app.url, expect="role", equals="owner"))
    assert result.status == "failed"
    assert result.reason.startswith('role is "xxx')
    assert result.reason.endswith('…, not "owner"')
    assert len(result.reason) < 250


def test_a_value_cannot_move_the_cursor_of_a_terminal(app: Seen) -> None:
    app.json({"role": "\x1b[2J\x9b1m\u202eevil\r\n\udcff"})
    result = run(HttpCheck(url=app.url, expect="role", equals="owner"))
    assert result.reason.isprintable()
    assert result.reason.encode()


def test_a_wrong_status_is_named_with_the_expected_one(app: Seen) -> None:
    app.json({"error": "wrong"}, 401)
    result = run(HttpCheck(url=app.url, method="POST", body={"a": 1}))
    assert (result.status, result.reason) == (
        "failed",
        "401 Unauthorized came back, 200 was expected",
    )


def test_a_redirect_is_not_followed_and_can_be_what_is_expected(app: Seen) -> None:
    app.answers.append((302, {"Location": f"{app.url}/elsewhere"}, b""))
    result = run(HttpCheck(url=f"{app.url}/old"))
    assert result.status == "failed"
    assert "302 Found (redirects are not followed)" in result.reason
    assert run(HttpCheck(url=f"{app.url}/old", expect_status=302)).status == "ok"
    assert {path for unused_method, path, unused_headers, unused_body in app.requests} == {"/old"}


def test_an_answer_that_is_not_json_fails_and_is_not_quoted(app: Seen) -> None:
    app.answers.append(
        (200, {"Content-Type": "text/html; charset=utf-8"}, b"<h1>Somebody else</h1>")
    )
    result = run(HttpCheck(url=app.url, expect="status", equals="ok"))
    assert (result.status, result.reason) == (
        "failed",
        "the answer is not JSON (text/html, 22 characters)",
    )


def test_an_answer_without_an_end_is_not_read_into_memory(app: Seen) -> None:
    app.json({"filler": "x" * probe.LIMIT_BYTES})
    result = run(HttpCheck(url=app.url, expect="filler"))
    assert (result.status, result.reason) == (
        "failed",
        "the answer is too long to be read as JSON (over 1 MiB)",
    )
    assert run(HttpCheck(url=app.url)).status == "ok"


def test_an_answer_of_the_greatest_length_arrives_whole(app: Seen) -> None:
    text = "\x01" * (probe.LIMIT_BYTES - 100)
    app.answers.append((200, {}, b'{"n": 7, "s": "' + text.replace("\x01", "~").encode() + b'"}'))
    assert run(HttpCheck(url=app.url, expect="length(s)", equals=len(text))).status == "ok"


@pytest.mark.parametrize("depth", [900, 5000, 200_000])
def test_an_answer_nested_to_crash_us_is_a_failed_check(app: Seen, depth: int) -> None:
    app.answers.append((200, {}, b"[" * depth + b"1" + b"]" * depth))
    assert run(HttpCheck(url=app.url, expect="@", equals=1)).status == "failed"


def test_an_expression_that_does_not_fit_the_answer_fails_with_its_reason(app: Seen) -> None:
    app.json({"users": None})
    result = run(HttpCheck(url=app.url, expect="length(users)", equals=1))
    assert result.status == "failed"
    assert "length(users) cannot be applied to the answer" in result.reason


def test_a_stranger_that_speaks_no_http_is_a_failed_check() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            client, unused_address = listener.accept()
            client.recv(1000)
            client.sendall(b"220 mail.example.org ESMTP\r\n")
            client.close()

        thread = threading.Thread(target=greet)
        thread.start()
        result = run(HttpCheck(url=f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout_s=2))
        thread.join()
    assert (result.status, result.reason) == ("failed", "this is no HTTP answer (BadStatusLine)")


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(app: Seen) -> None:
    result = run(HttpCheck(url=app.url.replace("http", "https"), timeout_s=2))
    assert result.status == "failed"
    assert "TLS failed" in result.reason


# -- what is sent ---------------------------------------------------------------------------------


def test_a_body_that_is_a_structure_goes_out_as_json(app: Seen) -> None:
    app.json({})
    body = {"email": "ädmin@example.com", "password": PASSWORD, "n": 1, "list": [True, None]}
    assert run(HttpCheck(url=f"{app.url}/login", method="post", body=body)).status == "ok"
    method, path, headers, sent = app.requests[0]
    assert (method, path, json.loads(sent)) == ("POST", "/login", body)
    assert headers["Content-Type"] == "application/json"


def test_a_body_that_is_text_goes_out_as_it_is(app: Seen) -> None:
    app.json({})
    run(HttpCheck(url=app.url, method="POST", body="a=1&b=ü"))
    run(HttpCheck(url=app.url, method="POST", body='{"a": 1}'))
    run(
        HttpCheck(
            url=app.url, method="POST", body='{"a": 1}', headers={"content-type": "text/plain"}
        )
    )
    assert [sent for *unused, sent in app.requests] == [
        "a=1&b=ü".encode(),
        b'{"a": 1}',
        b'{"a": 1}',
    ]
    kinds = [
        {k.lower(): v for k, v in headers.items()}.get("content-type")
        for unused_method, unused_path, headers, unused_body in app.requests
    ]
    assert kinds == [None, "application/json", "text/plain"]


def test_headers_and_the_query_of_a_url_arrive(app: Seen) -> None:
    app.json({})
    url = f"{app.url}/a%20b/ü ö?x=1&y=%C3%A4"
    run(HttpCheck(url=url, headers={"Authorization": "Bearer t0ken", "Host": "shop.example.com"}))
    unused_method, path, headers, unused_body = app.requests[0]
    assert path == "/a%20b/%C3%BC%20%C3%B6?x=1&y=%C3%A4"
    assert (headers["Authorization"], headers["Host"]) == ("Bearer t0ken", "shop.example.com")


def test_a_proxy_of_the_environment_is_not_used(app: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    app.json({})
    assert run(HttpCheck(url=app.url)).status == "ok"


# -- secrets --------------------------------------------------------------------------------------


def login(app: Seen, **more: Any) -> HttpCheck:
    # More digits than a port or a duration has, which the result names too.
    body = {
        "user": {"email": "admin@example.com", "password": PASSWORD},
        "pin": 4711081504,
        "otp": "x7",
    }
    headers = {"Authorization": "Bearer s3cr3t-t0ken", "Cookie": "session=c00kie-value; a=b"}
    return HttpCheck(
        **{"url": f"{app.url}/login", "method": "POST", "body": body, "headers": headers, **more}
    )


SECRETS = (PASSWORD, "s3cr3t-t0ken", "c00kie-value", "4711081504", "x7")


@pytest.mark.parametrize(
    "echo",
    [
        lambda body, headers: body.decode(),
        lambda body, headers: json.loads(body),
        lambda body, headers: [json.loads(body)["user"]["password"]],
        lambda body, headers: {json.loads(body)["user"]["password"]: 1},
        lambda body, headers: json.loads(body)["pin"],
        lambda body, headers: {"said": "pin 4711081504, otp x7, token S3CR3T-T0KEN"},
        lambda body, headers: headers,
        lambda body, headers: base64.b64encode(b"s3cr3t-t0ken").decode(),
        lambda body, headers: json.dumps({"you sent": PASSWORD}, ensure_ascii=False),
        lambda body, headers: f"<p>{html.escape(PASSWORD)}</p>",
        lambda body, headers: quote(PASSWORD, safe=""),
        lambda body, headers: "see /reset?token=s3cr3t%2Dt0ken and s3cr3t-t0ken",
    ],
)
def test_an_answer_that_echoes_a_secret_is_masked(
    app: Seen, echo: Callable[[bytes, Any], Any]
) -> None:
    def act(handler: BaseHTTPRequestHandler) -> None:
        unused_method, unused_path, headers, body = app.requests[-1]
        content = json.dumps({"said": echo(body, headers)}).encode()
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    app.act = act
    for more in ({"equals": "owner"}, {}, {"equals": PASSWORD}):
        result = run(login(app, expect="said", **more))
        assert result.status == "failed"
        # Parts of the password show it in whatever way it was written.
        parts = ("k0rrekt", "Pferd", "Batterie", "reboot")
        for secret in (*SECRETS, *parts, base64.b64encode(b"s3cr3t-t0ken").decode()):
            assert secret.lower() not in repr(result).lower()
    assert "***" in result.reason


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({"Authorization": "Basic " + base64.b64encode(b"admin:pa55word").decode()}, "pa55word"),
        ({"X-Api-Key": "abcdef123456"}, "abcdef123456"),
        ({"Cookie": "a=b;sid=abcdef123456"}, "abcdef123456"),
    ],
)
def test_what_a_header_hides_is_known_as_a_secret(headers: dict[str, str], secret: str) -> None:
    assert secret in answers.secrets_of(HttpCheck(url="http://x/", headers=headers))


def test_secrets_in_a_form_and_in_a_query_are_known_too() -> None:
    check = HttpCheck(url="http://x/?token=t0ken-1", body="user=a&password=p%40ss+word")
    assert {"t0ken-1", "p@ss word"} <= set(answers.secrets_of(check))


def test_neither_a_result_nor_the_values_in_between_show_what_was_sent(app: Seen) -> None:
    app.json({"user": {"role": "viewer"}})
    check = login(app, url=f"{app.url}/login?token=qu3ry-t0ken", expect="user.role", equals="owner")
    result = run(check)
    assert result.name == f"POST {app.url}/login"
    answer = probe.Answer(200, PASSWORD)
    shown = repr(result) + repr(answers.request_of(check)) + repr(answer) + repr(check)
    for secret in (*SECRETS, "admin@example.com"):
        assert secret not in shown
    assert result.reason == 'user.role is "viewer", not "owner"'


def test_a_secret_is_in_no_process_list_while_the_request_runs(app: Seen) -> None:
    lines: list[str] = []

    def act(handler: BaseHTTPRequestHandler) -> None:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for name in ("cmdline", "environ"):
                try:
                    with open(f"/proc/{pid}/{name}", errors="replace") as file:
                        lines.append(file.read())
                except OSError:
                    continue
        handler.send_response(204)
        handler.end_headers()

    app.act = act
    assert run(login(app, expect_status=204)).status == "ok"
    assert lines
    assert "s3cr3t-t0ken" not in "".join(lines)


@pytest.mark.parametrize(
    "check",
    [
        HttpCheck(url="http://admin:s3cr3t-t0ken@localhost/"),
        HttpCheck(url="http://x/", headers={"Authorization": "s3cr3t-t0ken\r\nX: y"}),
        HttpCheck(url="http://x/", headers={"X": "s3cr3t-t0ken €"}),
        HttpCheck(url="http://x/?s3cr3t-t0ken", equals=1),
        HttpCheck(url="http://x/", body={"s3cr3t-t0ken": {1, 2}}),
        HttpCheck(url="http://x/", body={"s3cr3t-t0ken": float("nan")}),
    ],
)
def test_a_refused_check_does_not_quote_its_secrets(check: HttpCheck) -> None:
    with pytest.raises(ConfigError) as caught:
        checks.validate([check])
    assert "s3cr3t-t0ken" not in str(caught.value)


# -- before anything runs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (HttpCheck(), "set either `url`, or `service` and `port`"),
        (HttpCheck(url="http://x/", service="web", port=1), "set either"),
        (HttpCheck(service="web"), "0 is no port"),
        (HttpCheck(service="web", port=65536), "65536 is no port"),
        (HttpCheck(service="web", port=80, path="health"), "has to begin with /"),
        (HttpCheck(url="ftp://x/"), "like http://host:port/path"),
        (HttpCheck(url="http:///path"), "like http://host:port/path"),
        (HttpCheck(url="http://x:99999/"), "like http://host:port/path"),
        (HttpCheck(url="http://[::1/"), "like http://host:port/path"),
        (HttpCheck(url="http://x/", method="GET / HTTP/1.0\r\n"), "no HTTP method"),
        (HttpCheck(url="http://x/", headers={"A B": "c"}), "a character that HTTP does not allow"),
        (HttpCheck(url="http://x/", expect_status=42), "42 is no HTTP status"),
        (HttpCheck(url="http://x/", equals="owner"), "says nothing without `expect`"),
        (HttpCheck(url="http://x/", timeout_s=0), "more than 0"),
        (HttpCheck(url="http://x/", timeout_s=float("nan")), "more than 0"),
        (HttpCheck(url="http://x/", expect="a ="), "is no JMESPath expression"),
        (HttpCheck(url="http://x/", expect="len(a)"), "is no JMESPath expression"),
        (HttpCheck(url="http://x/", expect="length(a, b)"), "is no JMESPath expression"),
    ],
)
def test_a_check_that_makes_no_sense_is_found_before_anything_runs(
    check: HttpCheck, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        checks.validate([HttpCheck(url="http://good/"), check])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_senseless_check_keeps_the_others_from_being_run(app: Seen) -> None:
    app.json({})
    with pytest.raises(ConfigError):
        checks.run_http_checks(NO_CONTAINERS, "", [HttpCheck(url=app.url), HttpCheck()])
    assert app.requests == []


def test_checks_that_make_sense_are_let_through() -> None:
    checks.validate(
        [
            HttpCheck(url="https://example.com"),
            HttpCheck(url="http://[::1]:3000/health?x=ü", headers={"X": "ü"}, body="text"),
            HttpCheck(service="web", port=3000, path="/", expect="length(users) > `0`"),
        ]
    )


# -- an application that is starting, or stuck ----------------------------------------------------


def test_an_application_that_is_starting_is_waited_for(app: Seen) -> None:
    app.json({"status": "starting"}, 503)
    app.json({"status": "starting"}, 503)
    app.json({"status": "ok"})
    result = run(HttpCheck(url=app.url, expect="status", equals="ok", timeout_s=10))
    assert (result.status, len(app.requests)) == ("ok", 3)


def test_a_port_where_nothing_listens_yet_is_asked_again() -> None:
    port = free_port()
    listener = socket.socket()

    def come_up() -> None:
        time.sleep(1.2)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        listener.settimeout(10)
        with contextlib.suppress(socket.timeout):
            client, unused_address = listener.accept()
            client.recv(10_000)
            client.sendall(b"HTTP/1.0 204 No Content\r\n\r\n")
            client.close()

    thread = threading.Thread(target=come_up)
    thread.start()
    result = run(HttpCheck(url=f"http://127.0.0.1:{port}/", expect_status=204, timeout_s=10))
    thread.join()
    listener.close()
    assert result.status == "ok"


def test_a_port_where_nothing_ever_listens_is_given_up_in_time() -> None:
    port = free_port()
    result = run(HttpCheck(url=f"http://127.0.0.1:{port}/", timeout_s=5))
    assert result.status == "failed"
    assert result.reason.startswith(f"nothing listens on port {port} (tried 127.0.0.1), for ")
    assert 1 <= result.seconds < 30


def test_an_application_that_stays_unavailable_is_a_failed_check(app: Seen) -> None:
    app.json({}, 503)
    result = run(HttpCheck(url=app.url, timeout_s=5))
    assert result.status == "failed"
    assert result.reason.startswith("503 Service Unavailable came back, 200 was expected, for ")


def test_an_expected_503_is_ok_at_once(app: Seen) -> None:
    app.json({}, 503)
    assert run(HttpCheck(url=app.url, expect_status=503)).status == "ok"
    assert len(app.requests) == 1


def test_a_request_that_may_have_changed_something_is_not_repeated(app: Seen) -> None:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    app.act = act
    result = run(HttpCheck(url=app.url, method="POST", timeout_s=2))
    assert (result.status, len(app.requests)) == ("failed", 1)
    assert "closed before there was an answer" in result.reason
    assert run(HttpCheck(url=app.url, method="GET", timeout_s=5)).status == "failed"
    assert len(app.requests) > 2


def test_an_application_that_never_answers_cannot_hold_the_drill(app: Seen) -> None:
    gate = threading.Event()
    app.act = lambda handler: gate.wait(20)
    began = time.monotonic()
    result = run(HttpCheck(url=app.url, timeout_s=1))
    gate.set()
    assert result.status == "failed"
    # Where the process that asks was late to begin, the one that waits for it ends the request.
    assert re.match("no answer in time|the answer did not end in time", result.reason)
    assert time.monotonic() - began < 15


def test_an_application_that_drips_bytes_cannot_hold_the_drill(app: Seen) -> None:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for unused_number in range(300):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.1)

    app.act = act
    began = time.monotonic()
    result = run(HttpCheck(url=app.url, timeout_s=1))
    assert result.status == "failed"
    assert re.match("the answer did not end in time|no answer in time", result.reason)
    assert time.monotonic() - began < 15
    assert children() == ""


def test_a_signal_while_waiting_ends_the_child_too(app: Seen) -> None:
    class Ended(BaseException):
        pass

    def end(*unused: object) -> None:
        raise Ended

    gate = threading.Event()
    app.act = lambda handler: gate.wait(20)
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Ended):
            run(HttpCheck(url=app.url, timeout_s=30))
    finally:
        signal.signal(signal.SIGALRM, before)
        gate.set()
    assert children() == ""


def test_a_handler_of_ours_does_not_run_in_the_child(app: Seen) -> None:
    ran, told = os.pipe()
    gate = threading.Event()

    def act(unused_handler: BaseHTTPRequestHandler) -> None:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            os.kill(int(file.read().split()[0]), signal.SIGTERM)
        gate.wait(20)

    app.act = act
    before = signal.signal(signal.SIGTERM, lambda *unused: os.write(told, b"x"))
    try:
        result = run(HttpCheck(url=app.url, timeout_s=2))
    finally:
        signal.signal(signal.SIGTERM, before)
        gate.set()
    os.close(told)
    assert os.read(ran, 1) == b""
    os.close(ran)
    assert (result.status, result.reason) == ("error", "the process that asks ended without a word")


def test_many_requests_leave_no_process_and_no_descriptor_behind(app: Seen) -> None:
    app.json({})
    before = len(os.listdir("/proc/self/fd"))
    for unused_number in range(20):
        assert run(HttpCheck(url=app.url)).status == "ok"
    assert children() == ""
    limit = time.monotonic() + 30
    # The threads of the application here close theirs when they come to it.
    while len(os.listdir("/proc/self/fd")) > before + 1:
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_host_without_a_name_in_the_dns_is_a_failed_check() -> None:
    result = run(HttpCheck(url="http://no-such-host.invalid/", timeout_s=60))
    assert result.status == "failed"
    assert "has no address" in result.reason


# -- what is not run, and how old the data is -----------------------------------------------------


def test_what_was_not_run_is_reported_as_skipped_with_the_reason() -> None:
    found = checks.skipped(
        "http", ["Health check", "GET http://x/a?token=s3cr3t"], "no application"
    )
    assert [(r.name, r.status, r.reason) for r in found] == [
        ("Health check", "skipped", "no application"),
        ("GET http://x/a", "skipped", "no application"),
    ]


def test_a_set_that_is_young_enough_is_fresh_and_its_age_is_said() -> None:
    result = checks.check_freshness(
        Freshness(86_400), utc_now() - timedelta(hours=2, minutes=5), None, "db"
    )
    assert (result.kind, result.status, result.reason) == (
        "freshness",
        "ok",
        "the set is 2 h 5 min old",
    )


def test_a_set_of_ten_days_ago_is_not_fresh() -> None:
    result = checks.check_freshness(Freshness(86_400), utc_now() - timedelta(days=10), None, "db")
    assert result.status == "failed"
    assert "the set is 10 d 0 h old" in result.reason
    assert "at most 24 h 0 min were allowed" in result.reason


def test_a_set_from_the_future_proves_nothing() -> None:
    result = checks.check_freshness(Freshness(86_400), utc_now() + timedelta(hours=1), None, "db")
    assert result.status == "error"
    assert "future" in result.reason
    skewed = checks.check_freshness(Freshness(60), utc_now() + timedelta(seconds=20), None, "db")
    assert skewed.status == "ok"


def test_freshness_by_sql_without_a_server_is_skipped_and_not_ok() -> None:
    result = checks.check_freshness(Freshness(60, "SELECT now()"), utc_now(), None, "db")
    assert result.status == "skipped"


# -- an operator's SQL ----------------------------------------------------------------------------


def test_every_name_in_a_statement_is_found_as_the_server_reads_it() -> None:
    sql = 'SELECT count(*) FROM Users u JOIN "Big ""Name""" b ON u.id=b.x WHERE ÄB = $1 -- Jobs'
    assert {"users", 'Big "Name"', "Äb", "jobs", "u"} <= questions.identifiers(sql)
    assert "Users" not in questions.identifiers(sql)
    assert {"Odd"} <= questions.identifiers("""SELECT '"' <> '' FROM "Odd\"""")


def test_a_name_behind_a_schema_is_left_to_its_schema() -> None:
    found = questions.identifiers('SELECT 1 FROM public.users, public."Jobs", "a".b')
    assert {"public", "a"} <= found
    assert not {"users", "Jobs", "b", "sers"} & found


def test_a_statement_is_wrapped_whatever_it_ends_with() -> None:
    for sql in ("SELECT true", "SELECT true;", "SELECT true ;\n", "SELECT true;;"):
        assert (
            questions.wrapped(sql, []) == 'SELECT * FROM (\nSELECT true\n) AS "firedrill" LIMIT 2'
        )


def test_a_hostile_table_name_stays_a_name() -> None:
    wrapped = questions.wrapped("SELECT 1", [('s"', 'x"); DROP TABLE users; --')])
    assert wrapped.startswith(
        'WITH "x""); DROP TABLE users; --" AS NOT MATERIALIZED (SELECT * FROM "s""".'
    )
