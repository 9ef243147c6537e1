# Copyright (c) Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The house rules of the engine: what its files may import. They are read, not run, so nothing can hide."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils" / "_engine"
FILES = sorted(ENGINE.rglob("*.py"))
FILE_IDS = [str(path.relative_to(ENGINE)) for path in FILES]

# Beyond the standard library: which file may import what (an empty set: any). All of them are Debian packages, so a Pi
# needs no compiler and no virtual environment.
ALLOWED: dict[str, set[str]] = {
    "docker": {"containers.py", "sidecar.py"},
    # A dependency of the docker package, which lets its exceptions through.
    "requests": {"containers.py"},
    "psycopg2": {"server.py"},
    "jmespath": set(),
    "rich": {"cli.py"},
    "yaml": {"cli.py", "config.py"},
}


def imports_of(source: str) -> list[tuple[int, str]]:
    """Every import in a file, at the top or not, as (level, dotted name); import_module() with a literal too."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                found.append((node.level, node.module))
            else:
                # from . import a, b
                found += [(node.level, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in ("import_module", "__import__"):
                found.append((0, str(node.args[0].value)))
    return found


def complaints(file: str, source: str) -> list[str]:
    """What a file imports against the rules, in words."""
    bad = []
    for level, name in imports_of(source):
        top = name.split(".")[0]
        if level > 1:
            bad.append(f"imports {'.' * level}{name}, above the engine")
        elif level == 1 or top in sys.stdlib_module_names:
            continue
        elif top in ("ansible", "ansible_collections"):
            bad.append(
                f"imports {name}: the engine knows no Ansible and no absolute path to itself"
            )
        elif top not in ALLOWED:
            bad.append(f"imports {name}, which a host does not have")
        elif ALLOWED[top] and file not in ALLOWED[top]:
            bad.append(f"imports {name}, which is the business of {sorted(ALLOWED[top])}")
    return bad


def engine_graph() -> dict[str, set[str]]:
    """For each file of the engine, the files of the engine that it imports while it is loaded or later."""
    names = {path.stem for path in FILES}
    return {
        path.stem: {
            name.split(".")[0]
            for level, name in imports_of(path.read_text(encoding="utf-8"))
            if level == 1 and name.split(".")[0] in names
        }
        for path in FILES
    }


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, or an empty list."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            circle = walk(other, [*trail, name])
            if circle:
                return circle
        done.add(name)
        return []

    for name in sorted(graph):
        circle = walk(name, [])
        if circle:
            return circle
    return []


def test_there_is_an_engine_to_look_at() -> None:
    assert {"model.py", "containers.py", "server.py"} <= set(FILE_IDS)


@pytest.mark.parametrize("path", FILES, ids=FILE_IDS)
def test_an_engine_file_imports_only_what_a_host_without_ansible_has(path: Path) -> None:
    assert complaints(path.name, path.read_text(encoding="utf-8")) == []


def test_the_data_flows_one_way_through_the_engine() -> None:
    assert find_cycle(engine_graph()) == []


def test_the_model_depends_on_nothing_but_errors() -> None:
    assert engine_graph()["model"] <= {"errors"}


def test_the_command_is_on_top_and_nothing_in_the_engine_builds_on_it() -> None:
    users = [name for name, used in engine_graph().items() if "cli" in used]
    assert users == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("dump.py", "import ansible.module_utils.basic"),
        ("dump.py", "def f():\n    from ansible.errors import AnsibleError\n"),
        (
            "dump.py",
            "from ansible_collections.firedrill.postgres.plugins.module_utils._engine import model",
        ),
        ("dump.py", "from .. import _adapter"),
        ("dump.py", "from ..other import thing"),
        ("dump.py", "import paramiko"),
        ("dump.py", "import requests"),
        ("dump.py", "import docker"),
        ("dump.py", "if False:\n    import psycopg2.extras\n"),
        (
            "dump.py",
            "try:\n    from rich.table import Table\nexcept ImportError:\n    Table = None\n",
        ),
        ("dump.py", "import importlib\nimportlib.import_module('docker')\n"),
        ("containers.py", "import psycopg2"),
        ("server.py", "import docker.errors"),
        ("model.py", "import yaml"),
    ],
)
def test_the_house_rules_see_a_forbidden_import(file: str, source: str) -> None:
    assert complaints(file, source) != []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "dump.py",
            "from __future__ import annotations\nimport os\nfrom . import model\nfrom .errors import Problem\n",
        ),
        ("containers.py", "import docker.errors"),
        ("sidecar.py", "import docker.types"),
        ("server.py", "import psycopg2.extras"),
        ("cli.py", "from rich.table import Table\nimport yaml\n"),
        ("config.py", "import yaml"),
    ],
)
def test_the_house_rules_let_a_rightful_import_pass(file: str, source: str) -> None:
    assert complaints(file, source) == []


def test_the_house_rules_see_a_circle() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
