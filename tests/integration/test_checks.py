# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks against real containers: an application in its own network, and SQL where a role has planted its code."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from servers import LABEL, Postgres, docker, remove

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import checks, questions
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.access import open_access
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.containers import (
    Containers,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Assertion,
    CheckResult,
    Freshness,
    HttpCheck,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.server import Server

pytestmark = [pytest.mark.integration, pytest.mark.newest_only]

APP_IMAGE = "firedrill-test/app:1"
PROJECT = f"fdt-{uuid.uuid4().hex[:8]}"
#: Answers on one address and port, once the file that is named exists.
APP = """
import json, os, socket, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
address, port, gate, name = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
class Handler(BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        said = {"status": "ok", "name": name, "peer": self.client_address[0], "host": self.headers["Host"], "echo": body}
        content = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    do_GET = do_POST = answer
class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
if address == "own":
    address = socket.gethostbyname(socket.gethostname())
while not os.path.exists(gate):
    time.sleep(0.05)
Server((address, port), Handler).serve_forever()
"""


class Apps:
    """Containers of a Compose project with the application above."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def start(
        self,
        service: str,
        *arguments: str,
        address: str = "127.0.0.1",
        port: int = 3000,
        gate: str = "/",
    ) -> str:
        """Starts one more container of a service; `arguments` go to `docker run`; returns its name."""
        name = f"{PROJECT}-{service}-{len(self.names) + 1}"
        self.names.append(name)
        options = ["--init", "--name", name]
        for label in (
            f"com.docker.compose.project={PROJECT}",
            f"com.docker.compose.service={service}",
            LABEL,
        ):
            options += ["--label", label]
        if "--network" not in arguments:
            options += ["--network", "none"]
        command = ["python3", "-c", APP, address, str(port), gate, name]
        docker("run", "-d", *options, *arguments, APP_IMAGE, *command)
        return name


@pytest.fixture
def apps() -> Iterator[Apps]:
    found = Apps()
    yield found
    for name in found.names:
        remove(name)


def web(service: str = "web", **more: object) -> HttpCheck:
    options: dict[str, object] = {
        "service": service,
        "port": 3000,
        "path": "/api/health",
        "expect": "status",
        # The application has just been started, perhaps on a busy machine.
        "timeout_s": 60,
        **more,
    }
    return HttpCheck(**{"equals": "ok", **options})  # type: ignore[arg-type]


def ask(*asked: HttpCheck, project: str = PROJECT) -> list[CheckResult]:
    return checks.run_http_checks(Containers(), project, asked)


# -- HTTP in the service's network ----------------------------------------------------------------


def test_an_application_on_its_own_loopback_without_any_network_is_reached(apps: Apps) -> None:
    apps.start("web")
    (result,) = ask(web(name="Health check"))
    assert (result.name, result.status, result.reason) == ("Health check", "ok", "")


def test_a_program_of_the_host_on_the_same_port_is_not_what_answers(apps: Apps) -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(418)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        port = server.server_address[1]
        name = apps.start("web", port=port)
        inside = web(port=port, expect="name", equals=name)
        outside = HttpCheck(url=f"http://127.0.0.1:{port}/", expect_status=418)
        results = ask(inside, outside)
        server.shutdown()
        thread.join()
    assert [(r.status, r.reason) for r in results] == [("ok", ""), ("ok", "")]


def test_an_application_on_its_address_in_a_network_only_is_reached(apps: Apps) -> None:
    network = f"{PROJECT}-net"
    docker("network", "create", "--internal", "--label", LABEL, network)
    try:
        name = apps.start("web", "--network", network, address="own")
        (result,) = ask(web(expect="starts_with(peer, '127.')", equals=False))
        remove(name)
    finally:
        docker("network", "rm", network, check=False)
    assert (result.status, result.reason) == ("ok", "")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this host has no IPv6")
def test_an_application_on_ipv6_only_is_reached(apps: Apps) -> None:
    # Without a network Docker switches IPv6 off.
    apps.start("web", "--sysctl", "net.ipv6.conf.all.disable_ipv6=0", address="::1")
    (result,) = ask(web(expect="peer", equals="::1"))
    assert (result.status, result.reason) == ("ok", "")


def test_the_application_sees_a_local_request_as_from_a_shell_inside(apps: Apps) -> None:
    apps.start("web")
    (result,) = ask(web(expect="join(' ', [peer, host])", equals="127.0.0.1 localhost:3000"))
    assert (result.status, result.reason) == ("ok", "")


def test_a_container_is_named_directly_where_no_service_has_that_name(apps: Apps) -> None:
    name = apps.start("web")
    assert ask(web(name))[0].status == "ok"
    assert ask(web(name), project="")[0].status == "ok"


def between_attempts(monkeypatch: pytest.MonkeyPatch, *events: Callable[[], object]) -> None:
    """Lets each event happen before the second attempt to ask, the third, and so on."""
    coming = iter([lambda: None, *events])
    ask_inside = checks._ask_inside

    def asked(*arguments: Any) -> Any:
        next(coming, lambda: None)()
        return ask_inside(*arguments)

    monkeypatch.setattr(checks, "_ask_inside", asked)


def test_an_application_that_was_just_started_is_waited_for(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = apps.start("web", gate="/tmp/open")
    between_attempts(monkeypatch, lambda: docker("exec", name, "touch", "/tmp/open"))
    (result,) = ask(web(timeout_s=60))
    assert (result.status, result.reason) == ("ok", "")


def test_a_container_that_restarts_meanwhile_is_found_again(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = apps.start("web", gate="/tmp/open")
    between_attempts(
        monkeypatch,
        lambda: docker("kill", name),
        lambda: docker("start", name),
        lambda: docker("exec", name, "touch", "/tmp/open"),
    )
    (result,) = ask(web(timeout_s=60))
    assert (result.status, result.reason) == ("ok", "")


def test_a_wrong_port_is_a_failed_check_that_says_where_it_looked(apps: Apps) -> None:
    name = apps.start("web")
    (result,) = ask(web(port=3001, timeout_s=5))
    assert result.status == "failed"
    assert result.reason.startswith("nothing listens on port 3001 (tried 127.0.0.1, ::1), for ")
    assert result.reason.endswith(f"(in container {name})")


def test_a_service_that_is_stopped_paused_or_absent_could_not_be_asked(apps: Apps) -> None:
    name = apps.start("web")
    docker("pause", name)
    paused = ask(web())[0]
    docker("unpause", name)
    docker("kill", name)
    stopped, absent = ask(web(timeout_s=300), web("nosuch", timeout_s=300))
    assert [r.status for r in (paused, stopped, absent)] == ["error", "error", "error"]
    assert f"{name} is paused" in paused.reason
    assert stopped.reason == 'No container of service "web" is running'
    assert 'no container "nosuch"' in absent.reason
    # Not waited for.
    assert max(stopped.seconds, absent.seconds) < 120


def test_every_instance_of_a_service_has_to_answer(apps: Apps) -> None:
    apps.start("web")
    second = apps.start("web")
    assert ask(web())[0].status == "ok"
    (result,) = ask(web(expect="name", equals=apps.names[0]))
    assert result.status == "failed"
    assert f'name is "{second}", not "{apps.names[0]}"' in result.reason


def test_a_password_that_the_application_echoes_is_not_in_the_result(apps: Apps) -> None:
    apps.start("web")
    password = "p4ss'\"$(x)`y` ü"
    check = web(method="POST", body={"password": password}, expect="echo", equals="no")
    (result,) = ask(check)
    assert result.status == "failed"
    assert "p4ss" not in repr(result)
    assert "********" in result.reason


def test_this_process_stays_in_its_own_network(apps: Apps) -> None:
    apps.start("web")
    before = os.readlink("/proc/self/ns/net")
    assert ask(web(), web(port=1, timeout_s=0.1))[0].status == "ok"
    assert os.readlink("/proc/self/ns/net") == before
    assert {
        os.readlink(f"/proc/self/task/{task}/ns/net") for task in os.listdir("/proc/self/task")
    } == {before}


# -- SQL ------------------------------------------------------------------------------------------

#: A role like every application's, that may make things in `public` as everybody could before PostgreSQL 15.
OPEN = """
GRANT CREATE ON SCHEMA public TO PUBLIC;
CREATE TABLE users (id int PRIMARY KEY, email varchar(50), seen timestamptz DEFAULT now());
INSERT INTO users VALUES (1, 'Admin@example.com'), (2, 'b@example.com');
CREATE TABLE "Odd ""Näme" (x int);
"""
#: What the role plants runs `GRANT admin TO mallory` when a superuser lets it.
PLANTED = """
SET ROLE {role};
CREATE FUNCTION public.pwn() RETURNS void LANGUAGE plpgsql AS
  $$ BEGIN EXECUTE 'GRANT {admin} TO {role}'; EXCEPTION WHEN read_only_sql_transaction THEN
     PERFORM pg_catalog.pg_advisory_lock(hashtext('{role}')); END $$;
CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN PERFORM public.pwn(); RETURN 'planted'; END $$;
CREATE FUNCTION public.same(varchar, varchar) RETURNS bool LANGUAGE plpgsql AS
  $$ BEGIN PERFORM public.pwn(); RETURN true; END $$;
CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = varchar, RIGHTARG = varchar);
"""
CAST = """
SET ROLE {role};
CREATE TABLE public.bait (x int);
INSERT INTO public.bait VALUES (1);
CREATE FUNCTION public.told(public.bait) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN PERFORM public.pwn(); RETURN 'planted'; END $$;
CREATE CAST (public.bait AS text) WITH FUNCTION public.told(public.bait);
"""


class Desk:
    """A database to ask, and the role of a stranger in it."""

    def __init__(self, postgres: Postgres, server: Server, database: str, role: str) -> None:
        self.postgres, self.server, self.database, self.role = postgres, server, database, role

    def sql(self, text: str, user: str = "postgres") -> str:
        return self.postgres.sql(
            text.format(role=self.role, admin=f"{self.role}_admin"), self.database, user
        )

    def ask(self, sql: str, *, isolated: bool = False) -> CheckResult:
        return checks.run_assertions(
            self.server, self.database, [Assertion(sql)], isolated=isolated
        )[0]

    def fresh(self, sql: str) -> CheckResult:
        return checks.check_freshness(Freshness(3600, sql), utc_now(), self.server, self.database)


@contextmanager
def open_database(postgres: Postgres) -> Iterator[tuple[str, str]]:
    """A new database and a role of no rights."""
    database = postgres.create(content=OPEN)
    role = f"mallory_{database}"
    postgres.sql(f"CREATE ROLE {role}; CREATE ROLE {role}_admin SUPERUSER")
    try:
        yield database, role
    finally:
        postgres.sql(f'DROP DATABASE "{database}" WITH (FORCE)')
        postgres.sql(f"DROP ROLE {role}; DROP ROLE {role}_admin")


@contextmanager
def desk_in(postgres: Postgres, database: str, role: str) -> Iterator[Desk]:
    with Run("drill") as run:
        yield Desk(postgres, open_access(run, postgres.target(database)).server, database, role)


@pytest.fixture
def desk(postgres: Postgres) -> Iterator[Desk]:
    """A desk in a database of the test's own."""
    with ExitStack() as stack:
        database, role = stack.enter_context(open_database(postgres))
        yield stack.enter_context(desk_in(postgres, database, role))


