# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets that are restored, drilled and verified straight from an offsite target, by the command on the host and by the modules."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from far_ends import S3, Ssh, s3_server, small_disk, ssh_server
from keys import MAKERS, shows
from ports import free_port
from servers import ROOT, Postgres, await_that, docker
from times import time_far_off

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.durable import maker_mark
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import Ledger
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import (
    RUNTIME_DIRECTORY,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

pytestmark = [pytest.mark.integration, pytest.mark.newest_only, pytest.mark.slow]

#: Runs a command that finds the files of a directory in /usr/local/bin, and nobody else does.
INSTALLED = 'mount -t overlay -o "lowerdir=$0:/usr/local/bin" overlay /usr/local/bin; exec "$@"'
ROWS = "SELECT count(*), sum(id) FROM t"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture(scope="module")
def shop(postgres: Postgres) -> str:
    return postgres.create(
        content="CREATE TABLE t (id int PRIMARY KEY, note text);"
        "INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 5000) g;"
    )


class Host:
    """The command with its settings; a bucket and a directory over SSH as targets."""

    def __init__(self, home: Path, server: Postgres, database: str, s3: S3, ssh: Ssh) -> None:
        self.sets = home / "sets"
        self.far = home / "far"
        self.far.mkdir()
        bucket, nas = s3.target(home, "bucket", s3.bucket()), ssh.rsync("nas", self.far)
        self.content: dict[str, Any] = {
            "backup_dir": str(self.sets),
            "databases": {database: {"container": server.name}},
            "offsite": {
                "bucket": {
                    "type": "rclone",
                    "remote": bucket.remote,
                    "config_file": str(bucket.config_file),
                },
                "nas": {
                    "type": "rsync",
                    "host": nas.host,
                    "port": nas.port,
                    "path": nas.path,
                    "identity_file": str(nas.identity_file),
                    "known_hosts_file": str(nas.known_hosts_file),
                },
            },
        }
        self.path = home / "config.yml"
        self.write()

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.content, sort_keys=False))

    def begin(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [str(ROOT / "firedrill"), "--config", str(self.path), "--json", *words],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    def run(self, *words: str, status: int = 0, stdin: str = "") -> Any:
        begun = self.begin(*words)
        output, errors = begun.communicate(stdin)
        assert "Traceback" not in output + errors
        assert begun.returncode == status, output + errors
        return json.loads(output)

    def play(self, *tasks: dict[str, Any], status: int = 0) -> str:
        """Lets Ansible run tasks on this machine, where `firedrill` is the command with these settings."""
        home = self.path.parent
        command = home / "bin" / "firedrill"
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec "{ROOT}/firedrill" --config "{self.path}" "$@"\n')
        command.chmod(0o755)
        book = home / "play.yml"
        given = {"ansible_python_interpreter": sys.executable}
        play = {"hosts": "localhost", "gather_facts": False, "vars": given, "tasks": list(tasks)}
        book.write_text(yaml.safe_dump([{**play, "connection": "local"}]))
        ansible = (str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,")
        done = subprocess.run(
            [
                "unshare",
                "--mount",
                "sh",
                "-ec",
                INSTALLED,
                str(command.parent),
                *ansible,
                str(book),
            ],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == status, done.stdout + done.stderr
        # Ansible breaks long lines.
        return " ".join(done.stdout.split())

    def downloads(self) -> list[str]:
        return [path.name for path in self.sets.glob(".offsite-*")]


@pytest.fixture
def host(tmp_path: Path, postgres: Postgres, shop: str, s3: S3, ssh: Ssh) -> Host:
    return Host(tmp_path, postgres, shop, s3, ssh)


def test_a_set_goes_to_two_targets_and_comes_back_when_there_is_nothing_else_left(
    host: Host, postgres: Postgres, shop: str
) -> None:
    name = host.run("backup")["set_name"]
    report = host.run("copy")
    assert [one["uploaded"] for one in report["targets"]] == [[name], [name]]
    (row,) = host.run("list")
    assert all(row["offsite"][target] for target in ("bucket", "nas"))
    (status,) = host.run("status", status=1)
    assert [one["confirmed"] for one in status["offsite"]] == [1, 1]
    assert not [text for text in status["problems"] if "offsite" in text]
    before = postgres.sql(ROWS, shop)
    shutil.rmtree(host.sets)
    postgres.sql("DELETE FROM t WHERE id > 10", shop)
    # Nothing but a manifest comes down to say what would be done.
    forecast = host.run("restore", "offsite:latest", "--dry-run")
    assert (forecast["changed"], forecast["set_name"]) == (True, name)
    assert not host.sets.exists()
    drilled = host.run("drill", "--set", "offsite:nas/latest")
    assert (drilled["verdict"], drilled["set_name"]) == ("pass", name)
    assert host.run("verify", f"offsite:nas/{name}")["verdict"] == "intact"
    restored = host.run("restore", "offsite:latest")
    assert (restored["changed"], postgres.sql(ROWS, shop)) == (True, before)
    assert host.downloads() == []
    again = host.run("restore", f"offsite:nas/{name}")
    assert (again["changed"], "was restored at" in again["msg"]) == (False, True)


#: Keeps a restore in its last step until somebody lets it go on.
WAIT = "COPY (SELECT 1) TO PROGRAM 'touch /tmp/{0}; while [ -e /tmp/{0} ]; do sleep 0.1; done'"


@pytest.mark.parametrize("kind", ["age", "gpg"])
def test_an_encrypted_set_comes_back_from_a_target_with_the_key_and_nothing_of_it_lies_open(
    host: Host, postgres: Postgres, kind: str
) -> None:
    pair, other = MAKERS[kind](), MAKERS[kind]()
    word = f"clandestine-{uuid.uuid4().hex}"
    database = postgres.create(
        content=f"CREATE TABLE t (id int PRIMARY KEY, note text);"
        f"INSERT INTO t SELECT g, '{word}' FROM generate_series(1, 300) g;"
    )
    encryption = {"with": pair.method, "recipients": [pair.public]}
    host.content["encryption"] = encryption
    settings = {"container": postgres.name, "post_sql": [{"sql": WAIT.format(word)}]}
    host.content["databases"] = {database: settings}
    host.write()
    name = host.run("backup")["set_name"]
    assert [one["uploaded"] for one in host.run("copy")["targets"]] == [[name], [name]]
    before = postgres.sql(ROWS, database)
    key = ("--identity-file", "-")
    del host.content["encryption"]
    host.write()
    refused = ("restore", "offsite:latest", "--method", "replace", "--dry-run", *key)
    said = host.run(*refused, status=2, stdin=pair.private)["msg"]
    assert "no public key was given for the safety dump" in said
    host.content["encryption"] = encryption
    host.write()
    shutil.rmtree(host.sets)
    postgres.sql("DELETE FROM t WHERE id > 10", database)
    # A wrong key is told before the dump comes down, which would be found damaged then.
    (dump,) = host.far.glob(f"*/{name}.dump.*")
    content = dump.read_bytes()
    dump.write_bytes(bytes(len(content)))
    for words in (("restore", "offsite:nas/latest"), ("keycheck", "--set", "offsite:nas/latest")):
        for more in (["--dry-run"], []) if words[0] == "restore" else ([],):
            wrong = (*words, *more, "--identity-file", "-")
            said = host.run(*wrong, status=1, stdin=other.private)["msg"]
            assert "does not open" in said or "encrypted with" in said
    dump.write_bytes(content)
    told = host.run("restore", "offsite:latest", "--dry-run", *key, stdin=pair.private)
    assert told["rows_after"] == {"public.t": 300}
    # Without the key, or with another, nothing can be said of it; and nothing is done with it.
    assert host.run("drill", "--set", "offsite:nas/latest", status=6)["verdict"] == "not_tested"
    for words, stdin in (((), ""), (("--identity-file", "-"), other.private)):
        failed = host.run("restore", "offsite:latest", *words, status=1, stdin=stdin)
        assert failed["failed"]
        assert other.secret not in str(failed)
    assert postgres.sql("SELECT count(*) FROM t", database) == "10"
    opened = host.run("keycheck", "--set", f"offsite:bucket/{name}", *key, stdin=pair.private)
    assert (opened["verdict"], opened["changed"]) == ("intact", True)
    drilled = host.run("drill", "--set", "offsite:nas/latest", *key, stdin=pair.private)
    assert (drilled["verdict"], drilled["set_name"]) == ("pass", name)
    restoring = host.begin("restore", "offsite:latest", *key)
    assert restoring.stdin
    restoring.stdin.write(pair.private)
    restoring.stdin.close()
    restoring.stdin = None
    seen = f"test -e /tmp/{word} && echo yes"
    await_that(
        lambda: (
            restoring.poll() is not None
            or docker("exec", postgres.name, "sh", "-c", seen, check=False)
        ),
        "the restore plays the SQL after it",
    )
    (download,) = host.downloads()
    assert sorted(path.name for path in (host.sets / download).glob("*.dump.*"))
    for text in (word, pair.secret):
        places = (host.sets, host.far, RUNTIME_DIRECTORY, Path("/dev/shm"))
        assert shows(text, *places) == []
    docker("exec", postgres.name, "rm", f"/tmp/{word}")
    output, errors = restoring.communicate()
    assert restoring.returncode == 0, output + errors
    assert postgres.sql(ROWS, database) == before
    assert pair.secret not in output + errors
    assert host.downloads() == []


def test_what_comes_down_damaged_is_not_restored_and_the_drill_says_so(
    host: Host, postgres: Postgres, shop: str
) -> None:
    name = host.run("backup")["set_name"]
    host.run("copy")
    (dump,) = host.far.glob(f"*/{name}.dump")
    with dump.open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")
    before = postgres.sql(ROWS, shop)
    failed = host.run("restore", "offsite:nas/latest", status=1)
    assert "is damaged" in failed["msg"]
    assert postgres.sql(ROWS, shop) == before
    assert host.run("drill", "--set", "offsite:nas/latest", status=3)["verdict"] == "backup_bad"
    assert host.run("drill", "--set", "offsite:bucket/latest")["verdict"] == "pass"
    # The first that is asked has it damaged, the other has not.
    host.content["offsite"] = dict(reversed(host.content["offsite"].items()))
    host.write()
    for words in (["drill", "--set"], ["verify"], ["restore", "--force"]):
        report = host.run(*words, "offsite:latest")
        assert any(f"{name}.dump was taken from bucket" in text for text in report["warnings"])
    assert postgres.sql(ROWS, shop) == before
    assert host.downloads() == []
    # The next copy mends it.
    (row,) = host.run("list")
    assert (bool(row["offsite"]["bucket"]), row["offsite"]["nas"]) == (True, "")
    assert host.run("copy")["changed"]
    assert host.run("drill", "--set", "offsite:nas/latest")["verdict"] == "pass"


def test_a_disk_without_room_is_told_before_anything_comes_down(host: Host, tmp_path: Path) -> None:
    host.run("backup")
    host.run("copy")
    with small_disk(tmp_path / "small", "1m") as disk:
        host.content["backup_dir"] = str(disk)
        host.write()
        failed = host.run("restore", "offsite:latest", "--force", status=4)
        assert "to be downloaded" in failed["msg"]
        assert [path.name for path in disk.iterdir() if path.name.startswith(".offsite")] == []


def test_a_target_that_cannot_be_reached_has_an_exit_status_of_its_own_and_is_a_problem(
    host: Host, shop: str
) -> None:
    name = host.run("backup")["set_name"]
    host.content["offsite"]["nas"]["port"] = free_port()
    host.write()
    report = host.run("copy", status=9)
    assert report["verdict"] == "not_offsite"
    assert any("nas" in text for text in report["warnings"])
    ledger = Ledger(host.sets, shop)
    assert [ledger.confirmed(name, target) for target in ("bucket", "nas")] == [True, False]
    (row,) = host.run("list")
    assert (bool(row["offsite"]["bucket"]), row["offsite"]["nas"]) == (True, "")
    (status,) = host.run("status", status=1)
    assert any("offsite target nas fails since" in text for text in status["problems"])
    # The newest set may be there: that it could not be asked has to be said.
    drilled = host.run("drill", "--set", "offsite:latest")
    assert drilled["verdict"] == "pass"
    assert any("could not be asked" in text for text in drilled["warnings"])
    assert host.run("verify", "offsite:nas/latest", status=9)["failed"]
    assert "no offsite target" in host.run("verify", "offsite:moon/latest", status=2)["msg"]


def test_a_play_shows_the_copies_and_fails_where_a_target_has_not_got_every_set(
    host: Host, postgres: Postgres, shop: str
) -> None:
    options = {"database": shop, "container": postgres.name, "backup_dir": str(host.sets)}
    role = {
        "ansible.builtin.import_role": {"name": "firedrill.postgres.backup"},
        "vars": {
            **{f"firedrill_{name}": value for name, value in options.items()},
            "firedrill_offsite": host.content["offsite"],
        },
    }
    host.content["offsite"]["nas"]["port"], port = (
        free_port(),
        host.content["offsite"]["nas"]["port"],
    )
    host.write()
    shown = host.play(role, status=2)
    assert "NOT all are at nas" in shown
    ledger, (name,) = Ledger(host.sets, shop), [path.stem for path in host.sets.glob("*.dump")]
    assert [ledger.confirmed(name, target) for target in ("bucket", "nas")] == [True, False]
    host.content["offsite"]["nas"]["port"] = port
    host.write()
    assert "failed=0" in host.play(role)
    shutil.rmtree(host.sets)
    postgres.sql("CREATE TABLE since (id int)", shop)
    # The modules find the targets in the settings of the host, as the command does.
    restore = {**options, "src": "offsite:nas/latest", "config": str(host.path)}
    assert "was restored in" in host.play(
        {"firedrill.postgres.pg_restore_container": restore, "register": "done"},
        {"ansible.builtin.debug": {"var": "done.msg"}},
    )
    assert "since" not in postgres.sql("SELECT tablename FROM pg_tables", shop)


@pytest.mark.usefixtures("schedule_turn")
def test_the_schedule_copies_what_it_made_and_catches_up_later(host: Host, shop: str) -> None:
    (host.path.parent / "schedule.yml").write_text(f'backup: "{time_far_off()}"\n')
    port = host.content["offsite"]["nas"]["port"]
    host.content["offsite"]["nas"]["port"] = free_port()
    host.write()
    reports = host.run("due", status=9)
    assert [(one["action"], one.get("verdict")) for one in reports[:3]] == [
        ("backup", ""),
        ("prune", ""),
        ("copy", "not_offsite"),
    ]
    host.content["offsite"]["nas"]["port"] = port
    host.write()
    # It rests for an hour after a failure.
    assert host.run("due") == []
    attempts = next(host.sets.glob("*.attempts"))
    known = json.loads(attempts.read_text())
    known["copy"]["at"] = "2026-01-01T00:00:00Z"
    attempts.write_text(json.dumps(known))
    # The target was asleep when the set was made: what is too old there goes now.
    copied, pruned = host.run("due")
    assert (copied["action"], copied["verdict"]) == ("copy", "")
    assert (pruned["action"], pruned["kept"][0]["target"]) == ("prune", "bucket")
    assert [one["uploaded"] != [] for one in copied["targets"]] == [False, True]
    assert host.run("due") == []


def test_the_download_of_a_run_that_was_killed_goes_with_the_next(tmp_path: Path) -> None:
    own = tmp_path / f".offsite-{maker_mark()}"
    own.mkdir()
    ended = tmp_path / f".offsite-{maker_mark().rpartition('_')[0]}_1"
    ended.mkdir()
    (ended / "x.dump").write_bytes(b"x")
    Vault(tmp_path).sweep()
    assert (own.exists(), ended.exists()) == (True, False)
