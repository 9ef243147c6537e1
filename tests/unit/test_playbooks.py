# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the playbooks refuse, and in which words."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from jinja2 import Template
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    parse_time,
    utc_now,
)

#: Each starts Ansible, which takes seconds.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
#: It only looks; the playbooks that change hosts begin with it.
CHECK = "_variables.yml"


def played(playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A playbook of a checkout in which no inventory is named."""
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [str(program), str(Path("playbooks", playbook)), *arguments]
    # Times that are told are in UTC, wherever the controller is.
    where = {**os.environ, "TZ": "Asia/Kolkata"}
    return subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True, check=False)


def test_a_checkout_does_not_set_up_the_machine_that_it_lies_on() -> None:
    refused = played(CHECK)
    assert refused.returncode != 0
    assert "Host demo is this very machine" in " ".join(refused.stdout.split())


def test_whoever_means_this_machine_says_so() -> None:
    done = played(CHECK, "-e", "firedrill_this_machine=true")
    assert done.returncode == 0, done.stdout


def test_a_host_without_the_command_is_told_where_copies_come_from(tmp_path: Path) -> None:
    settings = {
        "ansible_become": False,
        "_backup_program": str(tmp_path / "firedrill"),
        "firedrill_offsite": {"nas": {"type": "rsync"}},
    }
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


@pytest.mark.parametrize(
    ("files", "env", "refused"),
    [
        ([], {"A": "b"}, True),
        (["compose.yml", "./.env"], {"A": "b"}, True),
        (["compose.yml", "other/.env"], {"A": "b"}, False),
        ([], {}, False),
    ],
)
def test_an_environment_file_that_is_copied_and_written_is_refused(
    tmp_path: Path, files: list[str], env: dict[str, str], refused: bool
) -> None:
    settings = {
        "firedrill_this_machine": True,
        "firedrill_app_src": str(tmp_path),
        "firedrill_app_files": files,
        "firedrill_app_env": env,
    }
    done = played(CHECK, "-e", json.dumps(settings))
    assert done.returncode == 0, done.stdout
    (tmp_path / ".env").write_text("A=c\n", encoding="utf-8")
    done = played(CHECK, "-e", json.dumps(settings))
    assert (done.returncode != 0) == refused, done.stdout
    told = " ".join(done.stdout.split())
    assert (
        f"{tmp_path}/.env would be copied to the host, and firedrill_app_env" in told
    ) == refused


# -- what a recovery sees before it touches the host

#: As the host's own, it has no path but the one that a test gives it.
LOOK = """
- hosts: localhost
  gather_facts: false
  environment: {PATH: "{{ test_place }}/bin"}
  tasks:
    - ansible.builtin.set_fact: {_recover_wanted: "{{ firedrill_dump }}", _recover_began: "{{ now(fmt='%s') }}"}
    - ansible.builtin.import_role: {name: firedrill.postgres.recover, tasks_from: look}
    - ansible.builtin.debug: {msg: "Its key is in {{ _recover_identity_file or 'no file' }}"}
    - ansible.builtin.debug: {msg: "It takes {{ _recover_source }}"}
"""
ANSWERS = """#!/bin/sh
case $1 in
ps) printf '%s' "$CONTAINERS" ;;
volume) printf '%s' "$VOLUMES" ;;
esac
"""
DEAD = "#!/bin/sh\necho 'Cannot connect to the Docker daemon. Is it running?' >&2\nexit 1\n"
BEGUN = {"database": "ai_fsm", "dump": "offsite:latest", "dump_host": "", "began": 1790000000}
RESTORED = {**BEGUN, "set": "ai_fsm_20260219_020000"}


class Host:
    """What there is on a host that is to be recovered."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "bin").mkdir()
        for name in ("timeout", "readlink"):
            (place / "bin" / name).symlink_to(str(shutil.which(name)))
        (place / "look.yml").write_text(LOOK, encoding="utf-8")
        self.has("mounts")
        self.has("fstab")

    def docker(self, script: str, containers: str = "", volumes: str = "") -> None:
        program = self.place / "bin" / "docker"
        values = f"CONTAINERS={shlex.quote(containers)}\nVOLUMES={shlex.quote(volumes)}\n"
        program.write_text(script.replace("\n", f"\n{values}", 1), encoding="utf-8")
        program.chmod(0o755)

    def has(self, path: str, content: str = "") -> None:
        file = self.place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")

    def was_begun(self, known: dict[str, object]) -> None:
        self.has("recovering", f"# A recovery\n{yaml.safe_dump(known)}")

    def with_set(self) -> Path:
        """A directory with a set of database `shop`."""
        place = self.place / "sets"
        place.mkdir(exist_ok=True)
        lay_out(place)
        return place

    def settings(self, dump: str = "offsite:latest", **more: object) -> str:
        """The variables of a recovery, with what it looks at on this machine in its place, as Ansible takes them."""
        known = {
            "test_place": str(self.place),
            "_recover_marker": str(self.place / "recovering"),
            "_recover_mounts": str(self.place / "mounts"),
            "_recover_fstab": str(self.place / "fstab"),
            "firedrill_offsite": {"nas": {"type": "rsync"}},
            "firedrill_app_dir": str(self.place / "app"),
            "firedrill_app_src": "/srv/app",
            "firedrill_project": "ai-fsm",
            "firedrill_service": "db",
            "firedrill_database": "ai_fsm",
            "firedrill_dump": dump,
            **more,
        }
        return json.dumps(known)

    def told(self, dump: str = "offsite:latest", **more: object) -> str:
        """What somebody reads who wants to recover it."""
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = inventory_of(self.place, others={"nas": local, "gone": GONE})
        play = played(str(self.place / "look.yml"), *hosts, "-e", self.settings(dump, **more))
        # Its lines are broken anywhere.
        told = " ".join(play.stdout.split())
        assert ("It takes" in told) == (play.returncode == 0), told
        return told


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_host_without_docker_is_blank(host: Host) -> None:
    host.has("app/certificate.pem")
    assert "It takes offsite:latest" in host.told()


