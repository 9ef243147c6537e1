# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drills of the live target: the database and the real application are asked after a restore."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from servers import LABEL, Postgres, docker, own_containers, remove, start_postgres

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.drill import (
    DrillRequest,
    drill,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.journal import (
    Entry,
    Journal,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Assertion,
    HttpCheck,
    Report,
    Target,
)

pytestmark = pytest.mark.integration

_IMAGE = "firedrill-test/app:1"
_PORT = 3000
_SECRET = "correct-horse-battery"
#: The runbook's two endpoints, on 127.0.0.1 only, and one that repeats what it was sent.
_APPLICATION = f"""
import json
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer(200, {{"status": "ok", "checks": {{"db": "ok"}}}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/echo":
            self.answer(500, {{"error": "cannot use " + json.dumps(body)}})
        elif body["password"] == "{_SECRET}":
            self.answer(200, {{"user": {{"email": body["email"]}}, "token": "secret-token"}})
        else:
            self.answer(401, {{"error": "wrong password"}})

    def log_message(self, *arguments):
        pass

HTTPServer(("127.0.0.1", {_PORT}), Handler).serve_forever()
"""
_HEALTH = HttpCheck(
    name="health",
    service="web",
    port=_PORT,
    path="/api/health",
    expect="checks.db",
    equals="ok",
    timeout_s=60,
)
_LOGIN = HttpCheck(
    name="login",
    service="web",
    port=_PORT,
    path="/api/v1/auth/login",
    method="POST",
    body={"email": "owner@example.org", "password": _SECRET},
    expect="user.email",
    equals="owner@example.org",
    timeout_s=60,
)
_TRUE = Assertion("SELECT count(*) = 300 FROM people", "everybody")


@dataclass
class Live:
    """A database and a web service of one Compose project; a restore has just ended."""

    server: Postgres
    target: Target
    directory: Path
    web: str
    set_name: str

    def drill(self, *http_checks: HttpCheck, **options: Any) -> Report:
        request = DrillRequest(
            self.target, self.directory, live=True, http_checks=http_checks, **options
        )
        return drill(request)


@pytest.fixture(scope="module")
def live(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    project = f"fdt{uuid.uuid4().hex[:8]}"
    labels = ("--label", f"com.docker.compose.project={project}", "--label")
    server = start_postgres(image, *labels, "com.docker.compose.service=db")
    web = f"{project}-web-1"
    own = (*labels, "com.docker.compose.service=web", "--label", LABEL, "--stop-signal", "SIGKILL")
    run = ("run", "-d", "--name", web, "--network", "none", *own, _IMAGE)
    docker(*run, "python3", "-c", _APPLICATION)
    server.create("shop", "CREATE TABLE people AS SELECT g AS id FROM generate_series(1, 300) AS g")
    directory = tmp_path_factory.mktemp("live") / "sets"
    server.backup(directory, "shop")
    report = server.restore(directory, "shop")
    target = Target(database="shop", project=project, service="db")
    yield Live(server, target, directory, web, report.set_name)
    remove(server.name)
    remove(web)


@pytest.fixture
def running(live: Live) -> Live:
    docker("start", live.web)
    return live


def by_name(report: Report) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in report.details["checks"]}


def test_a_live_drill_asks_the_database_and_the_application_in_its_own_network(running):
    before = running.server.started(), running.server.names()
    report = running.drill(_HEALTH, _LOGIN, assertions=(_TRUE,))
    assert report.verdict == "pass", report.msg
    found = by_name(report)
    assert {n: found[n]["status"] for n in ("health", "login", "everybody")} == {
        "health": "ok",
        "login": "ok",
        "everybody": "ok",
    }
    assert report.details["target"] == "live"
    assert report.set_name == running.set_name
    assert (running.server.started(), running.server.names()) == before
    assert own_containers() == []


def test_a_live_drill_says_that_evidence_was_not_compared(running, tmp_path):
    record = tmp_path / "drills.md"
    report = running.drill(_HEALTH, record_file=record)
    (said,) = report.details["not_compared"]
    assert "live database is written to" in said
    assert [c for c in report.details["checks"] if c["kind"] == "evidence"] == []
    assert "not compared: the live database is written to" in record.read_text()


@pytest.mark.parametrize("path", ["/api/v1/auth/login", "/echo"])
def test_the_password_of_a_login_is_in_no_report_and_no_record(running, tmp_path, path):
    """Not even where the application repeats what it was sent."""
    record, log = tmp_path / "drills.md", tmp_path / "drills.jsonl"
    check = HttpCheck(
        name="login",
        service="web",
        port=_PORT,
        path=path,
        method="POST",
        body={"email": "owner@example.org", "password": _SECRET},
        headers={"Authorization": "Bearer a-bearers-token"},
        expect="user.email",
        equals="somebody else",
    )
    report = running.drill(check, record_file=record, log_file=log)
    assert report.verdict == "environment"
    everything = json.dumps(report.as_dict()) + record.read_text() + log.read_text()
    assert "login" in everything
    for secret in (_SECRET, "a-bearers-token"):
        assert secret not in everything
    assert record.stat().st_size > 0
    assert len(log.read_text().splitlines()) == 1


def test_a_wrong_answer_is_told_and_does_not_blame_the_backup(running):
    wrong = HttpCheck(
        name="health",
        service="web",
        port=_PORT,
        path="/api/health",
        expect="checks.db",
        equals="fine",
    )
    report = running.drill(wrong, assertions=(_TRUE,))
    assert report.verdict == "environment"
    reason = report.details["reason"]
    for word in ("health", "checks.db", "ok", "fine"):
        assert word in reason
    assert by_name(report)["everybody"]["status"] == "ok"


def test_a_service_that_does_not_run_is_named_and_does_not_blame_the_backup(running):
    docker("stop", running.web)
    report = running.drill(_HEALTH, assertions=(_TRUE,))
    assert report.verdict == "environment"
    assert "web" in report.details["reason"]
    assert by_name(report)["health"]["status"] != "ok"
    # A drill asks; it starts nothing.
    assert docker("inspect", "-f", "{{.State.Running}}", running.web) == "false"


class _Stranger(BaseHTTPRequestHandler):
    """Answers every health check of the host with what the application would say."""

    def do_GET(self) -> None:
        data = b'{"status": "ok", "checks": {"db": "ok"}}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *unused: object) -> None:
        pass


def test_another_program_on_the_hosts_port_is_not_asked_for_the_service(running):
    stranger = HTTPServer(("127.0.0.1", 0), _Stranger)
    threading.Thread(target=stranger.serve_forever, daemon=True).start()
    port = stranger.server_port
    try:
        inside = HttpCheck(
            name="inside", service="web", port=port, expect="status", equals="ok", timeout_s=5
        )
        outside = HttpCheck(
            name="outside", url=f"http://127.0.0.1:{port}/", expect="status", equals="ok"
        )
        report = running.drill(inside, outside)
    finally:
        stranger.shutdown()
        stranger.server_close()
    found = by_name(report)
    assert found["outside"]["status"] == "ok"
    assert found["inside"]["status"] == "failed"
    assert str(port) in found["inside"]["reason"]
    assert report.verdict == "environment"


def test_an_application_that_is_still_starting_is_waited_for(running):
    docker("restart", running.web)
    assert running.drill(_HEALTH).verdict == "pass"


def test_a_live_drill_in_the_middle_of_a_restore_proves_nothing(running, tmp_path):
    journal = Journal(tmp_path, running.server.name, "shop")
    entry = Entry("1", "restore", "swap", running.server.name, "shop", set_name="shop_1")
    journal.write(entry, step="stopping")
    report = drill(DrillRequest(running.target, tmp_path, live=True, assertions=(_TRUE,)))
    assert report.verdict == "environment"
    assert "restore" in report.details["reason"]
    assert "not ended" in report.details["reason"]


def test_a_live_drill_without_a_check_tested_nothing(running):
    assert running.drill().verdict == "not_tested"
