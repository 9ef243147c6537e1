# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Alarms of real runs: pings and messages go to a real HTTP server, the messages by the real apprise."""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from far_ends import running
from keys import age_key, shows
from ports import LOCAL, free_port
from servers import ROOT, Postgres, await_that, docker
from times import time_far_off

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.outcomes import BUSY
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import only_one

pytestmark = [pytest.mark.integration, pytest.mark.newest_only]

SECRET = "s3cret-part-of-an-address"
PROMETHEUS = [str(ROOT / "tools" / "prometheus.sh")]


class Receiver:
    """Keeps what is posted to it, and whether a command line showed the secret meanwhile."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, str]] = []
        self.seen_in_arguments = False
        self.answer = 200
        self.port = free_port()
        self.start()

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                receiver.seen_in_arguments |= in_arguments(SECRET)
                receiver.posts.append((self.path, body))
                self.send_response(receiver.answer)
                self.end_headers()

            def log_message(self, *unused: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self) -> tuple[list[str], list[str]]:
        """The kinds of pings and the texts of messages since the last time."""
        posts, self.posts = self.posts, []
        pings = [path.partition(SECRET)[2] for path, body in posts if path.startswith("/ping/")]
        messages = [body for path, body in posts if path.startswith("/notice")]
        return pings, messages


def in_arguments(text: str) -> bool:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (process / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.stop()
    assert not found.seen_in_arguments


@pytest.fixture
def settings(
    tmp_path: Path, own_postgres: Postgres, sets: Path, receiver: Receiver, schedule_turn: None
) -> Path:
    """Settings and schedule of a host with one database that tells the receiver."""
    own_postgres.create("shop", "CREATE TABLE t AS SELECT generate_series(1, 3) AS x")
    base = f"http://127.0.0.1:{receiver.port}/ping"
    content = {
        "backup_dir": str(sets),
        "databases": {
            "shop": {
                "container": own_postgres.name,
                "ping_url": f"{base}/b-{SECRET}",
                "drill_ping_url": f"{base}/d-{SECRET}",
            }
        },
        "alarms": {
            "apprise_urls": [f"json://user:{SECRET}@127.0.0.1:{receiver.port}/notice"],
            "metrics_dir": str(tmp_path),
        },
    }
    path = tmp_path / "config.yml"
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
    schedule = {"backup": time_far_off(), "drill": {"day": 1, "time": time_far_off()}}
    (tmp_path / "schedule.yml").write_text(json.dumps(schedule))
    return path


@pytest.fixture(params=["plain", pytest.param("age", marks=pytest.mark.slow)])
def maybe_encrypted(request: pytest.FixtureRequest, settings: Path) -> None:
    """Whether the sets are encrypted, so that their manifests tell of no table."""
    if request.param == "age":
        content = json.loads(settings.read_text())
        content["encryption"] = {"with": "age", "recipients": [age_key().public]}
        settings.write_text(json.dumps(content))


def firedrill(settings: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(ROOT / "firedrill"), "--config", str(settings), *words],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done


def exported_from(directory: Path) -> str:
    """What node_exporter makes of the files in a directory."""
    port = free_port()
    command = [*PROMETHEUS, "prometheus-node-exporter", f"--web.listen-address={LOCAL}:{port}"]
    command += ["--collector.disable-defaults", "--collector.textfile"]
    command.append(f"--collector.textfile.directory={directory}")
    with (
        running(command, port, directory / "exporter.log"),
        urllib.request.urlopen(f"http://{LOCAL}:{port}/metrics", timeout=60) as answer,
    ):
        return str(answer.read().decode())


def up(server: Postgres) -> None:
    docker("start", server.name)
    await_that(
        lambda: "accepting" in docker("exec", server.name, "pg_isready", check=False), "it is up"
    )


@pytest.mark.slow
def test_people_hear_once_of_a_failure_once_of_each_change_and_once_of_the_end(
    settings: Path, own_postgres: Postgres, receiver: Receiver, sets: Path
) -> None:
    docker("stop", "--time", "5", own_postgres.name)
    assert firedrill(settings, "due").returncode != 0
    pings, messages = receiver.take()
    assert pings == ["/start", "/fail"]
    (message,) = messages
    assert "shop" in message
    assert "failed" in message

    # It rests for an hour; nothing new is to be said.
    assert firedrill(settings, "due").returncode == 0
    assert receiver.take() == ([], [])

    up(own_postgres)
    assert firedrill(settings, "backup").returncode == 0
    pings, messages = receiver.take()
    assert pings == ["/start", ""]
    (message,) = messages
    assert "no drill has been held" in message
    assert "Over:" in message

    assert firedrill(settings, "drill").returncode == 0
    pings, messages = receiver.take()
    assert pings == ["/start", ""]
    (message,) = messages
    assert "well again" in message

    assert firedrill(settings, "due").returncode == 0
    assert receiver.take() == ([], [])
    figures = (settings.parent / "firedrill.prom").read_text()
    promtool = [*PROMETHEUS, "promtool", "check", "metrics"]
    checked = subprocess.run(promtool, check=False, input=figures, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    exported = exported_from(settings.parent)
    assert "node_textfile_scrape_error 0\n" in exported
    assert 'firedrill_problems{database="shop",name="shop"} 0\n' in exported
    assert 'firedrill_problems{name="shop",database="shop"} 0\n' in figures
    assert 'firedrill_drill_verdict{name="shop",database="shop",verdict="pass"} 1\n' in figures
    assert all(SECRET not in file.read_text(errors="replace") for file in sets.iterdir())
    assert SECRET not in figures


def test_people_hear_too_while_a_run_of_the_schedule_lasts(
    settings: Path, receiver: Receiver
) -> None:
    with only_one("due"):
        assert firedrill(settings, "due").returncode == BUSY
    pings, messages = receiver.take()
    assert pings == []
    (message,) = messages
    assert "there is no complete set" in message


@pytest.mark.slow
def test_what_could_not_be_delivered_is_said_here_and_delivered_later(
    settings: Path, receiver: Receiver
) -> None:
    receiver.stop()
    done = firedrill(settings, "backup")
    assert done.returncode == 0, done.stderr
    assert "ping of the backup: The ping did not arrive: Connection refused" in done.stderr
    assert "The message was not delivered" in done.stderr
    assert "a message could not be delivered since" in firedrill(settings, "status").stderr
    receiver.start()
    assert firedrill(settings, "prune").returncode == 0
    pings, messages = receiver.take()
    # Of the success; that it began is no news any more.
    assert pings == [""]
    (message,) = messages
    assert "no drill has been held" in message
    assert "could not be delivered" not in message
    assert "could not be delivered" not in firedrill(settings, "status").stderr
    firedrill(settings, "prune")
    assert receiver.take() == ([], [])


@pytest.mark.slow
def test_an_answer_that_is_no_success_has_not_arrived(settings: Path, receiver: Receiver) -> None:
    receiver.answer = 404
    done = firedrill(settings, "alarms")
    assert done.returncode != 0
    assert "the answer was 404" in done.stderr
    receiver.answer = 200
    receiver.take()
    assert firedrill(settings, "alarms").returncode == 0
    pings, messages = receiver.take()
    assert pings == ["/log", "/log"]
    (message,) = messages
    assert "This is a test" in message


@pytest.mark.usefixtures("maybe_encrypted")
def test_a_dump_with_rows_earns_a_ping_of_success_and_one_without_any_earns_none(
    settings: Path, own_postgres: Postgres, receiver: Receiver
) -> None:
    assert firedrill(settings, "backup").returncode == 0
    assert receiver.take()[0] == ["/start", ""]
    own_postgres.sql("TRUNCATE t", "shop")
    assert firedrill(settings, "backup").returncode == 0
    pings = [path.partition(SECRET)[2] for path, body in receiver.posts if "/ping/" in path]
    assert pings == ["/start", "/fail"]
    assert any("holds no row" in body for path, body in receiver.posts)


def test_the_alarm_of_a_drill_with_the_key_says_nothing_of_what_an_encrypted_set_hides(
    settings: Path, receiver: Receiver, sets: Path, tmp_path: Path
) -> None:
    pair = age_key()
    (tmp_path / "key").write_text(pair.private)
    content = json.loads(settings.read_text())
    content["encryption"] = {"with": "age", "recipients": [pair.public]}
    content["databases"]["shop"]["assertions"] = [
        {"sql": "SELECT count(*) = 3 FROM public.t"},
        {"sql": "SELECT count(*) = 10 FROM public.t"},
        {"sql": "SELECT count(*) = 10 FROM public.lost", "name": "the lost"},
    ]
    settings.write_text(json.dumps(content))
    assert firedrill(settings, "backup").returncode == 0
    receiver.posts.clear()
    receiver.answer = 500
    done = firedrill(settings, "drill", "--identity-file", str(tmp_path / "key"))
    assert done.returncode == 3
    assert "public.t" in done.stderr
    assert "public.lost" in done.stderr
    # What could not be delivered waits beside the sets.
    assert "number 2" in (sets / "shop.alarms").read_text()
    for name in ("public.t", "public.lost"):
        assert shows(name, sets) == []
        assert not any(name in body for path, body in receiver.posts)
    (body,) = (body for path, body in receiver.posts if path.endswith("/fail"))
    assert "assertion number 2: told to whoever held the drill" in body
    assert "assertion the lost: told" in body
    assert "number 1" not in body


def test_a_look_at_the_live_database_proves_no_restore_and_pings_for_no_drill(
    settings: Path, receiver: Receiver
) -> None:
    content = json.loads(settings.read_text())
    content["databases"]["shop"]["assertions"] = [{"sql": "SELECT count(*) = 3 FROM public.t"}]
    settings.write_text(json.dumps(content))
    assert firedrill(settings, "drill", "--live").returncode == 0
    content["databases"]["shop"]["container"] = "none"
    settings.write_text(json.dumps(content))
    assert firedrill(settings, "drill", "--live").returncode != 0
    assert receiver.take()[0] == []


@pytest.mark.slow
def test_the_alarm_of_a_drill_says_which_promise_is_broken(
    settings: Path, own_postgres: Postgres, receiver: Receiver
) -> None:
    content = json.loads(settings.read_text())
    content["databases"]["shop"]["assertions"] = [
        {"name": "there are ten", "sql": "SELECT count(*) = 10 FROM public.t"}
    ]
    settings.write_text(json.dumps(content))
    assert firedrill(settings, "backup").returncode == 0
    receiver.take()
    assert firedrill(settings, "drill").returncode == 3
    bodies = [body for path, body in receiver.posts if path.endswith("/fail")]
    pings, messages = receiver.take()
    assert pings == ["/start", "/fail"]
    assert "there are ten" in bodies[0]
    (message,) = messages
    assert "there are ten" in message
    assert "found the backup bad" in message