def test_a_host_whose_engine_has_nothing_of_the_project_is_blank(host: Host) -> None:
    host.docker(ANSWERS)
    assert "It takes offsite:latest" in host.told()


def test_a_host_whose_engine_does_not_answer_is_refused(host: Host) -> None:
    host.docker(DEAD)
    told = host.told()
    assert (
        "its engine does not answer (Cannot connect to the Docker daemon. Is it running?)" in told
    )
    assert "Nothing was touched" in told
    assert "systemctl start docker" in told
    # What the first attempt has left so, it mends.
    host.was_begun(BEGUN)
    assert "It takes offsite:latest" in host.told()


@pytest.mark.parametrize("there", [("exited db", ""), ("", "volume ai-fsm_db-data")])
def test_a_host_with_something_of_the_project_is_refused(
    host: Host, there: tuple[str, str]
) -> None:
    host.docker(ANSWERS, *there)
    told = host.told()
    assert "containers or volumes of the project ai-fsm already, so it is not blank" in told
    assert "`ansible-playbook firedrill.postgres.provision --limit localhost` and, at once" in told
    assert "`ansible-playbook firedrill.postgres.restore -e dump=... --limit localhost`" in told
    assert "`-e firedrill_restore_superusers=true` where roles have to come back" in told


@pytest.mark.parametrize(
    "file", ["compose.yaml", "docker-compose.yml", "data/18/docker/PG_VERSION"]
)
def test_a_host_with_the_files_of_the_application_is_refused(host: Host, file: str) -> None:
    host.docker(ANSWERS)
    host.has(f"app/{file}")
    told = host.told()
    assert f"{host.place}/app/{file}" in told
    assert "so it is not blank. Nothing was touched" in told
    assert "move it away" in told
    host.was_begun(BEGUN)
    assert "It takes offsite:latest" in host.told()


@pytest.mark.parametrize("target", ["", "nas/"])
def test_the_same_command_takes_the_very_set_that_it_has_restored(host: Host, target: str) -> None:
    host.docker(ANSWERS, "running db\nrunning web\n", "volume ai-fsm_db-data\n")
    host.was_begun({**RESTORED, "dump": f"offsite:{target}latest"})
    told = host.told(f"offsite:{target}latest")
    assert f"It takes offsite:{target}ai_fsm_20260219_020000" in told


def test_another_command_is_refused_once_a_set_was_restored(host: Host) -> None:
    host.docker(ANSWERS, "running db\n", "volume ai-fsm_db-data\n")
    host.was_begun({**RESTORED, "dump": "latest", "dump_host": "nas"})
    for more in ({}, {"dump": "latest", "firedrill_dump_host": "friend"}):
        told = host.told(**more)
        assert "Nothing was touched" in told
        assert (
            "with `-e dump=latest -e dump_host=nas`, and ai_fsm_20260219_020000 was restored"
            in told
        )
        assert f"remove {host.place}/recovering" in told
        assert "`ansible-playbook firedrill.postgres.provision --limit localhost`" in told
    told = host.told("latest", firedrill_dump_host="nas", firedrill_database="wiki")
    assert "of database ai_fsm with" in told


def test_before_anything_was_restored_another_set_may_be_taken(host: Host) -> None:
    host.docker(ANSWERS, "running db\nexited migrate\n", "volume ai-fsm_db-data\n")
    host.was_begun(BEGUN)
    assert "It takes offsite:nas/latest" in host.told("offsite:nas/latest")


def test_a_host_that_somebody_has_brought_back_meanwhile_is_refused(host: Host) -> None:
    started = "running db cache:service_started:false\nrunning cache vault:service_healthy\n"
    started += "running vault\nexited migrate db:service_healthy:true\n"
    host.docker(ANSWERS, started, "volume ai-fsm_db-data\n")
    host.was_begun(BEGUN)
    # What the database depends on was started with it.
    assert "It takes offsite:latest" in host.told()
    web = "running web db:service_healthy:true\n"
    host.docker(ANSWERS, started + web, "volume ai-fsm_db-data\n")
    told = host.told()
    assert "has restored nothing yet, but services of the project ai-fsm run: web." in told
    assert f"remove {host.place}/recovering" in told


@pytest.mark.parametrize("content", ["", "A recovery of this host was begun and has not ended.\n"])
def test_a_recovery_of_which_nothing_is_known_is_refused(host: Host, content: str) -> None:
    host.has("recovering", content)
    told = host.told()
    assert f"its file {host.place}/recovering does not say of what" in told


