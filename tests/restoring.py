# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A database with a set of it, for tests that restore; and what they compare before and after."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable

import pytest
from servers import LABEL, RICH, Postgres, docker, own_containers, own_volumes

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import (
    restore as engine_restore,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    FiredrillError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import Manifest
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Report, Target

#: What an operator wants to undo. The trigger of `users` writes to `audit` meanwhile.
ACCIDENT = """
DELETE FROM jobs WHERE id % 2 = 0;
UPDATE users SET email = 'lost ' || id;
DROP VIEW rich;
"""

_CONTENTS = """
SELECT 'users', count(*), md5(string_agg(x::text, '|' ORDER BY id)) FROM users x
UNION ALL SELECT 'jobs', count(*), md5(string_agg(x::text, '|' ORDER BY id)) FROM jobs x
UNION ALL SELECT 'audit', count(*), md5(string_agg(x::text, '|' ORDER BY x::text)) FROM audit x
UNION ALL SELECT 'large objects', count(*), md5(string_agg(lo_get(oid)::text, '|' ORDER BY oid))
  FROM pg_largeobject_metadata
UNION ALL SELECT 'sequences', count(*), md5(string_agg(concat(sequencename, last_value), '|' ORDER BY sequencename))
  FROM pg_sequences WHERE schemaname = 'public'
UNION ALL SELECT 'relations', count(*), md5(string_agg(concat(relname, relkind, relowner::regrole), '|' ORDER BY relname))
  FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""

#: Databases, roles with their passwords, and the start of the server, which a restart would change.
_CLUSTER = """
SELECT 'database', datname, oid, datallowconn, datconnlimit FROM pg_database ORDER BY oid;
SELECT 'role', rolname, rolpassword FROM pg_authid ORDER BY 1, 2;
SELECT 'start', pg_postmaster_start_time();
"""


PROPERTIES = r"""
ALTER DATABASE "{database}" OWNER TO "{owner}";
ALTER DATABASE "{database}" CONNECTION LIMIT 37;
COMMENT ON DATABASE "{database}" IS 'the shop''s "own" \ database';
REVOKE ALL ON DATABASE "{database}" FROM PUBLIC;
GRANT CONNECT ON DATABASE "{database}" TO "{clerk}" WITH GRANT OPTION;
GRANT TEMPORARY ON DATABASE "{database}" TO "{owner}";
ALTER DATABASE "{database}" SET search_path TO "$user", "Odd, ""x"" name", public;
ALTER DATABASE "{database}" SET statement_timeout = '90s';
ALTER DATABASE "{database}" SET default_transaction_read_only = on;
ALTER DATABASE "{database}" SET "shop.motto" = 'it''s 100 % \ fün';
ALTER ROLE "{clerk}" IN DATABASE "{database}" SET work_mem = '7MB';
ALTER ROLE "{clerk}" IN DATABASE "{database}" SET search_path TO clerk, "Odd, ""x"" name";
"""


class Names:
    """A database and two roles that belong together."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex[:6]
        self.database = f"props_{mark}"
        self.owner = f"owner {mark}"
        self.clerk = f"Clerk_{mark}"


def contents(server: Postgres, database: str) -> str:
    """Every row of a RICH database, as one line for each table."""
    return server.sql(_CONTENTS, database)


def properties(server: Postgres, database: str) -> str:
    """Everything that pg_database and its relatives say of a database, but for what has to differ."""
    return server.sql(f"""
        SELECT to_jsonb(d) - '{{oid,datdba,datfrozenxid,datminmxid,datacl}}'::text[], pg_get_userbyid(datdba),
               shobj_description(d.oid, 'pg_database'),
               (SELECT jsonb_agg(x ORDER BY x) FROM aclexplode(d.datacl) a, jsonb_build_array(
                  pg_get_userbyid(grantor), pg_get_userbyid(grantee), privilege_type, is_grantable) x),
               (SELECT jsonb_agg(x ORDER BY x) FROM pg_db_role_setting s, unnest(setconfig) entry,
                  jsonb_build_array(pg_get_userbyid(setrole), entry) x WHERE s.setdatabase = d.oid)
          FROM pg_database d WHERE datname = '{database}'""")


def logs_in(server: Postgres, role: str, password: str, database: str) -> bool:
    command = ["psql", "-XqAt", "-h", "127.0.0.1", "-U", role, "-d", database, "-c", "SELECT 'in'"]
    environment = ["-e", f"PGPASSWORD={password}"]
    return docker("exec", *environment, server.name, *command, check=False) == "in"


@dataclass
class Shop:
    """A database that a test may break, beside a directory with one set of it from before."""

    server: Postgres
    database: str
    directory: Path
    set_name: str
    original: str
    #: Containers of the application that a picture looks at too.
    watched: list[str] = field(default_factory=list)

    @property
    def dump(self) -> Path:
        return self.directory / f"{self.set_name}.dump"

    @property
    def target(self) -> Target:
        return self.server.target(self.database)

    def request(self, **options: Any) -> engine_restore.RestoreRequest:
        return engine_restore.RestoreRequest(
            options.pop("target", self.target), self.directory, **options
        )

    def restore(
        self, progress: Callable[[str, int, int], None] | None = None, **options: Any
    ) -> Report:
        return engine_restore.restore(self.request(**options), progress)

    def sql(self, text: str) -> str:
        return self.server.sql(text, self.database)

    def contents(self) -> str:
        return contents(self.server, self.database)

    def break_data(self) -> str:
        """Destroys rows as an accident would; returns the contents afterwards."""
        self.sql(ACCIDENT)
        broken = self.contents()
        assert broken != self.original
        return broken

    def manifest(self, set_name: str = "") -> Manifest:
        path = self.directory / f"{set_name or self.set_name}.json"
        return Manifest.from_json(path.read_text(), str(path))

    def write_manifest(self, set_name: str = "", **changes: Any) -> None:
        """Replaces parts of a manifest, with a checksum that is right."""
        path = self.directory / f"{set_name or self.set_name}.json"
        path.write_text(replace(self.manifest(set_name), **changes).to_json())

    def add_older_set(self, stamp: str, created_at: str) -> str:
        """A second set with the same dump; returns its name."""
        name = f"{self.database}_{stamp}"
        manifest = replace(self.manifest(), name=name, created_at=created_at, globals=None)
        manifest = replace(manifest, dump=replace(manifest.dump, name=f"{name}.dump"))
        shutil.copy(self.dump, self.directory / f"{name}.dump")
        (self.directory / f"{name}.json").write_text(manifest.to_json())
        return name

    def journal(self) -> list[dict[str, Any]]:
        path = self.directory / f"{self.database}.journal"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def files(self) -> dict[str, str]:
        """Everything in the backup directory, hidden files included."""
        if not self.directory.exists():
            return {}
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.directory.iterdir())
        }

    def picture(self) -> dict[str, object]:
        """Whatever a run that was refused, or only asked, must leave as it is."""
        cluster = self.server.sql(_CLUSTER)
        is_there = f"database|{self.database}|" in cluster
        return {
            "cluster": cluster,
            "rows": self.contents() if is_there else "",
            "files": self.files(),
            "application": [started_at(name) for name in self.watched],
        }

    @contextlib.contextmanager
    def untouched(self, *, but: tuple[str, ...] = ()) -> Iterator[None]:
        """Asserts that the block changes nothing, except for the parts of the picture in `but`."""
        before = self.picture()
        yield
        after = self.picture()
        for part in but:
            before.pop(part)
            after.pop(part)
        assert after == before
        assert own_containers() + own_volumes() == []

    def refusal(self, **options: Any) -> str:
        """What a restore that is refused or fails says to the person who asked for it."""
        with pytest.raises(FiredrillError) as caught:
            self.restore(**options)
        return readable(caught.value)