@pytest.fixture(scope="module")
def shared_database(postgres: Postgres) -> Iterator[tuple[str, str]]:
    with open_database(postgres) as found:
        yield found


@pytest.fixture
def reader(postgres: Postgres, shared_database: tuple[str, str]) -> Iterator[Desk]:
    """A desk in a database that tests share and leave as it is."""
    with desk_in(postgres, *shared_database) as found:
        yield found


@pytest.mark.parametrize("closed", [False, True])
def test_a_table_is_found_by_its_bare_name_as_in_psql(desk: Desk, closed: bool) -> None:
    if closed:
        desk.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    for sql in (
        "SELECT count(*) > 0 FROM users",
        "select COUNT(*) = 2 from USERS ; ",
        'SELECT count(*) = 0 FROM "Odd ""Näme"',
        "WITH u AS (SELECT * FROM users) SELECT count(*) = 2 FROM u JOIN public.users USING (id)",
        "SELECT EXISTS (SELECT FROM users WHERE email = 'Admin@example.com')",
        "SELECT bool_and(u.seen <= now()) FROM users AS u",
        "SELECT 7 % 5 = 2",
    ):
        result = desk.ask(sql)
        assert (sql, result.status, result.reason) == (sql, "ok", "")


@pytest.mark.parametrize(
    ("sql", "status", "words"),
    [
        ("SELECT false", "failed", "it returned false, not true"),
        ("SELECT count(*) FROM users", "failed", "it returned 2, not true"),
        ("SELECT 'true'", "failed", 'it returned "true", not true'),
        ("SELECT NULL", "failed", "it returned NULL, not true"),
        ("SELECT true WHERE false", "failed", "it returned no row, not true"),
        ("SELECT true FROM users", "error", "more than one value"),
        ("SELECT true, true", "error", "more than one value"),
        ("SELECT count(*) > 0 FROM nosuch", "error", 'relation "nosuch" does not exist'),
        ("SELECT 1/0 = 1", "error", "division by zero"),
        ("SELEC true", "error", 'syntax error at or near "true" (it has to be one SELECT)'),
        ("SELECT true; SELECT true", "error", "it has to be one SELECT"),
        ("SELECT '20000-01-01'::date", "error", "cannot be read here"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "error", "was lost"),
    ],
)
def test_only_true_is_true_and_the_reason_says_what_came(
    reader: Desk, sql: str, status: str, words: str
) -> None:
    result = reader.ask(sql)
    assert result.status == status
    assert words in result.reason


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM users RETURNING true",
        "SELECT true FROM (DELETE FROM users RETURNING 1) x",
        "SELECT nextval('s') > 0",
        "SELECT lo_unlink(1) = 1",
        "SELECT true) x; DROP TABLE public.users; SELECT (true",
        "SELECT true) x; COMMIT; DROP TABLE public.users; SELECT (true",
    ],
)
def test_an_assertion_cannot_write(desk: Desk, sql: str) -> None:
    desk.sql("CREATE SEQUENCE s; SELECT lo_create(1)")
    desk.ask(sql)
    assert desk.sql("SELECT count(*) FROM users") == "2"
    assert desk.sql("SELECT is_called FROM s") == "f"
    assert desk.sql("SELECT count(*) FROM pg_largeobject_metadata WHERE oid = 1") == "1"