def test_databases_that_do_not_come_back_are_named_with_their_commands(host: Host) -> None:
    assert "NOT recovered:" not in host.told()
    told = host.told(firedrill_more_databases={"wiki": {}, "our shop": {}})
    assert "NOT recovered: wiki, our shop." in told
    # What the new host backs up of an empty wiki is no copy to restore.
    before = re.search(r"restore offsite:before:(\S+) --restore-superusers --database wiki", told)
    assert before
    assert abs((utc_now() - parse_time(before[1])).total_seconds()) < 600
    assert "--database 'our shop'" in told.replace("''", "'")
    host.was_begun(BEGUN)
    told = host.told(firedrill_more_databases={"wiki": {}})
    assert "restore offsite:before:2026-09-21T14:13:20Z --restore-superusers" in told
    encrypted = {"wiki": {"encryption": {"with": "age"}}}
    known = {"firedrill_more_databases": encrypted, "firedrill_offsite": {}}
    told = host.told(str(host.with_set()), firedrill_database="shop", **known)
    assert "sudo firedrill restore DUMP --identity-file KEY --restore-superusers" in told
    assert "DUMP is the file of a set that you have copied to the host, KEY is the file" in told


def test_a_target_that_the_new_host_does_not_know_is_refused(host: Host) -> None:
    told = host.told("offsite:bucket/latest")
    assert "bucket is not among them (nas). Put the target there" in told
    assert "Nothing was touched" in told
    told = host.told(firedrill_offsite={})
    assert "firedrill_offsite alone, and none is there: it is empty" in told
    told = host.told(firedrill_dump_host="nas")
    assert "straight from there, and not from nas: leave out `-e dump_host`" in told
    assert "It takes offsite:nas/latest" in host.told("offsite:nas/latest")


def test_a_host_with_the_set_that_cannot_be_reached_is_told_before_anything_is_touched(
    host: Host,
) -> None:
    told = host.told("latest", firedrill_dump_host="gone")
    assert "Nothing was touched. The host gone, from which the set is to come" in told
    assert "Is that its name in the inventory, is it up" in told


def test_whose_set_it_is_is_said_before_anything_is_touched(host: Host) -> None:
    asked = {"firedrill_database": "shop", "firedrill_dump_dir": str(host.with_set())}
    told = host.told("latest", firedrill_dump_host="nas", **asked)
    assert (
        "shop_20260219_020000 is a set of database shop of container shop-db-1 on host pi, "
        "made at 2026-02-19T02:00:00Z." in told
    )
    assert "Give the same command again: it goes on from where it stopped" in told
    told = host.told("before:2026-01-01T00:00:00Z", firedrill_dump_host="nas", **asked)
    assert (
        f'There is no set of database "shop" for "before:2026-01-01T00:00:00Z" in nas:{host.place}/sets'
        in told
    )
    lay_out(host.place / "sets", created=parse_time("20260220_020000"), host="kitchen")
    told = host.told("latest", firedrill_dump_host="nas", **asked)
    assert (
        f"nas:{host.place}/sets has shop_20260220_020000 of container shop-db-1 on kitchen" in told
    )
    assert "Nothing was touched. Name the set that is meant" in told


@pytest.mark.parametrize("far", ["", "nas"])
def test_newer_sets_that_are_not_meant_are_said_before_anything_is_touched(
    host: Host, far: str
) -> None:
    sets = host.with_set()
    asked = {"firedrill_database": "shop", "firedrill_dump_dir": str(sets)}
    dump = "latest" if far else str(sets)
    assert "newer than" not in host.told(dump, firedrill_dump_host=far, **asked)
    lay_out(sets, created=parse_time("20990101_000000"))
    (sets / f"{lay_out(sets, created=parse_time('20260220_020000')).name}.json").write_text("{")
    told = host.told(dump, firedrill_dump_host=far, **asked)
    assert "shop_20260219_020000 is a set of database shop" in told
    place = f"nas:{sets}" if far else str(sets)
    assert "shop_20260220_020000 is newer than shop_20260219_020000, but" in told
    assert f"{place}/shop_20260220_020000.json" in told
    assert "shop_20990101_000000 was passed over: its date 2099-01-01T00:00:00Z is in" in told
    # Who names one means it.
    told = host.told("20260219_020000", firedrill_dump_host="nas", **asked)
    assert "newer than" not in told


def test_a_key_file_that_the_new_host_has_not_got_is_left_out(host: Host) -> None:
    file = str(host.place / "key.txt")
    told = host.told(firedrill_identity_file=file)
    assert f"{file} (firedrill_identity_file) is not on this host" in told
    assert "Its key is in no file" in told
    assert "is not on this host" not in host.told(
        firedrill_identity_file=file, firedrill_identity="AGE-SECRET-KEY-1X"
    )
    host.has("key.txt")
    told = host.told(firedrill_identity_file=file)
    assert f"Its key is in {file}" in told
    assert "is not on this host" not in told


#: Where disks are mounted that come and go; nothing of that name is on the machine of the tests.
USB = "/mnt/firedrill no such disk"


@pytest.mark.parametrize(
    ("mounts", "fstab", "place", "said"),
    [
        ("", "", f"{USB}/sets", "nothing is mounted below /mnt on the way to it"),
        ("{usb}", "", f"{USB}/sets/", ""),
        ("/mnt", "", f"{USB}/sets", "nothing is mounted below /mnt on the way to it"),
        ("/mnt", "U /mnt ext4", f"{USB}/sets", ""),
        ("/srv/disk", "# U /srv/off\nU /srv/disk\n", "/srv/disk/off/sets", ""),
        ("/", "U / ext4\nU {usb} ext4\n", f"{USB}/sets", f"{USB} is in "),
        ("/", "U none swap\nU /var ext4\n", "/var/backups", "/var is in "),
    ],
)
def test_a_backup_directory_whose_disk_is_not_mounted_is_refused(
    host: Host, mounts: str, fstab: str, place: str, said: str
) -> None:
    usb = USB.replace(" ", "\\040")
    host.has(
        "mounts", f"1 2 8:1 / {mounts.format(usb=usb)} rw - ext4 /dev/sda rw\n" if mounts else ""
    )
    host.has("fstab", fstab.format(usb=usb))
    told = host.told(firedrill_backup_dir=place)
    if not said:
        assert "It takes offsite:latest" in told
        return
    assert f"backup directory {place} of this host seems not to be mounted: {said}" in told
    assert "Nothing was touched" in told
    assert f"make {place}, or take the disk out of" in told


