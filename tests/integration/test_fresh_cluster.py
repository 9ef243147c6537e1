# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restore into the cluster that a new container has just initialised, as the recovery of a dead host makes it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import RICH, Postgres, await_that, docker, remove, start_postgres

pytestmark = pytest.mark.integration


@contextmanager
def new_server(
    image: str, directory: Path, script: str, *arguments: str, database: str, wait: bool = True
) -> Iterator[Postgres]:
    """A container whose init directory holds one SQL script, which is played into `database`."""
    directory.mkdir()
    (directory / "001_schema.sql").write_text(script)
    directory.chmod(0o755)
    mounts = ["-v", f"{directory}:/docker-entrypoint-initdb.d:ro"]
    server = start_postgres(image, *mounts, "-e", f"POSTGRES_DB={database}", *arguments, wait=wait)
    try:
        yield server
    finally:
        remove(server.name)


SLOW = r"""
CREATE TABLE users (seed text);
\! until test -e /tmp/go; do sleep 0.1; done
SELECT pg_sleep(2);
INSERT INTO users VALUES ('of the init directory');
"""


@pytest.mark.parametrize("arguments", [(), ("--init",)], ids=["entrypoint", "init"])
def test_the_restore_waits_until_the_init_directory_was_played_and_the_final_server_runs(
    postgres: Postgres, image: str, sets: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    name = f"slow_{uuid.uuid4().hex[:6]}"
    postgres.create(name, RICH)
    postgres.backup(sets, name)
    with new_server(
        image, tmp_path / "initdb", SLOW, *arguments, database=name, wait=False
    ) as server:
        ask = "SELECT count(*) FROM pg_tables WHERE tablename = 'users'"
        command = ["exec", server.name, "psql", "-XqAt", "-U", "postgres", "-d", name, "-c", ask]
        await_that(lambda: docker(*command, check=False) == "1", "the temporary server answers")
        temporary = server.started()
        final: list[str] = []

        def watch(phase: str, *unused: int) -> None:
            if phase == "startup":
                docker("exec", server.name, "touch", "/tmp/go")
            elif phase == "preflight" and not final:
                final.append(server.started())

        report = server.restore(sets, name, watch, fresh_cluster=True)
        assert "equal to the manifest" in report.msg
        assert final != [temporary]
        assert server.started() == final[0]
        assert server.sql("SELECT count(*) FROM users", name) == "500"