def test_an_assertion_that_never_ends_is_ended(
    reader: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "STATEMENT_TIMEOUT_S", 5)
    began = time.monotonic()
    result = reader.ask("SELECT pg_sleep(600) IS NULL")
    assert result.status == "error"
    assert "it took longer than 5 s" in result.reason
    assert time.monotonic() - began < 120


def test_a_database_that_is_not_there_is_an_error_of_each_assertion(reader: Desk) -> None:
    results = checks.run_assertions(
        reader.server, "nosuch", [Assertion("SELECT true", "a"), Assertion("SELECT 1", "b")]
    )
    assert [(r.name, r.status) for r in results] == [("a", "error"), ("b", "error")]
    assert 'no database "nosuch"' in results[0].reason


def test_a_planted_function_or_operator_does_not_run(desk: Desk) -> None:
    desk.sql(PLANTED)
    naive = desk.sql("SET search_path = pg_catalog, public; SELECT lower(email) FROM users LIMIT 1")
    assert naive == "planted"  # With pg_catalog first, and as superuser.
    assert desk.sql("SELECT pg_has_role('{role}', '{admin}', 'member')") == "t"
    desk.sql("REVOKE {admin} FROM {role}")
    for sql in (
        "SELECT bool_and(lower(email) <> 'planted') FROM users",
        "SELECT count(*) = 1 FROM users WHERE email = 'b@example.com'::varchar",
        "SELECT bool_and(lower(email) <> 'planted') FROM public.users",
    ):
        for isolated in (False, True):
            result = desk.ask(sql, isolated=isolated)
            assert (sql, result.status, result.reason) == (sql, "ok", "")
    assert desk.sql("SELECT pg_has_role('{role}', '{admin}', 'member')") == "f"