# -- how a recovery ends

RECOVER = """
- hosts: localhost
  gather_facts: false
  environment: {PATH: "{{ test_place }}/bin"}
  tasks:
    - ansible.builtin.import_role: {name: firedrill.postgres.recover}
"""


def recovered(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A recovery that comes as far as the engine of Docker, and there to a file that nobody can remove."""
    host.docker(ANSWERS.replace("ps)", "info) echo 28.1.1 ;;\nps)"))
    (host.place / "recover.yml").write_text(RECOVER, encoding="utf-8")
    settings = host.settings(
        _recover_marker=str(host.place / "state" / "recovering"),
        _docker_source="/proc/version",
        _docker_pin=str(host.place / "pin"),
        firedrill_docker_log_max_size="",
    )
    return played(str(host.place / "recover.yml"), *arguments, "-e", settings)


@pytest.mark.skipif(os.geteuid() != 0, reason="a recovery begins as root")
def test_why_one_of_several_things_failed_is_said(host: Host) -> None:
    told = " ".join(recovered(host).stdout.split())
    assert re.search('stopped at "Take nothing from another release any more": [Uu]nlinking', told)


def test_a_recovery_of_which_a_part_is_left_out_is_none(host: Host) -> None:
    done = recovered(host, "--tags", "recover")
    assert "is back" not in done.stdout
    assert not (host.place / "state").exists()


# -- hosts that go away


def test_a_host_that_goes_away_without_a_word_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>{tmp_path}/asked\nexit 255\n')
    ssh.chmod(0o755)
    (tmp_path / "play.yml").write_text("- {hosts: firedrill, gather_facts: true}\n")
    hosts = inventory_of(tmp_path, firedrill={"pi": {**GONE, "ansible_ssh_executable": str(ssh)}})
    played(str(tmp_path / "play.yml"), *hosts)
    asked = (tmp_path / "asked").read_text().splitlines()
    given = dict(option.split("=", 1) for option in asked if option.startswith("ServerAlive"))
    assert 0 < int(given["ServerAliveInterval"]) * int(given["ServerAliveCountMax"]) <= 300


# -- copies offsite after a backup

COPIES = """#!/bin/sh
printf '%s' "$SAID"
exit "$STATUS"
"""


def copied(place: Path, said: dict[str, object], status: int = 0) -> str:
    """What the role `backup` says when the host's command says that of its copies."""
    program = place / "firedrill"
    values = f"SAID={shlex.quote(json.dumps(said))}\nSTATUS={status}\n"
    program.write_text(COPIES.replace("\n", f"\n{values}", 1), encoding="utf-8")
    program.chmod(0o755)
    settings = {
        "ansible_become": False,
        "_backup_program": str(program),
        "firedrill_offsite": {"nas": {"type": "rsync"}, "bucket": {"type": "rclone"}},
    }
    play = played("backup.yml", "--tags", "offsite", "-e", json.dumps(settings))
    assert (play.returncode == 0) == ("failed=1" not in play.stdout)
    return " ".join(play.stdout.split())


def test_a_target_that_the_host_does_not_know_yet_fails_the_play(tmp_path: Path) -> None:
    nas, bucket = {"target": "nas"}, {"target": "bucket"}
    said = {"msg": "all is offsite", "changed": True, "warnings": []}
    assert "failed=0" in copied(tmp_path, {**said, "targets": [nas, bucket]})
    told = copied(tmp_path, {**said, "targets": [nas]})
    assert "failed=1" in told
    assert "Nothing was copied to bucket: the settings of this host do not have" in told
    assert "provision.yml has to be run again" in told


def test_why_no_copy_could_be_made_is_said_in_the_words_of_the_command(tmp_path: Path) -> None:
    told = copied(tmp_path, {"failed": True, "msg": "There is no offsite target. Nothing."}, 2)
    assert "failed=1" in told
    assert "No set was copied offsite: There is no offsite target. Nothing. The sets" in told
    assert "run provision.yml" in told


# -- what the role `engine` brings and what it keeps

VARIABLES = f"""
- hosts: localhost
  gather_facts: false
  vars_files:
    - {ROOT}/roles/engine/defaults/main.yml
    - {ROOT}/roles/engine/vars/main.yml
  tasks:
    - ansible.builtin.copy: {{content: "{{{{ wanted }}}}", dest: "{{{{ file }}}}", mode: "0600"}}
"""


def computed(place: Path, wanted: str, **settings: object) -> str:
    """A variable of the role, for these settings."""
    (place / "play.yml").write_text(VARIABLES, encoding="utf-8")
    given = {**settings, "wanted": f"{{{{ {wanted} }}}}", "file": str(place / "found")}
    given = {"firedrill_database": "shop", "firedrill_container": "db", **given}
    play = played(str(place / "play.yml"), "-e", json.dumps(given))
    assert play.returncode == 0, play.stdout
    return (place / "found").read_text(encoding="utf-8")


def test_the_programs_of_all_databases_are_installed(tmp_path: Path) -> None:
    found = computed(
        tmp_path,
        "_engine_ciphers | sort | join(' ')",
        firedrill_encryption={"with": "age", "recipients": ["age1x"]},
        firedrill_more_databases={
            "wiki": {"container": "wiki", "encryption": {"with": "gpg", "recipients": ["x"]}},
            "plain": {"container": "plain"},
        },
    )
    assert found == "age gpg"
    assert computed(tmp_path, "_engine_ciphers | length | string") == "0"


def test_files_that_a_configuration_of_rclone_names_are_known(tmp_path: Path) -> None:
    far = "/etc/firedrill/offsite"
    targets = {
        "ours": {
            "type": "rclone",
            "remote": "far:x",
            "config": f"[far]\ntype = sftp\nkey_file = {far}/by_hand.key\n",
            "known_hosts": "nas ssh-ed25519 AAAA",
        },
        "theirs": {"type": "rclone", "remote": "far:y"},
        "named": {"type": "rclone", "remote": "far:z", "config_file": "/root/named.conf"},
    }
    named = computed(tmp_path, "_engine_named", firedrill_offsite=targets)
    assert f"{far}/by_hand.key" in named
    assert f"config_file: {far}/ours.conf" in named
    # It is for the configuration to name, and no setting.
    assert "ours.known_hosts" not in named
    found = computed(tmp_path, "_engine_rclone_files | join(' ')", firedrill_offsite=targets)
    assert found == "/root/.config/rclone/rclone.conf /root/named.conf"


#: The tasks of the role that see to the figures for Prometheus.
FIGURES = (
    "Look where the figures for Prometheus have gone so far",
    "Remove them where no new ones will come",
)


@pytest.mark.parametrize(
    ("known", "wanted", "goes"),
    [
        ("alarms:\n  metrics_dir: {old}\n", {"metrics_dir": "{old}"}, False),
        ("alarms:\n  metrics_dir: {old}\n", {"metrics_dir": "/srv/new"}, True),
        ("alarms:\n  metrics_dir: '{old}'  # ours\n", {}, True),
        ("alarms: {{}}\n", {"metrics_dir": "/srv/new"}, False),
        ("", {}, False),
    ],
)
def test_figures_that_nobody_writes_any_more_go(
    tmp_path: Path, known: str, wanted: dict[str, str], goes: bool
) -> None:
    old = tmp_path / "old figures"
    old.mkdir()
    figures = old / "firedrill.prom"
    figures.write_text("firedrill_problems 0\n", encoding="utf-8")
    settings = tmp_path / "config.yml"
    if known:
        settings.write_text(known.format(old=old), encoding="utf-8")
    text = (ROOT / "roles/engine/tasks/main.yml").read_text(encoding="utf-8")
    tasks = yaml.safe_load(text.replace("/etc/firedrill/config.yml", str(settings)))
    (play,) = yaml.safe_load(VARIABLES)
    play["tasks"] = [task for task in tasks if task["name"] in FIGURES]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    alarms = {key: value.format(old=old) for key, value in wanted.items()}
    given = json.dumps({"firedrill_alarms": alarms})
    looked = played(str(tmp_path / "play.yml"), "--check", "-e", given)
    assert figures.exists()
    done = played(str(tmp_path / "play.yml"), "-e", given)
    assert done.returncode == looked.returncode == 0, done.stdout
    assert figures.exists() != goes
    assert ("changed=1" in looked.stdout) == ("changed=1" in done.stdout) == goes
    if wanted and not goes and known.startswith("alarms:\n"):
        gone = played(
            str(tmp_path / "play.yml"),
            *("-e", given, "-e", "firedrill_state=absent"),
        )
        assert not figures.exists(), gone.stdout


# -- a set from another host: what runs as the user who logs in, and not as root

FROM_HOST = """
- hosts: pi
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact: {_recover_wanted: latest, _recover_known: {}}
    - ansible.builtin.import_role: {name: firedrill.postgres.recover, tasks_from: choose}
    - ansible.builtin.import_role: {name: firedrill.postgres.recover, tasks_from: set}
"""
#: As sudo, but only its options are not the same to it: nobody becomes another one.
BECOME = """#!/bin/sh
printf '%s\\n' "$*" >>{log}
while [ "$1" != /bin/sh ]; do shift; done
exec "$@"
"""


def test_an_inventory_in_which_hosts_become_root_does_not_make_root_of_everybody(
    tmp_path: Path,
) -> None:
    far = tmp_path / "far"
    far.mkdir()
    held = lay_out(far)
    near = tmp_path / "near"
    near.mkdir()
    near.chmod(0o750)
    # What an attempt has left whose connection was lost, and what is of another recovery.
    left = Path(tempfile.mkdtemp(prefix="firedrill-pi-shop-", dir="/var/tmp"))
    other = Path(tempfile.mkdtemp(prefix="firedrill-pi-shop-2-", dir="/var/tmp"))
    become = tmp_path / "become"
    become.write_text(BECOME.format(log=tmp_path / "log"), encoding="utf-8")
    become.chmod(0o755)
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    becomes = {
        "ansible_become": True,
        "ansible_become_user": "nobody",
        "ansible_become_exe": str(become),
    }
    hosts = {"pi": here, "nas": {**here, **becomes}, "localhost": {**here, **becomes}}
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}), encoding="utf-8")
    play = tmp_path / "play.yml"
    play.write_text(FROM_HOST, encoding="utf-8")
    settings = {
        # What runs as another one is then known by the file of its module.
        "ansible_pipelining": False,
        "firedrill_database": "shop",
        "firedrill_dump": "latest",
        "firedrill_dump_host": "nas",
        "firedrill_dump_dir": str(far),
        "firedrill_backup_dir": str(near),
    }
    done = played(str(play), "-i", str(inventory), "-e", json.dumps(settings))
    other.rmdir()
    assert not left.exists()
    assert near.stat().st_mode & 0o7777 == 0o750
    assert "Look whether it came whole" in done.stdout, done.stdout
    # Only root may write for root.
    assert done.returncode == 0 or os.geteuid() != 0, done.stdout
    log = (tmp_path / "log").read_text(encoding="utf-8")
    ran = re.findall(r"AnsiballZ_(\w+)\.py", log)
    # Who logs in is what `id -un` says there, and only what he may read comes to the controller.
    assert "command" not in ran
    assert ran.count("slurp") == 1
    # The private places: one is on the other host, which root makes and removes.
    assert ran.count("tempfile") == 1
    assert ran.count("file") == 2
    assert held.name in " ".join(done.stdout.split())