def readable(error: FiredrillError) -> str:
    """The text of an error, which has to be of use to a tired person: the state of things, and what to do."""
    text = str(error)
    assert "Traceback" not in text
    assert "\n" not in text
    assert len(text) < 1500
    assert error.state, text
    assert error.todo, text
    return text


def stock_shop(
    server: Postgres, directory: Path, *, database: str = "", **options: Any
) -> Callable[[Path], Shop]:
    """Makes one set; returns a function that lays a fresh copy of it into a directory, beside the fresh database."""
    name = database or f"shop_{uuid.uuid4().hex[:6]}"
    pattern = server.create(content=RICH)
    set_name = ""
    original = ""

    def fresh(tmp_path: Path) -> Shop:
        # The copies that earlier tests kept would slow down every look at the server.
        kept = f"FROM pg_database WHERE starts_with(datname, '{name}')"
        server.sql(
            f"SELECT format('DROP DATABASE %I WITH (FORCE)', datname) {kept} \\gexec\n"
            f'CREATE DATABASE "{name}" TEMPLATE "{pattern}"'
        )
        copy = tmp_path / "sets"
        if set_name:
            shutil.copytree(directory, copy)
        return Shop(server, name, copy, set_name, original)

    first = fresh(directory)
    original = first.contents()
    set_name = server.backup(directory, name, **options).set_name
    return fresh


def start_app(image: str, *arguments: str) -> str:
    """A container that stands for the application: it does nothing, and ends at once when it is stopped."""
    name = f"fdt-app-{uuid.uuid4().hex[:8]}"
    settings = ["--network", "none", "--stop-signal", "SIGKILL", "--entrypoint", "sleep"]
    docker("run", "-d", "--name", name, "--label", LABEL, *settings, *arguments, image, "3600")
    return name


def started_at(name: str) -> str:
    """Whether a container runs, and since when."""
    return docker("inspect", "--format", "{{.State.Running}} {{.State.StartedAt}}", name)


def runs(name: str) -> bool:
    return docker("inspect", "--format", "{{.State.Running}}", name) == "true"
