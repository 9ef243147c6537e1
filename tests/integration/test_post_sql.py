# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operator's SQL after a restore, and what the operator leaves out of it: owners and grants."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from restoring import Shop, stock_shop
from servers import Postgres, docker

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import SqlScript

pytestmark = [pytest.mark.integration, pytest.mark.newest_only]


@pytest.fixture(scope="module")
def stock(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Shop]:
    return stock_shop(postgres, tmp_path_factory.mktemp("stock") / "any")


@pytest.fixture
def shop(stock: Callable[[Path], Shop], tmp_path: Path) -> Shop:
    return stock(tmp_path)


@pytest.fixture
def inside(shop: Shop) -> Iterator[str]:
    """The path of a file in the container of the database, with a statement in it."""
    path = f"/tmp/{uuid.uuid4().hex[:8]} $HOME.sql"
    put = ["exec", "-i", shop.server.name, "sh", "-c", 'cat > "$1"', "sh", path]
    docker(*put, stdin="INSERT INTO played SELECT 'in the container', count(*) FROM played;\n")
    yield path
    docker("exec", shop.server.name, "rm", path)


def test_statements_files_and_files_of_the_container_are_played_in_their_order(
    shop: Shop, tmp_path: Path, inside: str
) -> None:
    file = tmp_path / "it's a file.sql"
    file.write_text("INSERT INTO played SELECT 'on the host – ß', count(*) FROM played;\n")
    report = shop.restore(
        post_sql=(
            SqlScript(sql="CREATE TABLE played (what text, number int); DELETE FROM jobs"),
            SqlScript(file=str(file)),
            SqlScript(container_file=inside),
        )
    )
    assert shop.sql("SELECT * FROM played ORDER BY number").splitlines() == [
        "on the host – ß|0",
        "in the container|1",
    ]
    # The rows after a restore are those that are there, not those that the set had.
    assert report.details["rows_after"]["public.jobs"] == 0
    assert report.details["rows_after"]["public.played"] == 2
    assert "equal to the manifest" in report.msg


def test_sql_that_fails_leaves_the_live_database_and_no_copy_behind(
    shop: Shop, tmp_path: Path
) -> None:
    shop.break_data()
    file = tmp_path / "migrate.sql"
    file.write_text("CREATE TABLE half_done (id int);\nSELECT * FROM no_such_table;\n")
    with shop.untouched(but=("files",)):
        text = shop.refusal(post_sql=(SqlScript(file=str(file)),))
    assert str(file) in text
    assert 'relation "no_such_table" does not exist' in text
    assert "The live database was not touched" in text
    assert shop.journal()[-1]["step"] == "failed"
    # The failure is no reason to believe that the set is in place.
    assert shop.restore().changed
    assert shop.contents() == shop.original


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (SqlScript(file="/nowhere/migrate.sql"), "/nowhere/migrate.sql cannot be read"),
        (SqlScript(container_file="/nowhere/inside.sql"), "/nowhere/inside.sql in container"),
        (SqlScript(container_file="/proc/1/root/etc/passwd"), "cannot be read"),
    ],
    ids=["host", "container", "way out of the container"],
)
def test_sql_that_cannot_be_read_is_found_before_anything_is_done(
    shop: Shop, script: SqlScript, said: str
) -> None:
    with shop.untouched():
        text = shop.refusal(post_sql=(SqlScript(sql="SELECT 1"), script))
    assert said in text


@pytest.mark.slow
def test_a_dump_given_as_sql_is_refused(shop: Shop) -> None:
    with shop.untouched():
        assert "not SQL" in shop.refusal(post_sql=(SqlScript(file=str(shop.dump)),))


OWNED = """
CREATE TABLE owned (id int);
ALTER TABLE owned OWNER TO "{role}";
CREATE TABLE granted (id int);
GRANT SELECT ON granted TO "{role}";
"""


@pytest.fixture
def role(postgres: Postgres) -> Iterator[str]:
    name = f"clerk_{uuid.uuid4().hex[:8]}"
    postgres.sql(f'CREATE ROLE "{name}"')
    yield name
    for database in postgres.names():
        if database.startswith(name):
            postgres.sql(f'DROP DATABASE "{database}"')
    postgres.sql(f'DROP ROLE "{name}"')


@pytest.mark.slow
def test_owners_and_grants_come_back_unless_they_are_left_out(
    postgres: Postgres, sets: Path, role: str
) -> None:
    database = postgres.create(f"{role}_shop", OWNED.format(role=role))
    postgres.sql(f'ALTER DATABASE "{database}" OWNER TO "{role}"')
    postgres.backup(sets, database, globals=False)

    def owner_and_grant() -> str:
        return postgres.sql(
            f"""SELECT pg_get_userbyid(c.relowner), has_table_privilege('{role}', 'granted', 'SELECT'),
                       pg_get_userbyid(d.datdba)
                  FROM pg_class c, pg_database d WHERE c.relname = 'owned' AND d.datname = current_database()""",
            database,
        )

    # Each leaves out its own only, and the owner of the database itself is no part of the archive.
    postgres.restore(sets, database, no_owner=True)
    assert owner_and_grant() == f"postgres|t|{role}"
    postgres.restore(sets, database, force=True, no_privileges=True)
    assert owner_and_grant() == f"{role}|f|{role}"