FROM_CONTROLLER = """
- hosts: lost
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact:
        _recover_known: {}
        _recover_set: "{{ lookup('firedrill.postgres.recovery_set', test_sets, database='shop') }}"
    - ansible.builtin.file: {path: "{{ test_sets }}/{{ test_lost | default('nothing') }}", state: absent}
    - ansible.builtin.import_role: {name: firedrill.postgres.recover, tasks_from: set}
"""


def test_what_a_lost_connection_leaves_of_a_dump_on_the_host_goes(tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    lay_out(sets)
    (tmp_path / "near").mkdir()
    left = Path(tempfile.mkdtemp(prefix="firedrill-lost-shop-", dir="/var/tmp"))
    (left / "ansible-tmp-1").mkdir()
    (left / "ansible-tmp-1" / ".source.dump").write_text("a part of a dump", encoding="utf-8")
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "play.yml").write_text(FROM_CONTROLLER, encoding="utf-8")
    settings = {
        "test_sets": str(sets),
        "firedrill_database": "shop",
        "firedrill_backup_dir": str(tmp_path / "near"),
    }
    hosts = inventory_of(tmp_path, firedrill={"lost": here})
    done = played(str(tmp_path / "play.yml"), *hosts, "-vvv", "-e", json.dumps(settings))
    assert not left.exists()
    # It lies nowhere else on its way, and nothing is left of that.
    ways = re.findall(r"PUT \S+/sets/\S+ TO (\S+)", done.stdout)
    assert len(ways) == 3, done.stdout
    assert all(re.match(r"/var/tmp/firedrill-lost-shop-\w{8}/ansible-tmp-", way) for way in ways)
    assert not list(Path("/var/tmp").glob("firedrill-lost-shop-????????"))
    assert done.returncode == 0 or os.geteuid() != 0, done.stdout