def test_a_planted_cast_does_not_run_where_it_could_gain_something(desk: Desk) -> None:
    desk.sql(PLANTED)
    desk.sql(CAST)
    for sql in (
        "SELECT bool_and(b::text = 'planted') FROM public.bait b",
        "SELECT count(*) = 1 FROM bait",
    ):
        result = desk.ask(sql)
        assert result.status == "error"
        assert f'not asked: role "{desk.role}" made a cast of its own' in result.reason
    assert desk.ask("SELECT bool_and(b::text = '(1)') FROM bait b", isolated=True).status == "ok"


def test_a_view_of_a_stranger_is_not_read_by_its_bare_name(desk: Desk) -> None:
    desk.sql("SET ROLE {role}; CREATE VIEW public.bait AS SELECT 1 AS x")
    result = desk.ask("SELECT count(*) = 1 FROM bait")
    assert result.status == "error"
    assert "write public.bait if you trust that role" in result.reason
    assert desk.ask("SELECT count(*) = 1 FROM public.bait").status == "ok"
    assert desk.ask("SELECT count(*) = 1 FROM bait", isolated=True).status == "ok"
    desk.sql("CREATE VIEW public.own AS SELECT 1 AS x")
    assert desk.ask("SELECT count(*) = 1 FROM own").status == "ok"


