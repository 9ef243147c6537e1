# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""RECOVERY.md tells everything that is needed, nothing that is hidden, and quotes whatever a database is called."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recovery_sets import SECRETS, a_manifest, lay_out

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.guide import (
    GUIDE,
    guide,
    update_guide,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.listing import list_sets
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import (
    FileEntry,
    Manifest,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import utc_now
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

NOW = utc_now().replace(microsecond=0)


def blocks(text: str) -> list[str]:
    """The commands, by the rules of Markdown: a fence ends with one that is as long."""
    found = re.findall(r"^(`{3,})bash\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE)
    return [block for unused_fence, block in found]


def sealed(method: str) -> Manifest:
    return a_manifest(method).plain(FileEntry(f"x.sealed.json.{method}", 10, "ab"))


@pytest.mark.parametrize("method", ["age", "gpg"])
def test_the_guide_to_an_encrypted_set_tells_nothing_of_its_content(method: str) -> None:
    text = guide([sealed(method)])
    assert [secret for secret in SECRETS if secret in text] == []
    assert f"encrypted with {method} to `age1public`" in text
    assert "7 rows of 7" in text


def test_the_guide_to_a_plain_set_holds_no_password() -> None:
    assert "SCRAM" not in guide([a_manifest()])
    assert "SCRAM" not in guide([replace(a_manifest(), globals=None)])


@pytest.mark.parametrize("name", ["postgres", "shop"])
def test_a_database_that_each_server_has_is_replaced_and_no_other(name: str) -> None:
    assert ("--clean" in guide([replace(a_manifest(), database=name)])) == (name == "postgres")


@settings(deadline=None, max_examples=40)
@given(
    st.one_of(
        st.sampled_from(
            [
                "-n",
                "a b",
                "$(id)",
                "`id`",
                "'",
                '"',
                "x\n```\nSUMS\nid",
                "J\u00fcdi",
                "\\",
                "a\nSQL\nid",
            ]
        ),
        st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"),
            min_size=1,
            max_size=20,
        ),
    )
)
def test_no_name_of_a_database_or_a_role_can_break_out_of_the_commands(name: str) -> None:
    whole = a_manifest()
    manifest = replace(
        whole,
        database=name,
        globals=None,
        source=replace(whole.source, superuser=name),
        roles=tuple(replace(role, name=name + "x", named_by_database=True) for role in whole.roles),
    )
    found = blocks(guide([manifest]))
    assert len(found) == 5
    first = found[0].partition("awk")[0]
    script = f'{first}printf "%s|%s" "$DATABASE" "$SUPERUSER"'
    done = subprocess.run(["bash", "-e"], input=script.encode(), capture_output=True, check=True)
    assert done.stdout.decode() == f"{name}|{name}"
    # The role's statement is one argument of psql.
    shown = f'docker() {{ printf "%s" "${{@: -1}}"; }}\n{found[2]}'
    done = subprocess.run(["bash", "-e"], input=shown.encode(), capture_output=True, check=True)
    doubled = (name + "x").replace('"', '""')
    assert done.stdout.decode() == f'--command=CREATE ROLE "{doubled}";'


def test_the_guide_has_a_chapter_for_the_newest_whole_set_of_each_database_and_is_no_set(
    tmp_path: Path,
) -> None:
    written = lay_out(tmp_path)
    other = replace(written, name="other_20260220_020000", database="other")
    for entry in written.entries:
        end = entry.name[len(written.name) :]
        (tmp_path / f"{other.name}{end}").write_bytes((tmp_path / entry.name).read_bytes())
    assert written.globals
    other = replace(
        other,
        dump=replace(written.dump, name=f"{other.name}.dump"),
        globals=replace(written.globals, name=f"{other.name}.globals.sql"),
    )
    (tmp_path / f"{other.name}.json").write_text(other.to_json())
    # A newer one whose dump is gone.
    half = replace(written, name="shop_20260301_020000", created_at="2026-03-01T02:00:00Z")
    half = replace(half, dump=replace(half.dump, name=f"{half.name}.dump"))
    (tmp_path / f"{half.name}.json").write_text(half.to_json())
    # And one that lost another file.
    torn = replace(written, name="shop_20260302_020000", created_at="2026-03-02T02:00:00Z")
    torn = replace(
        torn,
        dump=replace(written.dump, name=f"{torn.name}.dump"),
        globals=replace(written.globals, name=f"{torn.name}.globals.sql"),
    )
    (tmp_path / torn.dump.name).write_text("x")
    (tmp_path / f"{torn.name}.json").write_text(torn.to_json())
    update_guide(tmp_path)
    text = (tmp_path / GUIDE).read_text()
    assert re.findall(r"^## Database (.*)$", text, re.MULTILINE) == ["`other`", "`shop`"]
    assert f"SET={written.name}\n" in text
    assert (tmp_path / GUIDE).stat().st_mode & 0o777 == 0o600
    assert GUIDE not in {one.recovery_set.path.name for one in list_sets(tmp_path)}
    assert all(one.path.name != GUIDE for one in Vault(tmp_path).everything())


@pytest.mark.parametrize("method", ["", "age"])
def test_the_checks_are_those_of_the_set_that_is_named(tmp_path: Path, method: str) -> None:
    older = lay_out(tmp_path, method, created=NOW - timedelta(days=1), rows=4_000_000_000)
    uncounted = lay_out(tmp_path, method, created=NOW - timedelta(hours=1), counted=False)
    newest = lay_out(tmp_path, method, created=NOW)
    update_guide(tmp_path)
    first, *unused_rest, last = blocks((tmp_path / GUIDE).read_text())
    rows = last.partition("docker exec")[0]

    def run(written: Manifest) -> str:
        named = first.replace(f"SET={newest.name}", f"SET={written.name}")
        script = f'{named}{rows}echo "<$ROWS>"'
        done = subprocess.run(
            ["bash", "-e"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 else done.stderr

    for written, said in ((older, "<4000000000>"), (uncounted, "<>"), (newest, "<7>")):
        found = run(written).splitlines()
        assert found == [*(f"{entry.name}: OK" for entry in _by_name(written)), said]
    (tmp_path / older.dump.name).write_text("x")
    assert "did NOT match" in run(older)
    assert run(newest).endswith("<7>\n")


def _by_name(manifest: Manifest) -> list[FileEntry]:
    return sorted(manifest.entries, key=lambda entry: entry.name)


def test_what_cannot_be_decrypted_ends_the_commands_and_a_name_is_what_it_was() -> None:
    first, second, unused_server, roles, *unused_rest = blocks(guide([sealed("age")]))
    begun = first.partition("awk")[0]
    docker = "docker() { cat > /dev/null; }"
    age = """age() { printf ' "superuser": "%s",\\n' 'a \\"b\\" \\\\c'; }"""

    def run(script: str) -> tuple[int, str]:
        words = ["bash", "-e", "-c", script]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return done.returncode, done.stdout.decode()

    shown = 'printf "<%s>" "$SUPERUSER"'
    assert run(f"{docker}\n{age}\n{begun}{second}{roles}{shown}") == (0, '<a "b" \\c>')
    failing = "age() { return 1; }\nSUPERUSER=x"
    assert run(f"{docker}\n{failing}\n{begun}{roles}echo went on") == (1, "")


def test_a_guide_that_is_right_already_is_not_written_again(tmp_path: Path) -> None:
    lay_out(tmp_path)
    update_guide(tmp_path)
    before = (tmp_path / GUIDE).stat().st_ino
    update_guide(tmp_path)
    assert (tmp_path / GUIDE).stat().st_ino == before