def test_a_set_of_which_a_file_does_not_arrive_is_none_on_the_host(tmp_path: Path) -> None:
    sets, near = tmp_path / "sets", tmp_path / "near"
    sets.mkdir()
    near.mkdir()
    name = lay_out(sets).name
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "play.yml").write_text(FROM_CONTROLLER, encoding="utf-8")
    settings = {
        "test_sets": str(sets),
        "test_lost": f"{name}.dump",
        "firedrill_database": "shop",
        "firedrill_backup_dir": str(near),
    }
    hosts = inventory_of(tmp_path, firedrill={"lost": here})
    done = played(str(tmp_path / "play.yml"), *hosts, "-e", json.dumps(settings))
    assert done.returncode != 0
    assert f"{name}.dump" in " ".join(done.stdout.split())
    assert not (near / f"{name}.json").exists()


# -- hosts that are asked for by --limit

GONE = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_user": "pi"}


def inventory_of(place: Path, **groups: dict[str, object]) -> tuple[str, ...]:
    """Arguments that name an inventory with these groups of hosts."""
    file = place / "inventory.json"
    content = {name: {"hosts": hosts} for name, hosts in groups.items()}
    file.write_text(json.dumps(content), encoding="utf-8")
    return ("-i", str(file))


@pytest.mark.parametrize("limit", ["gone", "no_sudo", "gone:here", ""])
def test_the_table_has_the_hosts_that_were_asked_for(tmp_path: Path, limit: str) -> None:
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    # It fails before anything of the host is asked.
    no_sudo = {**local, "ansible_become": True, "ansible_become_method": "nonsense"}
    hosts = {"gone": GONE, "here": local, "no_sudo": no_sudo}
    # A controller whose user may not become root writes the file all the same.
    others = {"localhost": {**local, "ansible_become": True, "ansible_become_method": "nonsense"}}
    arguments = inventory_of(tmp_path, firedrill=hosts, others=others)
    file = tmp_path / "status.json"
    asked = ("--limit", limit) if limit else ()
    play = played("status.yml", *arguments, *asked, "-e", f"status_file={file}")
    assert play.returncode == 0, play.stdout
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert sorted(row["host"] for row in rows) == sorted(limit.split(":") if limit else hosts)
    assert all(row["problems"] for row in rows)
    assert play.stdout.count("NEWEST SET") == 1


def test_a_limit_that_leaves_no_host_is_no_success(tmp_path: Path) -> None:
    arguments = inventory_of(tmp_path, firedrill={"pi4": GONE}, others={"pi9": GONE})
    refused = played("drill.yml", *arguments, "--limit", "pi9")
    told = " ".join(refused.stdout.split())
    assert refused.returncode != 0, told
    assert '`--limit pi9` leaves none of the hosts in "firedrill"' in told
    assert "so nothing was done" in told
    # One that leaves a host goes on to it, whatever else it names.
    reached = played("drill.yml", *arguments, "--limit", "pi9,pi4")
    assert "fatal: [pi4]" in reached.stdout
    assert "leaves none" not in reached.stdout


