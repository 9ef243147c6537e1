# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which ping a run has earned: a success only for what was verified, a failure only for what failed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    cli,
    clock,
    monitor,
    run,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.alarms import Alarms, Told
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import (
    Attempts,
    failures_noted,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import (
    Section,
    load_config,
    parse_config,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import set_details
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    BusyError,
    HostError,
    ToolError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import (
    CONFIRMED,
    Copy,
    Ledger,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report, iso
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.monitor import (
    Monitor,
    _verdict,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.notices import Address
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.offsite import NOT_OFFSITE
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.outcomes import (
    ENVIRONMENT,
    Outcome,
    failure,
    success,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recovery_set import (
    load_set,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.schedule import Schedule
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.status import status_rows

BUSY, FAILED = failure(BusyError("another run works on it")), failure(HostError("no disk"))


def backup_of(directory: Path, method: str = "", rows: int = 7) -> Report:
    """The report of a backup that has made a set with so many rows."""
    manifest = lay_out(directory, method, rows=rows)
    details = set_details(load_set(directory / manifest.dump.name))
    return Report("backup", changed=True, msg="made", database="shop", details=details)


@pytest.mark.parametrize("method", ["", "age", "gpg"])
@pytest.mark.parametrize(("rows", "kind"), [(7, ""), (0, "fail")])
def test_a_backup_with_rows_is_a_success_and_one_without_any_is_none_encrypted_or_not(
    tmp_path: Path, method: str, rows: int, kind: str
) -> None:
    earned, words = _verdict(success(backup_of(tmp_path, method, rows)))
    assert (earned, "no row" in words) == (kind, not rows)


@pytest.mark.parametrize("job", ["backup", "drill"])
def test_a_run_that_another_one_keeps_from_its_turn_is_no_failure(job: str) -> None:
    assert earned(section(), [(job, BUSY)]) == ({job: "log"}, "")
    assert earned(section(), [(job, FAILED)]) == ({job: "fail"}, "")


def test_a_failure_is_noted_and_sent_as_others_may_hear_it(tmp_path: Path) -> None:
    backup_of(tmp_path, "age")
    error = ToolError("pg_dump failed at table patients", told="It failed")
    with pytest.raises(ToolError), failures_noted(tmp_path, "shop"):
        raise error
    attempt = Attempts(tmp_path, "shop").latest("dump")
    assert attempt
    assert attempt.msg == "It failed"
    outcome = failure(error)
    assert "patients" in outcome.error
    assert "patients" in outcome.document["msg"]
    assert _verdict(outcome) == ("fail", "It failed")


# -- offsite copies --------------------------------------------------------------------------------


def section(*targets: str, directory: Path = Path("/b")) -> Section:
    """One database with offsite targets of those names."""
    content = {
        "backup_dir": str(directory),
        "databases": {"shop": {"container": "c"}},
        "offsite": {name: {"type": "rclone", "remote": f"{name}:x"} for name in targets},
    }
    return parse_config(content, Path("/c.yml")).sections["shop"]


def earned(
    of: Section, runs: list[tuple[str, Outcome]], owed: str = ""
) -> tuple[dict[str, str], str]:
    """The kind of each job's ping after runs, and the success that still waits for copies."""
    monitor = Monitor(Alarms(), [of], None, [of])
    for action, outcome in runs:
        monitor.ended(action, of.name, outcome)
    pings, waits, unused_set = monitor._earned(of, Told(owed=owed, owed_set=SET))
    return {job: kind for job, (kind, unused_words) in pings.items()}, waits


def ended(action: str, verdict: str = "", set_name: str = "") -> Outcome:
    msg = f"{action} done"
    return success(Report(action, changed=True, msg=msg, verdict=verdict, set_name=set_name))


SET = "shop_20260219_020000"
MADE, COPIED = ended("backup", set_name=SET), ended("copy")
NOT_COPIED = ended("copy", NOT_OFFSITE)


def copied(directory: Path, name: str = SET, target: str = "nas") -> None:
    """A target has a set, and everything else."""
    ledger = Ledger(directory, "shop")
    ledger.note(name, target, Copy(CONFIRMED, iso(RIGHT)))
    ledger.succeeded(target, RIGHT)


@pytest.mark.parametrize("last", [COPIED, NOT_COPIED, BUSY])
def test_the_success_of_a_backup_waits_for_its_copies_whatever_becomes_of_them(
    last: Outcome, tmp_path: Path
) -> None:
    place = section("nas", directory=tmp_path)
    pings, owed = earned(place, [("backup", MADE)])
    assert (pings, owed) == ({"backup": "log"}, "backup done")
    if last is COPIED:
        copied(tmp_path)
    later, still = earned(place, [("copy", last)], owed)
    expected = {id(COPIED): {"backup": ""}, id(NOT_COPIED): {"backup": "fail"}, id(BUSY): {}}
    assert later == expected[id(last)]
    assert still == ("" if last is COPIED else owed)


def test_backup_and_copies_in_one_run_earn_one_ping(tmp_path: Path) -> None:
    place = section("nas", directory=tmp_path)
    assert earned(place, [("backup", MADE), ("copy", NOT_COPIED)]) == (
        {"backup": "fail"},
        "backup done",
    )
    copied(tmp_path)
    assert earned(place, [("backup", MADE), ("copy", COPIED)]) == ({"backup": ""}, "")


def test_copies_of_older_sets_are_no_success_of_a_backup_that_was_made_meanwhile(
    tmp_path: Path,
) -> None:
    """They were begun before it, and end after it."""
    place = section("nas", "friend", directory=tmp_path)
    for target in ("nas", "friend"):
        copied(tmp_path, "shop_20260218_020000", target)
    assert earned(place, [("copy", COPIED)], "made") == ({}, "made")
    copied(tmp_path, SET, "nas")
    assert earned(place, [("copy", COPIED)], "made") == ({}, "made")
    copied(tmp_path, SET, "friend")
    assert earned(place, [("copy", COPIED)], "made") == ({"backup": ""}, "")


def test_copies_that_another_made_are_a_success_when_the_target_lacks_nothing(
    tmp_path: Path,
) -> None:
    place = section("nas", directory=tmp_path)
    copied(tmp_path)
    Ledger(tmp_path, "shop").failed("nas", "no room", RIGHT)
    assert earned(place, [], "made") == ({}, "made")
    Ledger(tmp_path, "shop").succeeded("nas", RIGHT)
    assert earned(place, [], "made") == ({"backup": ""}, "")


def test_without_targets_a_backup_is_a_success_by_itself() -> None:
    assert earned(section(), [("backup", MADE)]) == ({"backup": ""}, "")


def test_copies_of_older_sets_earn_nothing_where_no_success_waits() -> None:
    assert earned(section("nas"), [("copy", COPIED)]) == ({}, "")
    assert earned(section("nas"), [("copy", NOT_COPIED)]) == ({}, "")


def test_a_failed_backup_takes_the_success_back_that_waited_and_a_busy_one_does_not() -> None:
    assert earned(section("nas"), [("backup", FAILED)], "made") == ({"backup": "fail"}, "")
    assert earned(section("nas"), [("backup", BUSY)], "made") == ({"backup": "log"}, "made")


# -- telling ---------------------------------------------------------------------------------------

UNSET = datetime(1970, 1, 1, 0, 2, tzinfo=timezone.utc)
RIGHT = datetime(2026, 2, 19, 12, 0, tzinfo=timezone.utc)


class Host:
    """A host with one database, whose newest set is four days old; `messages` is what people were told."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.messages: list[str] = []
        self.figures = home / "firedrill.prom"
        self.sets = home / "sets"
        self.sets.mkdir()
        lay_out(self.sets, created=RIGHT - timedelta(days=4))
        self.settings = home / "config.yml"
        content = {
            "backup_dir": str(self.sets),
            "databases": {"shop": {"container": "c"}},
            "alarms": {"apprise_urls": ["json://localhost"], "metrics_dir": str(home)},
        }
        self.settings.touch(mode=0o600)
        self.settings.write_text(json.dumps(content))
        (home / "schedule.yml").write_text('backup: "02:00"\ndrill: {day: 1, time: "03:30"}\n')
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        monkeypatch.setattr(run, "RUNTIME_DIRECTORY", home / "run")
        monkeypatch.setattr(run, "_require_root", lambda: None)
        monkeypatch.setattr(clock, "uptime_s", lambda: 1e6)
        monkeypatch.setattr(monitor, "notify", lambda *words: self.messages.append(words[-1]))
        self.shows(RIGHT)

    def shows(self, now: datetime) -> None:
        """What the clock shows from now on."""
        for module in (clock, monitor):
            self._monkeypatch.setattr(module, "utc_now", lambda: now)

    def monitor(self) -> Monitor:
        config = load_config(self.settings)
        sections = list(config.sections.values())
        return Monitor(config.alarms, sections, Schedule(), sections)

    def section(self) -> Section:
        return load_config(self.settings).sections["shop"]

    def heard(self) -> list[str]:
        """The messages since the last time."""
        messages, self.messages[:] = self.messages[:], []
        return messages

    def told(self) -> set[str]:
        return {key for keys in Told.read(self.sets, "shop").problems.values() for key in keys}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_a_clock_that_is_not_set_is_told_once_and_no_problem_is_over_by_it(host: Host) -> None:
    assert host.monitor().close() == []
    (first,) = host.heard()
    assert "no backup since" in first
    before = host.told()
    assert {"backup-missing", "no-drill"} < before
    host.shows(UNSET)
    host.monitor().close()
    (message,) = host.heard()
    assert "the clock says 1970-01-01T00:02:00Z: it is not set" in message
    assert "Over" not in message
    host.monitor().close()
    assert host.heard() == []
    assert host.told() == {*before, "clock"}
    host.shows(RIGHT)
    host.monitor().close()
    (message,) = host.heard()
    assert "Over: 1 of those" in message
    assert host.told() == before


def test_the_figures_of_a_clock_that_is_not_set_hold_no_time_of_it(host: Host) -> None:
    host.monitor().close()
    right = host.figures.read_text().splitlines()
    host.shows(UNSET)
    host.monitor().close()
    figures = host.figures.read_text()
    assert "firedrill_checked_timestamp_seconds" not in figures
    (made,) = (line for line in right if line.startswith("firedrill_last_success_timestamp"))
    assert made in figures
    assert 'firedrill_problems{name="shop",database="shop"} 0' not in figures


def test_the_schedule_that_begins_nothing_since_no_clock_is_set_tells_so(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.shows(UNSET)
    status = cli.main(["--config", str(host.settings), "due"])
    assert status == ENVIRONMENT
    assert "Nothing was begun, since the clock says 1970" in capsys.readouterr().err
    (message,) = host.heard()
    assert "it is not set" in message
    assert host.figures.exists()


def test_a_message_that_is_lost_while_no_clock_is_set_is_lost_at_no_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*unused: object) -> None:
        raise HostError("it is lost")

    host.shows(UNSET)
    monkeypatch.setattr(monitor, "notify", lose)
    host.monitor().close()
    assert Told.read(host.sets, "shop").lost == "while the clock was not set: it is lost"


def test_one_address_that_fails_makes_no_other_hear_it_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(host.settings.read_text())
    content["alarms"]["apprise_urls"] = ["json://bad-secret", "json://good"]
    content["alarms"]["apprise_config"] = "/etc/more"
    host.settings.write_text(json.dumps(content))
    heard: list[str] = []

    def deliver(address: Address, title: str, body: str) -> None:
        if "bad" in address.url:
            raise HostError(f"The message was not delivered to {address.label}")
        heard.append(address.url or str(address.config))

    monkeypatch.setattr(monitor, "notify", deliver)
    (warning,) = host.monitor().close()
    assert "address 1 of apprise_urls" in warning
    assert heard == ["json://good", "/etc/more"]
    host.monitor().close()
    assert heard == ["json://good", "/etc/more"]
    (row,) = status_rows([host.section()], Schedule(), RIGHT)
    assert "not delivered to address 1 of apprise_urls" in " ".join(row["problems"])
    assert "bad-secret" not in (host.sets / "shop.alarms").read_text()
    # It works again, and gets what it has missed, alone.
    content["alarms"]["apprise_urls"] = ["json://now-well", "json://good"]
    host.settings.write_text(json.dumps(content))
    assert host.monitor().close() == []
    assert heard == ["json://good", "/etc/more", "json://now-well"]
    (row,) = status_rows([host.section()], Schedule(), RIGHT)
    assert "not delivered" not in " ".join(row["problems"])


@pytest.mark.parametrize("job", ["backup", "drill"])
def test_while_a_failed_run_is_tried_again_nothing_is_over(host: Host, job: str) -> None:
    attempts = Attempts(host.sets, "shop")
    slot = RIGHT - timedelta(hours=10)
    attempts.begin(job, slot, slot)
    attempts.end(job, "the disk answers")
    host.monitor().close()
    assert f"the {job} of 2026-02-19T02:00:00Z failed: the disk answers" in host.heard()[0]
    for later in (slot, slot + timedelta(days=1)):
        attempts.begin(job, later, RIGHT)
        host.monitor().close()
        assert host.heard() == []
        (row,) = status_rows([host.section()], Schedule(), RIGHT)
        words = f"the {job} failed before (the disk answers), the one of 2026-02-19T12:00:00Z has"
        assert words in " ".join(row["problems"])
    attempts.end(job)
    host.monitor().close()
    assert "Over: 1" in host.heard()[0]


def test_a_success_that_could_not_be_delivered_is_not_sent_as_that_of_the_next_run(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(host.settings.read_text())
    content["databases"]["shop"]["ping_url"] = "http://127.0.0.1:1/x"
    host.settings.write_text(json.dumps(content))
    host.monitor().close()
    told = Told.read(host.sets, "shop")
    replace(told, pings={"backup": ("", "made")}).write(host.sets, "shop")
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(monitor, "ping", lambda url, *one: sent.append(one))
    attempts = Attempts(host.sets, "shop")
    attempts.begin("backup", RIGHT, RIGHT)
    host.monitor().close()
    assert sent == []
    attempts.end("backup")
    host.monitor().close()
    assert sent == [("", "made")]
    host.monitor().close()
    assert len(sent) == 1


@pytest.fixture
def pings(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The pings of a host with an offsite target, each with the last part of its URL and its kind."""
    content = json.loads(host.settings.read_text())
    for job in ("ping_url", "drill_ping_url"):
        content["databases"]["shop"][job] = f"http://127.0.0.1:1/{job}"
    content["offsite"] = {"nas": {"type": "rclone", "remote": "nas:x"}}
    host.settings.write_text(json.dumps(content))
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(
        monitor, "ping", lambda url, kind, body: sent.append((url.rpartition("/")[2], kind))
    )
    return sent


def test_what_has_ended_is_told_before_copies_are_made_which_may_take_days(
    host: Host, pings: list[tuple[str, str]]
) -> None:
    first = host.monitor()
    first.ended("backup", "shop", MADE)
    first.ended("drill", "shop", ended("drill", "backup_bad"))
    first.begin("copy", "shop")
    assert pings == [("ping_url", "log"), ("drill_ping_url", "fail")]
    assert host.heard() == []
    # The next night's backup fails meanwhile, and what is said after it is no success of the night before.
    second = host.monitor()
    second.ended("backup", "shop", FAILED)
    second.close()
    copied(host.sets)
    first.ended("copy", "shop", COPIED)
    first.close()
    assert pings[2:] == [("ping_url", "fail")]


def test_the_success_of_the_night_follows_the_copies_of_that_night(
    host: Host, pings: list[tuple[str, str]]
) -> None:
    first, second = host.monitor(), host.monitor()
    first.begin("copy", "shop")
    second.ended("backup", "shop", MADE)
    second.close()
    first.ended("copy", "shop", COPIED)
    first.close()
    assert pings == [("ping_url", "log")]
    third = host.monitor()
    third.begin("copy", "shop")
    copied(host.sets)
    third.ended("copy", "shop", COPIED)
    third.close()
    assert pings[1:] == [("ping_url", "")]
    host.monitor().close()
    assert len(pings) == 2


@pytest.fixture
def turn(host: Host) -> Iterator[threading.Event]:
    """Another run tells, until the event."""
    over, begun = threading.Event(), threading.Event()

    def tell() -> None:
        with run.telling(0):
            begun.set()
            over.wait(60)

    other = threading.Thread(target=tell)
    other.start()
    assert begun.wait(60)
    yield over
    over.set()
    other.join()


def test_who_tells_waits_until_another_has_told(host: Host, turn: threading.Event) -> None:
    mine = threading.Thread(target=host.monitor().close)
    mine.start()
    time.sleep(0.3)
    assert not host.figures.exists()
    turn.set()
    mine.join()
    assert host.figures.exists()
    assert len(host.heard()) == 1


@pytest.mark.usefixtures("turn")
def test_one_that_tells_without_end_is_named_and_not_waited_for_longer(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_TURN_S", 0.2)
    (warning,) = host.monitor().close()
    assert "Another run is telling others: `firedrill`, process" in warning
    assert (host.heard(), host.figures.exists()) == ([], False)
