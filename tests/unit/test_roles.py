# Copyright (c) Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role tells about its variables in three places is the same in all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Template

ROLES = sorted(
    path.parent.parent for path in Path(__file__).parents[2].glob("roles/*/meta/argument_specs.yml")
)


def specified(role: Path) -> dict[str, Any]:
    """The options of the role's main entry, by name."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    return dict(specs["argument_specs"]["main"]["options"])


def described(readme: str) -> list[tuple[str, str, str]]:
    """Name, type and default of each row of the README's tables of variables."""
    # A row that stands apart from its table is no row to whoever reads it.
    tables = re.findall(
        r"^\| variable \|[^\n]*\n\|[-| ]+\|\n((?:\|[^\n]*\n)+)", readme, re.MULTILINE
    )
    rows = re.findall(
        r"^\| `(firedrill_\w+)` \| ([^|]*) \| ([^|]*) \|", "".join(tables), re.MULTILINE
    )
    return [(name, kind.strip(), default.strip()) for name, kind, default in rows]


def shown(option: dict[str, Any]) -> tuple[str, str]:
    """Type and default as a README shows them."""
    kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
    if option.get("required"):
        return kind, "**required**"
    default = option.get("default")
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, list):
        default = ", ".join(default)
    elif isinstance(default, dict):
        default = yaml.safe_dump(default, default_flow_style=True).strip() if default else ""
    return kind, f"`{default}`" if str(default) else ""


def test_a_row_apart_from_its_table_is_none() -> None:
    table = "| variable | type | default | meaning |\n| --- | --- | --- | --- |\n"
    first, second = "| `firedrill_a` | str |  | x |\n", "| `firedrill_b` | str |  | x |\n"
    assert len(described(table + first + second)) == 2
    assert len(described(f"{table}{first}\n{second}")) == 1


def test_there_are_roles() -> None:
    assert len(ROLES) >= 7


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_readme_names_the_options_of_the_specification_and_no_others(role: Path) -> None:
    readme = (role / "README.md").read_text(encoding="utf-8")
    expected = [(name, *shown(option)) for name, option in specified(role).items()]
    assert sorted(described(readme)) == sorted(expected)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_an_option_is_the_same_whatever_part_of_the_role_is_run(role: Path) -> None:
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    for entry, spec in specs["argument_specs"].items():
        known = {name: shown(option) for name, option in spec["options"].items()}
        whole = {name: shown(specified(role)[name]) for name in known}
        assert known == whole, entry


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_defaults_are_those_of_the_specification(role: Path) -> None:
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text(encoding="utf-8")) or {}
    optional = {
        name: option.get("default")
        for name, option in specified(role).items()
        if not option.get("required")
    }
    assert defaults == optional


# -- the private key, and what a recovery says of the schedule

ROOT = Path(__file__).parents[2] / "roles"


def tasks_of(file: str) -> list[dict[str, Any]]:
    """All tasks of a file, those of blocks too, in their order."""
    waiting = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    found = []
    while waiting:
        task = waiting.pop(0)
        found.append(task)
        waiting = task.get("block", []) + task.get("rescue", []) + waiting
    return found


@pytest.mark.parametrize(
    "file", ["restore/tasks/main.yml", "drill/tasks/main.yml", "drill/tasks/keycheck.yml"]
)
@pytest.mark.parametrize(
    ("key", "path", "given"),
    [("K", "F", "none"), ("", "F", "F"), ("K", "", "none"), ("", "", "none")],
)
def test_a_key_that_is_given_goes_before_the_file_of_the_inventory(
    file: str, key: str, path: str, given: str
) -> None:
    modules = [task[name] for task in tasks_of(file) for name in task if "firedrill." in name]
    (asked,) = {one["identity_file"] for one in modules if "identity_file" in one}
    values = {"omit": "none", "firedrill_identity": key, "firedrill_identity_file": path}
    assert Template(asked).render(values) == given


def test_a_recovery_asks_for_no_key_that_it_does_not_need() -> None:
    called = {
        task["ansible.builtin.include_role"]["name"].split(".")[-1]: task.get("vars", {})
        for task in tasks_of("recover/tasks/main.yml")
        if "ansible.builtin.include_role" in task
    }
    assert called["drill"]["firedrill_drill_target"] == "live"
    assert called["drill"]["firedrill_identity"] == called["drill"]["firedrill_identity_file"] == ""
    assert called["restore"]["firedrill_identity_file"] == "{{ _recover_identity_file }}"


def test_a_recovery_says_that_there_is_no_schedule_as_long_as_that_is_true() -> None:
    tasks = {task["name"]: task for task in tasks_of("recover/tasks/main.yml")}
    before = list(tasks)[list(tasks).index("The schedule") - 1]
    told = Template(tasks["Say in what state the host is"]["vars"]["_recover_schedule"])
    assert "is not installed, so nothing runs by itself" in told.render(_recover_known={})
    news = tasks[before]["vars"]["_recover_news"]
    assert "may be installed" in told.render(_recover_known=news)