BACK = f"""
- hosts: pi4
  gather_facts: false
  vars_files: [{ROOT}/roles/restore/vars/main.yml]
  tasks:
    - ansible.builtin.debug: {{msg: "Back: {{{{ _restore_back }}}}"}}
"""


@pytest.mark.parametrize(
    ("done", "command"),
    [
        ({"previous": "shop_before"}, "firedrill.postgres.rollback --limit pi4"),
        ({"safety_set": "shop_1"}, "firedrill.postgres.restore -e dump=shop_1 --limit pi4"),
    ],
)
def test_the_way_back_is_that_of_one_host(
    tmp_path: Path, done: dict[str, str], command: str
) -> None:
    (tmp_path / "play.yml").write_text(BACK, encoding="utf-8")
    arguments = inventory_of(tmp_path, firedrill={"pi4": GONE, "pi5": GONE})
    given = json.dumps({"_restore_done": done})
    play = played(str(tmp_path / "play.yml"), *arguments, "-e", given)
    assert f"Back: {command}" in " ".join(play.stdout.split())


@pytest.mark.parametrize("playbook", ["restore.yml", "rollback.yml"])
def test_several_hosts_are_not_restored_or_rolled_back_by_accident(
    tmp_path: Path, playbook: str
) -> None:
    arguments = inventory_of(tmp_path, firedrill={"pi4": GONE, "pi5": GONE})
    refused = played(playbook, *arguments)
    told = " ".join(refused.stdout.split())
    assert refused.returncode != 0
    assert "Which host? Nothing was touched. These are 2 (pi4, pi5)" in told
    assert "Swap the database back" not in told
    assert "Look whether the last restore" not in told
    for meant in (("--limit", "pi4"), ("-e", "all_hosts=true"), ("--check",)):
        play = played(playbook, *arguments, *meant)
        # It goes on to the role, which misses the name of the database.
        assert "Which host?" not in play.stdout
        assert "firedrill_database" in play.stdout


# -- the cron table


def run_by_cron(place: Path) -> list[str]:
    """Runs each line of the table as cron would, and gives what the command was called with."""
    template = ROOT / "roles" / "schedule" / "templates" / "cron.j2"
    settings = {
        "_schedule_backup": ["02", "00"],
        "_schedule_drill": ["03", "30"],
        "_schedule_catch_up": 27,
        "firedrill_drill_day": 1,
    }
    table = Template(template.read_text(encoding="utf-8")).render(**settings)
    program = place / "firedrill"
    program.write_text(f'#!/bin/sh\necho said "$@"\necho "$@" >>{place}/called\n', encoding="utf-8")
    program.chmod(0o755)
    table = table.replace("/usr/local/bin/firedrill", str(program))
    table = table.replace("/var/log/firedrill", str(place / "log"))
    # Who tests need not be root.
    table = table.replace("-o root -g adm", f"-o {os.geteuid()} -g {os.getegid()}")
    values: dict[str, str] = {}
    (place / "called").write_text("", encoding="utf-8")
    for line in table.splitlines():
        assert len(line) < 1000
        if found := re.match(r"([A-Z]+)=(.*)", line):
            values[found[1]] = found[2]
        elif found := re.match(r"(?:@reboot|(?:\S+ ){4}\S+) root (.*)", line):
            # cron makes a line break of it.
            assert "%" not in found[1]
            subprocess.run([values["SHELL"], "-c", found[1]], env=values, check=True)
    return (place / "called").read_text(encoding="utf-8").splitlines()


CALLED = ["due", "due", "due", "settle --wait 600", "due"]


def test_cron_writes_to_the_log_and_makes_its_directory_anew(tmp_path: Path) -> None:
    for number in (1, 2):
        assert run_by_cron(tmp_path) == CALLED
        said = (tmp_path / "log" / "backup.log").read_text(encoding="utf-8").splitlines()
        assert said == [f"said {words}" for words in CALLED] * number
    assert (tmp_path / "log").stat().st_mode & 0o7777 == 0o750


def test_cron_runs_the_command_where_there_can_be_no_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no directory\n", encoding="utf-8")
    assert run_by_cron(tmp_path) == CALLED


# -- an engine that is not of the distribution, and does not answer

ENGINE = """
- hosts: localhost
  gather_facts: false
  environment: {PATH: "{{ test_place }}/bin"}
  tasks:
    - ansible.builtin.include_role: {name: firedrill.postgres.docker_host, tasks_from: "{{ test_tasks }}"}
    - ansible.builtin.debug: {msg: "It goes on"}
"""
#: It answers once it was started, when that is possible.
ANSWERS_LATER = """#!/bin/sh
if [ -e "$PLACE/started" ]; then echo 28.1.1; else echo 'Cannot connect. Is it running?' >&2; exit 1; fi
"""
STARTS = """#!/bin/sh
[ "$1" = start ] || exit 0
echo "$*" >>"$PLACE/asked"
[ -n "$STARTS" ] && : >"$PLACE/started"
"""
PACKAGES = """#!/bin/sh
printf "$PACKAGES"
exit 1
"""


