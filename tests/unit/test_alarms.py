# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Alarms: one message for each change, none in between, and figures that Prometheus can read."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from recovery_sets import lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import metrics
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.alarms import (
    Told,
    notice_of,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.attempts import Attempts
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import (
    load_config,
    parse_config,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import ConfigError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.ledger import Ledger
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Problem,
    utc_now,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.report import LOG_NAME
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.status import standings

PROBLEMS = st.lists(
    st.builds(Problem, st.sampled_from(["a", "b", "c"]), st.text(max_size=5)),
    unique_by=lambda problem: problem.key,
)
OLD, NEW = Problem("backup-missing", "no backup for 27 h"), Problem("no-drill", "no drill")


def told_after(told: tuple[str, ...], problems: list[Problem]) -> tuple[str, ...]:
    """What people know after a run."""
    if notice_of(told, problems, name="shop", host="pi4") is None:
        return told
    return tuple(problem.key for problem in problems)


#: A busy machine is no failure.
in_its_own_time = settings(deadline=None)


@in_its_own_time
@given(PROBLEMS)
def test_what_was_said_once_is_not_said_again(problems: list[Problem]) -> None:
    told = told_after((), problems)
    assert notice_of(told, problems, name="shop", host="pi4") is None


@in_its_own_time
@given(st.lists(PROBLEMS, max_size=8))
def test_there_is_a_message_exactly_when_something_changed(history: list[list[Problem]]) -> None:
    told: tuple[str, ...] = ()
    for problems in history:
        notice = notice_of(told, problems, name="shop", host="pi4")
        assert (notice is not None) == ({problem.key for problem in problems} != set(told))
        told = told_after(told, problems)


def test_all_is_well_from_the_start_is_no_message() -> None:
    assert notice_of((), [], name="shop", host="pi4") is None


def test_a_problem_that_only_has_other_words_is_the_same_one() -> None:
    told = told_after((), [OLD])
    older = replace(OLD, words="no backup for 28 h")
    assert notice_of(told, [older], name="shop", host="pi4") is None


def test_a_new_problem_beside_an_old_one_is_told_first() -> None:
    notice = notice_of((OLD.key,), [OLD, NEW], name="shop", host="pi4")
    assert notice
    assert notice.body.startswith("- no drill\n\nAs before:\n- no backup for 27 h\n")
    assert notice.title == "firedrill: shop on pi4 has 2 problems"


def test_two_problems_of_one_kind_are_both_told() -> None:
    two = [Problem("incomplete-set", f"{name} is not complete") for name in ("one", "two")]
    notice = notice_of((), two, name="shop", host="pi4")
    assert notice
    assert notice.body.startswith("- one is not complete\n- two is not complete\n")


def test_an_outage_is_told_once_for_each_target_whatever_the_far_end_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    now = utc_now()
    lay_out(tmp_path, created=now - timedelta(days=4))
    targets = {name: {"type": "rclone", "remote": f"{name}:x"} for name in ("nas1", "nas2")}
    content = {**settings(offsite=targets), "backup_dir": str(tmp_path)}
    section = parse_config(content, Path("/c.yml")).sections["shop"]
    ledger, attempts = Ledger(tmp_path, "shop"), Attempts(tmp_path, "shop")

    def message(down: str, why: str, hours: float) -> str:
        """What is told of a try that could not reach a target."""
        nonlocal told
        moment = now + timedelta(hours=hours)
        ledger.failed(down, why, moment)
        attempts.fail("backup", moment, f"the disk answers {why}")
        (found,) = standings([section], None, moment)
        notice = notice_of(told, found.problems, name="shop", host="pi4")
        told = tuple(problem.key for problem in found.problems)
        return notice.body if notice else ""

    told: tuple[str, ...] = ()
    first = message("nas1", "No route to host", 0)
    assert "nas1 fails since" in first
    assert "the disk answers" in first
    later = ("Connection timed out", "i/o timeout: dial", "RequestID QX7ZKBGYF", "")
    assert [message("nas1", why, hours) for hours, why in enumerate(later, 1)] == [""] * 4
    second = message("nas2", "No route to host", 6)
    assert (
        second.index("nas2 fails since") < second.index("As before:") < second.index("nas1 fails")
    )


def test_a_drill_that_breaks_another_promise_is_another_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    section = parse_config(settings(), Path("/c.yml")).sections["shop"]
    section = replace(section, directory=tmp_path)

    def problems(day: int, promise: str, reason: str) -> set[str]:
        check = {"kind": "assertion", "name": promise, "status": "failed", "reason": reason}
        entry = {"action": "drill", "database": "shop", "verdict": "backup_bad", "checks": [check]}
        with (tmp_path / LOG_NAME).open("a") as log:
            log.write(json.dumps({**entry, "at": f"2026-02-{day:02}T03:30:00Z"}) + "\n")
        (found,) = standings([section], None, utc_now())
        assert any(f"{promise}: {reason}" in problem.words for problem in found.problems)
        return {problem.key for problem in found.problems}

    first = problems(1, "ten rows", "it is 9")
    assert problems(2, "ten rows", "the server closed the connection") == first
    assert problems(3, "all paid", "it is 9") != first


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [("backup_bad", "its dump is damaged"), ("environment", "there is no room on this host")],
)
def test_what_ended_a_drill_before_any_check_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, reason: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    section = replace(parse_config(settings(), Path("/c.yml")).sections["shop"], directory=tmp_path)
    entry = {"action": "drill", "database": "shop", "verdict": verdict, "checks": []}
    at = "2026-02-01T03:30:00Z"
    (tmp_path / LOG_NAME).write_text(json.dumps({**entry, "at": at, "reason": reason}) + "\n")
    (found,) = standings([section], None, utc_now())
    assert any(reason in problem.words for problem in found.problems)


def test_the_end_of_the_last_problem_is_told() -> None:
    notice = notice_of(("x",), [], name="shop", host="pi4")
    assert notice
    assert notice.title == "firedrill: shop on pi4 is well again"


def test_what_was_told_survives_the_run_and_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    told = Told({"x": ("a",)}, {"backup": ("fail", "why")}, "made", "since then: why", "shop_1")
    told.write(tmp_path, "odd name/$(x)")
    assert Told.read(tmp_path, "odd name/$(x)") == told
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    for text in ("", "[1]", '{"problems": 3, "pings": [], "lost": null}', "\0"):
        file.write_text(text)
        assert Told.read(tmp_path, "odd name/$(x)") == Told()


# -- figures ---------------------------------------------------------------------------------------

ROW: dict[str, Any] = {
    "name": 'odd "name" \\ with\nbreaks',
    "database": "shop",
    "checked_at": "2026-02-19T12:00:00Z",
    "newest_set": {"created_at": "2026-02-19T02:00:00Z", "bytes": 123, "took_s": 4.5},
    "last_drill": {"verdict": "backup_bad", "at": "2026-02-18T03:30:00Z"},
    "last_pass_at": "2026-01-18T03:30:00Z",
    "rto_s": None,
    "offsite": [
        {"target": 'a "nas"', "newest_confirmed": {"created_at": "2026-02-18T02:00:00Z"}},
        {"target": "far", "newest_confirmed": None},
        {"target": "old", "newest_confirmed": {"created_at": ""}},
    ],
    "sets": 7,
    "sets_bytes": 1000,
    "free_bytes": 5,
    "problems": ["one"],
}


def samples(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(metrics.render(rows))
    return {
        (
            sample.name,
            list(sample.labels.values())[-1 if len(sample.labels) > 2 else 0],
        ): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_figures_are_read_by_prometheus_parser_whatever_the_names_are() -> None:
    found = samples([ROW])
    name = ROW["name"]
    assert found["firedrill_last_success_timestamp_seconds", name] == 1771466400
    assert found["firedrill_last_verified_restore_timestamp_seconds", name] == 1768707000
    assert found["firedrill_dump_duration_seconds", name] == 4.5
    assert found["firedrill_problems", name] == 1
    assert found["firedrill_drill_verdict", "backup_bad"] == 1
    assert found["firedrill_drill_verdict", "pass"] == 0
    copies = {key: value for key, value in found.items() if "last_copy" in key[0]}
    assert copies == {("firedrill_last_copy_timestamp_seconds", 'a "nas"'): 1771380000}
    assert ("firedrill_restore_duration_seconds", name) not in found


def test_a_database_without_a_set_has_no_success() -> None:
    bare = {"name": "x", "newest_set": None, "last_drill": None, "problems": ["no set"]}
    assert samples([bare]) == {("firedrill_problems", "x"): 1}


def test_the_file_of_figures_is_replaced_whole_and_anybody_may_read_it(tmp_path: Path) -> None:
    metrics.write(tmp_path, [ROW])
    metrics.write(tmp_path, [{**ROW, "sets": 8}])
    (file,) = tmp_path.iterdir()
    assert file.name == "firedrill.prom"
    assert file.stat().st_mode & 0o777 == 0o644
    assert "\nfiredrill_sets{" in file.read_text()


# -- settings --------------------------------------------------------------------------------------


def settings(**more: Any) -> dict[str, Any]:
    return {
        "backup_dir": "/b",
        "databases": {"shop": {"container": "c", **more.pop("shop", {})}},
        **more,
    }


def test_a_url_of_pings_is_taken_for_each_job() -> None:
    config = parse_config(
        settings(shop={"ping_url": "https://hc.example/a"}), Path("/etc/firedrill/config.yml")
    )
    section = config.sections["shop"]
    assert section.ping_url("backup") == "https://hc.example/a"
    assert section.ping_url("drill") == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"shop": {"ping_url": "hc.example/secret"}},
        {"shop": {"ping_url": "https://a/secret", "ping_url_file": "/x"}},
        {"alarms": {"apprise_urls": ["secret"]}},
        {"alarms": {"ping_url": "https://a/secret"}},
    ],
)
def test_wrong_settings_of_alarms_are_refused_without_repeating_a_secret(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(settings(**wrong), Path("/c.yml"))
    assert "secret" not in str(caught.value)


def test_settings_with_an_address_are_for_root_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        "backup_dir: /b\ndatabases: {shop: {container: c}}\nalarms: {apprise_urls: ['ntfy://t']}\n"
    )
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        load_config(path)
    path.chmod(0o600)
    assert load_config(path).alarms.people
