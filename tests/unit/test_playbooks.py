# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the playbooks refuse, and in which words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
#: It only looks; the playbooks that change hosts begin with it.
CHECK = "_variables.yml"
COMMAND = Path("/usr/local/bin/firedrill")


def played(playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A playbook of a checkout in which no inventory is named."""
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [str(program), f"playbooks/{playbook}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_checkout_does_not_set_up_the_machine_that_it_lies_on() -> None:
    refused = played(CHECK)
    assert refused.returncode != 0
    assert "Host demo is this very machine" in " ".join(refused.stdout.split())


def test_whoever_means_this_machine_says_so() -> None:
    done = played(CHECK, "-e", "firedrill_this_machine=true")
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(COMMAND.exists(), reason="this machine has the command")
def test_a_host_without_the_command_is_told_where_copies_come_from() -> None:
    settings = {"ansible_become": False, "firedrill_offsite": {"nas": {"type": "rsync"}}}
    failed = played("backup.yml", "--check", "--tags", "offsite", "-e", json.dumps(settings))
    assert failed.returncode != 0
    told = " ".join(failed.stdout.split())
    assert "has not got the firedrill command" in told
    assert "Run provision.yml" in told


@pytest.mark.parametrize("name", ["provision.yml", "recover.yml"])
def test_what_sets_up_hosts_begins_with_that_check(name: str) -> None:
    plays = yaml.safe_load((ROOT / "playbooks" / name).read_text(encoding="utf-8"))
    imported = [play.get("ansible.builtin.import_playbook") for play in plays]
    first = next(number for number, play in enumerate(plays) if "hosts" in play)
    assert CHECK in imported[:first]