class Engine:
    """A host with Docker programs and packages, none of them real."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "bin").mkdir()
        (place / "bin" / "timeout").symlink_to(str(shutil.which("timeout")))
        (place / "play.yml").write_text(ENGINE, encoding="utf-8")

    def has(self, name: str, script: str, **values: str) -> None:
        given = {"PLACE": str(self.place), **values}
        lines = "".join(f"{key}={shlex.quote(value)}\n" for key, value in given.items())
        program = self.place / "bin" / name
        program.write_text(script.replace("\n", f"\n{lines}", 1), encoding="utf-8")
        program.chmod(0o755)

    def has_docker(self, packages: str, daemon: bool, starts: str) -> None:
        self.has("docker", ANSWERS_LATER)
        self.has("systemctl", STARTS, STARTS=starts)
        self.has("dpkg-query", PACKAGES, PACKAGES=packages)
        if daemon:
            self.has("dockerd", "#!/bin/sh\n")

    def played(self, tasks: str, *arguments: str, **more: str) -> str:
        settings = {
            "test_place": str(self.place),
            "test_tasks": tasks,
            "firedrill_docker_log_max_size": "",
            "_docker_daemons": [str(self.place / "bin" / "dockerd")],
            "_docker_source": str(self.place / "source"),
            "_docker_pin": str(self.place / "pin"),
            **more,
        }
        play = played(str(self.place / "play.yml"), *arguments, "-e", json.dumps(settings))
        told = " ".join(play.stdout.split())
        assert ("It goes on" in told) == (play.returncode == 0), told
        return told

    def was_asked_to_start(self) -> bool:
        return (self.place / "asked").exists()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.mark.parametrize(
    ("packages", "daemon"),
    [
        (r"docker-ce installed\n", True),
        (r"docker-ce half-configured\ndocker.io config-files\n", False),
        ("", True),
    ],
)
def test_an_engine_of_somebody_else_that_does_not_start_is_not_replaced(
    engine: Engine, packages: str, daemon: bool
) -> None:
    engine.has_docker(packages, daemon, starts="")
    told = engine.played("other")
    assert engine.was_asked_to_start()
    name = "docker-ce" if packages else f"{engine.place}/bin/dockerd"
    assert f"This host has a Docker engine of its own ({name})" in told
    assert "does not answer (Cannot connect. Is it running?)" in told
    assert "Nothing was installed or changed" in told
    assert "systemctl status docker" in told


def test_an_engine_of_somebody_else_that_was_stopped_is_started(engine: Engine) -> None:
    engine.has_docker(r"docker-ce installed\n", daemon=True, starts="yes")
    told = engine.played("other")
    assert "changed=1" in told
    assert engine.was_asked_to_start()


@pytest.mark.parametrize(
    ("packages", "daemon"),
    [
        (r"docker.io installed\n", True),
        (r"docker.io half-configured\n", True),
        (r"docker-ce config-files\n", False),
    ],
)
def test_no_engine_and_that_of_the_distribution_are_left_to_what_installs_it(
    engine: Engine, packages: str, daemon: bool
) -> None:
    engine.has_docker(packages, daemon, starts="yes")
    engine.played("other")
    assert not engine.was_asked_to_start()


def test_check_mode_starts_no_engine_and_would_install_none(engine: Engine) -> None:
    engine.has_docker(r"docker-ce installed\n", daemon=True, starts="yes")
    told = engine.played("main", "--check")
    assert not engine.was_asked_to_start()
    assert "would be started" in told
    assert "Install the packages" not in told


# -- Compose from another release of Debian

SOURCES = """#!/bin/sh
printf '%s' "$SOURCES"
"""
FOUNDATION = "http://archive.raspberrypi.com/debian main Raspberry Pi Foundation\n"
RASPBIAN = "http://raspbian.raspberrypi.com/raspbian main Raspbian\n"
DEBIAN = "http://far/debian-security main Debian\nhttp://near/debian main Debian\n"


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (RASPBIAN + FOUNDATION, "but from Raspbian, Raspberry Pi Foundation, as 32-bit"),
        (FOUNDATION + DEBIAN, "deb http://near/debian trixie main"),
        # Lists of packages are not there yet.
        ("http://near/debian main \n", "deb http://deb.debian.org/debian trixie main"),
    ],
)
def test_a_host_that_takes_nothing_from_debian_takes_no_compose_from_there(
    engine: Engine, sources: str, said: str
) -> None:
    engine.has("apt-get", SOURCES, SOURCES=sources)
    release = {"firedrill_docker_compose_release": "trixie"}
    told = engine.played("compose", "--check", "--diff", **release)
    assert said in told
    assert ("It goes on" in told) == ("deb " in said)
    assert ("upgraded to trixie, remove" in told) == ("deb " in said)


@pytest.mark.parametrize(
    ("release", "of", "stays"),
    [("trixie", "bookworm", True), ("trixie", "trixie", False), ("", "bookworm", False)],
)
def test_what_would_keep_a_host_from_an_upgrade_goes_when_it_is_not_wanted(
    engine: Engine, release: str, of: str, stays: bool
) -> None:
    engine.has("docker", ANSWERS_LATER)
    engine.has("systemctl", "#!/bin/sh\n")
    (engine.place / "started").touch()
    files = [engine.place / "source", engine.place / "pin"]
    for file in files:
        file.touch()
    given = {"firedrill_docker_compose_release": release, "_docker_codename": of}
    told = engine.played("main", "--check", **given)
    assert all(file.exists() for file in files)
    assert ("changed=0" in told) == stays
    told = engine.played("main", **given)
    assert [file.exists() for file in files] == [stays, stays]
    assert ("changed=0" in told) == stays
    assert "changed=0" in engine.played("main", **given)