def test_functions_of_a_schema_that_nobody_else_may_write_to_are_found(desk: Desk) -> None:
    desk.sql("CREATE FUNCTION public.answer() RETURNS int LANGUAGE sql AS 'SELECT 42'")
    sql = "SELECT answer() = 42"
    hidden = desk.ask(sql)
    assert hidden.status == "error"
    assert "of public only tables are found by their bare names" in hidden.reason
    assert desk.ask("SELECT public.answer() = 42").status == "ok"
    desk.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    assert desk.ask(sql).status == "ok"
    desk.sql("GRANT CREATE ON SCHEMA public TO {role}")
    assert desk.ask(sql).status == "error"
    desk.sql(PLANTED)
    desk.sql("REVOKE CREATE ON SCHEMA public FROM {role}")
    assert desk.ask(sql).status == "error"  # What was planted before is still there.


def test_the_owner_of_the_database_owns_public_and_is_nobody_to_trust(desk: Desk) -> None:
    desk.sql(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    )
    if desk.postgres.major < 15:
        pytest.skip("public belongs to postgres there")
    assert desk.ask("SELECT one() = 1").status == "ok"
    desk.postgres.sql(f'ALTER DATABASE "{desk.database}" OWNER TO {desk.role}')
    try:
        assert desk.ask("SELECT one() = 1").status == "error"
        assert desk.ask("SELECT count(*) = 2 FROM users").status == "ok"
    finally:
        desk.postgres.sql(f'ALTER DATABASE "{desk.database}" OWNER TO postgres')


def test_the_search_path_of_the_database_is_the_one_that_counts(desk: Desk) -> None:
    desk.sql(
        'CREATE SCHEMA "App, 1"; CREATE SCHEMA "postgres"; CREATE TABLE "App, 1".users AS SELECT 1 AS one'
    )
    assert desk.ask("SELECT count(*) = 2 FROM users").status == "ok"
    desk.postgres.sql(
        f'ALTER DATABASE "{desk.database}" SET search_path = "$user", "App, 1", public'
    )
    assert desk.ask("SELECT one = 1 FROM users").status == "ok"
    assert desk.ask('SELECT count(*) = 0 FROM "Odd ""Näme"').status == "ok"
    desk.sql(
        "CREATE TABLE postgres.users AS SELECT 5 AS mine; GRANT CREATE ON SCHEMA postgres TO PUBLIC"
    )
    assert desk.ask("SELECT mine = 5 FROM users").status == "ok"


def test_row_level_security_hides_no_row_from_an_assertion(desk: Desk) -> None:
    desk.sql(
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY; ALTER TABLE users FORCE ROW LEVEL SECURITY"
    )
    assert desk.ask("SELECT count(*) = 2 FROM users").status == "ok"


@pytest.mark.parametrize(
    ("sql", "status", "words"),
    [
        ("SELECT max(seen) FROM users", "ok", "the newest data is "),
        ("SELECT max(seen)::timestamp FROM users", "ok", "the newest data is "),
        ("SELECT extract(epoch FROM max(seen)) FROM users", "ok", "the newest data is "),
        ("SELECT extract(epoch FROM now())::float8 - 7200", "failed", "2 h 0 min old"),
        ("SELECT now() - interval '10 days'", "failed", "10 d 0 h old"),
        (
            "SELECT '2026-01-01'::date",
            "failed",
            "(2026-01-01T00:00:00Z), at most 1 h 0 min were allowed",
        ),
        ("SELECT '2026-01-01T02:00:00+02:00'", "failed", "(2026-01-01T00:00:00Z)"),
        ("SELECT max(seen) FROM users WHERE id > 5", "failed", "no moment: is the table empty?"),
        ("SELECT now() WHERE false", "failed", "no moment: is the table empty?"),
        ("SELECT '-infinity'::timestamptz", "failed", "old"),
        ("SELECT 'infinity'::timestamptz", "error", "future"),
        ("SELECT now() + interval '1 day'", "error", "future"),
        ("SELECT extract(epoch FROM now()) * 1000000", "error", "no moment"),
        ("SELECT 'yesterday'", "error", "no moment"),
        ("SELECT true", "error", "no moment"),
        ("SELECT now(), now()", "error", "no moment"),
        ("SELECT max(nosuch) FROM users", "error", "does not exist"),
    ],
)
def test_freshness_is_the_age_of_the_moment_that_the_sql_returns(
    reader: Desk, sql: str, status: str, words: str
) -> None:
    result = reader.fresh(sql)
    assert (result.kind, result.status) == ("freshness", status)
    assert words in result.reason


def test_a_service_that_is_the_database_itself_can_be_checked_too(
    postgres: Postgres, tmp_path: Path
) -> None:
    # Something listens there, but it speaks no HTTP.
    check = replace(web(postgres.name), port=5432, timeout_s=2)
    (result,) = ask(check, project="")
    assert result.status == "failed"
