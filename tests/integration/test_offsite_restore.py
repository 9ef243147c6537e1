# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets that are restored, drilled and verified straight from an offsite target, by the command on the host."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from far_ends import S3, Ssh, free_port, s3_server, small_disk, ssh_server
from recovery_sets import lay_out
from servers import IMAGES, ROOT, Postgres

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.fetch import locate, sweep
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import Ledger
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import utc_now
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run, owner_mark
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import (
    Offsite,
    RcloneTarget,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROWS = "SELECT count(*), sum(id) FROM t"


@pytest.fixture(scope="session", params=IMAGES[-1:])
def image(request: pytest.FixtureRequest) -> str:
    """One version: what is asked here does not depend on it."""
    return str(request.param)


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

    def run(self, *words: str, status: int = 0) -> Any:
        done = subprocess.run(
            [str(ROOT / "firedrill"), "--config", str(self.path), "--json", *words],
            check=False,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stdout + done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

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
    assert host.downloads() == []


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


def test_the_schedule_copies_what_it_made_and_catches_up_later(host: Host, shop: str) -> None:
    (host.path.parent / "schedule.yml").write_text('backup: "02:00"\n')
    port = host.content["offsite"]["nas"]["port"]
    host.content["offsite"]["nas"]["port"] = free_port()
    host.write()
    reports = host.run("due", status=9)
    assert [(one["action"], one.get("verdict")) for one in reports[:2]] == [
        ("backup", ""),
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
    (copied,) = host.run("due")
    assert (copied["action"], copied["verdict"]) == ("copy", "")
    assert [one["uploaded"] != [] for one in copied["targets"]] == [False, True]
    assert host.run("due") == []


def test_the_download_of_a_run_that_was_killed_goes_with_the_next(tmp_path: Path) -> None:
    own = tmp_path / f".offsite-{owner_mark().replace('/', '_')}"
    own.mkdir()
    ended = tmp_path / f".offsite-{owner_mark().rpartition('/')[0].replace('/', '_')}_1"
    ended.mkdir()
    (ended / "x.dump").write_bytes(b"x")
    sweep(tmp_path)
    assert (own.exists(), ended.exists()) == (True, False)


def test_latest_of_a_target_passes_over_a_set_of_the_future_and_says_so(tmp_path: Path) -> None:
    far = tmp_path / "far" / "shop"
    far.mkdir(parents=True)
    meant = lay_out(far, created=utc_now() - timedelta(days=1))
    config = tmp_path / "rclone.conf"
    config.write_text("[disk]\ntype = local\n")
    offsite = Offsite((RcloneTarget("disk", f"disk:{far.parent}", config),), "shop")
    wrong = lay_out(far, created=utc_now() + timedelta(days=365))
    with Run("test") as run:
        found = locate(run, Vault(tmp_path / "sets"), "offsite:latest", "shop", offsite)
        assert found.recovery_set.name == meant.name
        (warning,) = found.warnings
        assert wrong.name in warning
        assert "in the future" in warning
        for path in far.glob(f"{meant.name}*"):
            path.unlink()
        found = locate(run, Vault(tmp_path / "sets"), "offsite:latest", "shop", offsite)
        assert (found.recovery_set.name, found.warnings) == (wrong.name, ())
