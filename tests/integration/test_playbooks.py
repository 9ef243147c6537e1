# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Playbooks and hosts that cannot be had: who is asked, who is not, and what is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ports import LOCAL, free_port
from servers import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]

#: What provisioning asks for, all of it right.
RIGHT: dict[str, Any] = {
    "firedrill_project": "shop",
    "firedrill_service": "db",
    "firedrill_database": "shop",
    "firedrill_backup_time": "02:00",
}


class Play:
    """One call of a playbook for some hosts and their variables."""

    def __init__(self, home: Path, playbook: str, hosts: dict[str, Any], **extra: str) -> None:
        inventory = home / "inventory.json"
        inventory.write_text(json.dumps({"firedrill": {"hosts": hosts}}))
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory)]
        command += [word for name, value in extra.items() for word in ("-e", f"{name}={value}")]
        done = subprocess.run(
            [*command, str(ROOT / playbook)],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_HOME": str(home / "ansible"), "ANSIBLE_NOCOLOR": "1"},
        )
        self.status = done.returncode
        # Messages are wrapped as the terminal likes it.
        self.said = " ".join((done.stdout + done.stderr).split())


def out_of_reach(**variables: Any) -> dict[str, Any]:
    """A host where nobody listens: whoever touches it hears that it cannot be reached."""
    return {"ansible_host": LOCAL, "ansible_port": free_port(), **variables}


def test_provision_touches_hosts_whose_variables_are_right(tmp_path: Path) -> None:
    play = Play(tmp_path, "provision.yml", {"pi-a": out_of_reach(**RIGHT)})
    assert play.status != 0
    assert "UNREACHABLE" in play.said


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"firedrill_docker_log_max_file": 0}, "firedrill_docker_log_max_file"),
        ({"firedrill_compress": "thoroughly"}, "compress"),
        (
            {
                "firedrill_app_src": "/srv/app",
                "firedrill_project": "",
                "firedrill_container": "shop-db-1",
            },
            "firedrill_project",
        ),
        ({"firedrill_backup_time": "25:00"}, "firedrill_backup_time"),
    ],
    ids=["docker_host", "engine", "app_stack", "schedule"],
)
def test_a_wrong_variable_of_one_host_stops_provision_before_any_host_is_touched(
    tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    hosts = {
        "pi-a": out_of_reach(**RIGHT),
        "pi-b": out_of_reach(**{**RIGHT, **wrong}),
        "pi-c": out_of_reach(**RIGHT),
    }
    play = Play(tmp_path, "provision.yml", hosts)
    assert play.status != 0
    assert "pi-b" in play.said
    assert said in play.said
    assert "UNREACHABLE" not in play.said
    assert "PLAY [Provision]" not in play.said


def test_status_has_a_row_for_a_host_that_cannot_be_reached_and_asks_the_others(
    tmp_path: Path,
) -> None:
    file = tmp_path / "status.json"
    # The test machine has no command of an earlier provisioning at hand, and says so: it was asked.
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {"pi-gone": out_of_reach(), "here": here}
    play = Play(tmp_path, "status.yml", hosts, status_file=str(file))
    assert play.status == 0, play.said
    problems = {row["host"]: " ".join(row["problems"]) for row in json.loads(file.read_text())}
    assert problems.keys() == {"pi-gone", "here"}
    assert "could not be reached" in problems["pi-gone"]
    assert "Connection refused" in problems["pi-gone"]
    assert "could not be reached" not in problems["here"]
    assert "pi-gone: it could not be reached" in play.said
