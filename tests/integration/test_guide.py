# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands of RECOVERY.md, run as they are written and with nothing of ours, bring back what was dumped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from keys import MAKERS
from servers import RICH, Postgres, docker, remove, start_postgres

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.access import open_access
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.catalog import (
    read_properties,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.load import check_evidence
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import Manifest
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Target
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

#: Each character of it means something to a shell, to SQL, to Markdown or to a connection string.
ODD = "-o'd\"d=`$(touch planted)`\\\\ ```\nSQL\nJüdí <b> *x*"


def commands(guide: Path) -> list[str]:
    """The blocks of a guide, as a person copies them."""
    found = re.findall(r"^(`{3,})bash\n(.*?)^\1$", guide.read_text(), re.DOTALL | re.MULTILINE)
    return [block for unused_fence, block in found]


class Rescue:
    """A host without anything of ours: a container to be, and a shell in the directory of the sets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.container = f"fdt-{uuid.uuid4().hex[:10]}"
        self.server = Postgres(self.container, "")

    def run(self, blocks: list[str], **environment: str) -> str:
        path = "/usr/sbin:/usr/bin:/sbin:/bin"
        assert shutil.which("firedrill", path=path) is None
        kept = {key: os.environ[key] for key in ("HOME", "DOCKER_HOST") if key in os.environ}
        done = subprocess.run(
            ["bash", "-e"],
            input="\n".join(blocks),
            cwd=self.directory,
            env={**kept, "PATH": path, "CONTAINER": self.container, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def remove(self) -> None:
        remove(self.container)
        docker("volume", "rm", "-f", f"{self.container}-data", check=False)

    def assert_equal(self, manifest: Manifest, user: str = "") -> None:
        """The engine finds there what it found when it dumped."""
        target = Target(manifest.database, container=self.container, user=user)
        with Run("check") as run:
            access = open_access(run, target)
            comparison = check_evidence(access, manifest.database, manifest)
            assert comparison.differences == ()
            assert comparison.compared
            with access.server.session(manifest.database) as session:
                assert read_properties(session, manifest.database) == manifest.properties


@pytest.fixture
def rescue(sets: Path) -> Iterator[Rescue]:
    found = Rescue(sets)
    yield found
    found.remove()


@pytest.fixture
def owner(postgres: Postgres) -> Iterator[str]:
    """A role with a password and a membership, both of which are to come back."""
    name = f"Own er {uuid.uuid4().hex[:6]}"
    postgres.sql(
        f"""CREATE ROLE "{name} group"; CREATE ROLE "{name}" LOGIN PASSWORD 'pw' IN ROLE "{name} group";"""
    )
    yield name
    for database in postgres.databases:
        quoted = database.replace('"', '""')
        postgres.sql(f'DROP DATABASE IF EXISTS "{quoted}" WITH (FORCE)')
    postgres.databases.clear()
    postgres.sql(f'DROP ROLE "{name}", "{name} group"')


def manifest_of(sets: Path) -> Manifest:
    (found,) = Vault(sets).sets()
    return found.require_manifest()


_PASSWORDS = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'Own er%' ORDER BY 1"


@pytest.mark.parametrize("name", [None, pytest.param(ODD, marks=pytest.mark.slow)])
def test_the_guide_brings_everything_back_with_nothing_of_ours(
    postgres: Postgres, sets: Path, rescue: Rescue, owner: str, name: str | None
) -> None:
    database = postgres.create(name, RICH)
    quoted = database.replace('"', '""')
    postgres.sql(
        f"""ALTER DATABASE "{quoted}" OWNER TO "{owner}";
            ALTER DATABASE "{quoted}" SET default_transaction_read_only = on;
            ALTER DATABASE "{quoted}" SET statement_timeout = '1ms';
            ALTER ROLE "{owner}" IN DATABASE "{quoted}" SET work_mem = '5MB';
            REVOKE CONNECT ON DATABASE "{quoted}" FROM PUBLIC;
            ALTER DATABASE "{quoted}" CONNECTION LIMIT 7;"""
    )
    postgres.backup(sets, database)
    manifest = manifest_of(sets)
    blocks = commands(sets / "RECOVERY.md")
    assert len(blocks) == 5
    printed = rescue.run(blocks)
    assert printed.endswith(f"{manifest.rows} rows of {manifest.rows}\n")
    rescue.assert_equal(manifest)
    assert rescue.server.sql(_PASSWORDS) == postgres.sql(_PASSWORDS)
    assert not (sets / "planted").exists()


@pytest.mark.slow
def test_the_guide_leaves_a_role_that_is_there_as_it_is(
    postgres: Postgres, sets: Path, rescue: Rescue, owner: str
) -> None:
    database = postgres.create(content=RICH)
    postgres.sql(f'ALTER DATABASE {database} OWNER TO "{owner}"')
    postgres.backup(sets, database)
    first, server, *others = commands(sets / "RECOVERY.md")
    rescue.run([first, server])
    live = f"""CREATE ROLE "{owner}" LOGIN PASSWORD 'another' CONNECTION LIMIT 3"""
    rescue.server.sql(live)
    asked = f"SELECT * FROM pg_authid WHERE rolname IN ('postgres', '{owner}') ORDER BY 1"
    before = rescue.server.sql(asked)
    rescue.run([first, *others])
    assert rescue.server.sql(asked) == before
    rescue.assert_equal(manifest_of(sets))


@pytest.mark.slow
@pytest.mark.usefixtures("owner")
def test_a_database_that_a_new_server_has_made_goes_by_the_command_that_the_guide_names(
    postgres: Postgres, sets: Path, rescue: Rescue
) -> None:
    database = postgres.create(ODD, "CREATE TABLE t AS SELECT generate_series(1, 9) AS n")
    postgres.backup(sets, database)
    first, server, *others = commands(sets / "RECOVERY.md")
    rescue.run([first, server])
    rescue.server.create(database, "CREATE TABLE of_the_image (n int)")
    (drop,) = re.findall(r"`(docker exec [^`]* dropdb [^`]*)`", (sets / "RECOVERY.md").read_text())
    rescue.run([first, drop, *others])
    rescue.assert_equal(manifest_of(sets))


@pytest.mark.slow
def test_a_set_without_globals_gets_its_roles_without_passwords(
    postgres: Postgres, sets: Path, rescue: Rescue, owner: str
) -> None:
    database = postgres.create(content=RICH)
    postgres.sql(f'ALTER DATABASE {database} OWNER TO "{owner}"')
    postgres.backup(sets, database, globals=False)
    rescue.run(commands(sets / "RECOVERY.md"))
    rescue.assert_equal(manifest_of(sets))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["age", "gpg"])
def test_an_encrypted_set_comes_back_with_the_private_key_and_its_own_program(
    postgres: Postgres, sets: Path, tmp_path: Path, rescue: Rescue, owner: str, kind: str
) -> None:
    database = postgres.create(content=RICH)
    postgres.sql(f'ALTER DATABASE {database} OWNER TO "{owner}"')
    postgres.backup(tmp_path / "plain", database)
    pair = MAKERS[kind]()
    older = postgres.backup(sets, database, encryption=pair.encryption).set_name
    postgres.sql("INSERT INTO jobs (user_id) VALUES (1)", database)
    newer = postgres.backup(sets, database, encryption=pair.encryption).set_name
    text = (sets / "RECOVERY.md").read_text()
    assert [word for word in (owner, "jobs", "public.users", pair.secret) if word in text] == []
    with tempfile.TemporaryDirectory(prefix="fdk", dir="/tmp") as home:
        key = Path(home, "key.txt")
        key.write_text(pair.private)
        if kind == "gpg":
            words = ["gpg", "--homedir", home, "--batch", "--quiet", "--import", str(key)]
            subprocess.run(words, check=True, capture_output=True)
        first, *others = commands(sets / "RECOVERY.md")
        first = first.replace(f"SET={newer}\n", f"SET={older}\n")
        rescue.run([first, *others], KEY=str(key), GNUPGHOME=home)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    rescue.assert_equal(manifest_of(tmp_path / "plain"))
    assert rescue.server.sql(_PASSWORDS) == postgres.sql(_PASSWORDS)
    written = {path.name for path in sets.iterdir() if b"SCRAM-SHA-256" in path.read_bytes()}
    assert written == set()


@pytest.mark.slow
def test_a_server_whose_superuser_and_database_have_names_of_their_own(
    image: str, sets: Path, rescue: Rescue
) -> None:
    own = start_postgres(image, "-e", "POSTGRES_USER=the boss", "-e", "POSTGRES_DB=postgres")
    try:
        own.sql("CREATE TABLE t AS SELECT generate_series(1, 9) AS n", user="the boss")
        own.backup(sets, "postgres")
        rescue.run(commands(sets / "RECOVERY.md"))
        rescue.assert_equal(manifest_of(sets))
    finally:
        remove(own.name)
