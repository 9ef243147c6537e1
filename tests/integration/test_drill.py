# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drills of a set in a throwaway server: what they prove, what they blame, and that production sees nothing of it."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from servers import (
    LABEL,
    RICH,
    Postgres,
    docker,
    own_containers,
    own_volumes,
    remove,
    start_postgres,
)

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import answers
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.containers import (
    Containers,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.drill import (
    DrillRequest,
    drill,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.dump import (
    BackupRequest,
    backup,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    BusyError,
    SetError,
    TargetError,
    ToolError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.manifest import Manifest
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Assertion,
    Freshness,
    HttpCheck,
    Membership,
    Report,
    Target,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.report import (
    LOG_NAME,
    damaged_sets,
    last_drills,
    passed_sets,
    read_log,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.sidecar import run_beside

pytestmark = pytest.mark.integration

#: A role with a password that owns something, and settings that would break a load that came after them.
_OWNED = """
CREATE ROLE keeper LOGIN PASSWORD 'the keeper''s own';
CREATE ROLE bystander LOGIN PASSWORD 'nothing to do with it';
ALTER TABLE audit OWNER TO keeper;
ALTER DATABASE shop OWNER TO keeper;
ALTER DATABASE shop SET default_transaction_read_only = on;
ALTER DATABASE shop SET statement_timeout = 1;
"""
_NO_PASSWORDS = (
    "SELECT count(*) = 0 FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname <> current_user"
)
_ASSERTIONS = (
    Assertion("SELECT count(*) = 500 FROM users", "every user"),
    Assertion("SELECT current_user = 'boss'", "the same superuser"),
    Assertion("SELECT count(*) = 1 FROM pg_roles WHERE rolname = 'keeper'", "the owner"),
    Assertion("SELECT count(*) = 0 FROM pg_roles WHERE rolname = 'bystander'", "no stranger"),
    Assertion("SELECT count(*) = 0 FROM pg_roles WHERE rolname = 'by_initdb'", "initdb.d masked"),
    Assertion(_NO_PASSWORDS, "no passwords"),
    Assertion("SELECT current_setting('fsync') = 'off'", "tuned"),
    Assertion("SELECT pg_get_userbyid(datdba) = 'keeper' FROM pg_database WHERE datname = 'shop'"),
)


@dataclass
class Plant:
    """A production server, and a directory with one set of its database `shop`."""

    server: Postgres
    directory: Path

    def drill(self, directory: Path, progress: Any = None, **options: Any) -> Report:
        return drill(DrillRequest(self.server.target("shop"), directory, **options), progress)

    def picture(self) -> tuple[object, ...]:
        """What a drill must not change."""
        roles = self.server.sql("SELECT rolname, rolpassword FROM pg_authid ORDER BY 1")
        return self.server.started(), self.server.names(), roles


@pytest.fixture(scope="module")
def plant(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Its image brings an initialisation of its own, and its superuser is not called postgres."""
    directory = tmp_path_factory.mktemp("plant")
    script = directory / "init.sql"
    script.write_text("CREATE ROLE postgres SUPERUSER LOGIN; CREATE ROLE by_initdb;")
    pattern = docker("create", "--label", LABEL, image)
    docker("cp", str(script), f"{pattern}:/docker-entrypoint-initdb.d/init.sql")
    own_image = docker("commit", pattern)
    remove(pattern)
    server = start_postgres(own_image, "-e", "POSTGRES_USER=boss")
    server.create("shop", RICH + _OWNED)
    server.backup(directory / "sets", "shop")
    yield Plant(server, directory / "sets")
    remove(server.name)
    docker("rmi", own_image)


@pytest.fixture
def directory(plant: Plant, sets: Path) -> Path:
    """A copy of the set, to be damaged."""
    shutil.copytree(plant.directory, sets)
    return sets


def rewrite(directory: Path, **changes: Any) -> Manifest:
    """Changes the manifest of the only set, with a checksum that is right."""
    (path,) = directory.glob("*.json")
    manifest = replace(Manifest.from_json(path.read_text(), path.name), **changes)
    path.write_text(manifest.to_json())
    return manifest


def manifest_of(directory: Path) -> Manifest:
    return rewrite(directory)


def oom_score_adj(container: str) -> str:
    pid = docker("inspect", "-f", "{{.State.Pid}}", container)
    return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()


def check(report: Report, kind: str) -> dict[str, Any]:
    """The only check of that kind."""
    (found,) = (entry for entry in report.details["checks"] if entry["kind"] == kind)
    return found


# -- a drill that passes -----------------------------------------------------------------------------


@dataclass
class Passed:
    """A drill that passed, and what was to be seen while it ran."""

    report: Report
    record: Path
    before: tuple[object, ...]
    after: tuple[object, ...]
    throwaway: dict[str, Any] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    second: str = ""
    oom_score_adj: str = ""


@pytest.fixture(scope="module")
def passed(plant: Plant) -> Passed:
    seen: dict[str, Any] = {}

    def watch(phase: str, *unused_bytes: int) -> None:
        if phase == "checks" and not seen:
            (ident,) = own_containers()
            seen["throwaway"] = json.loads(docker("inspect", ident))[0]
            seen["volumes"] = own_volumes()
            seen["oom_score_adj"] = oom_score_adj(ident)
            with pytest.raises(BusyError) as failure:
                plant.drill(plant.directory)
            seen["second"] = str(failure.value)

    record = plant.directory.parent / "log" / "drills.md"
    before = plant.picture()
    report = plant.drill(
        plant.directory,
        watch,
        assertions=_ASSERTIONS,
        freshness=Freshness(3600),
        http_checks=(HttpCheck(name="health", service="web", port=80),),
        record_file=record,
    )
    return Passed(report, record, before, plant.picture(), **seen)


def test_a_good_set_passes_with_evidence_equal_and_every_assertion_true(passed):
    report = passed.report
    assert report.verdict == "pass", report.msg
    assert report.msg.startswith("pass: ")
    assert report.set_name in report.msg
    evidence = check(report, "evidence")
    assert (evidence["status"], evidence["name"]) == ("ok", "equal")
    assert report.details["differences"] == []
    asserted = [c for c in report.details["checks"] if c["kind"] == "assertion"]
    assert {c["name"]: c["status"] for c in asserted} == {a.label: "ok" for a in _ASSERTIONS}
    assert check(report, "freshness")["status"] == "ok"
    assert report.warnings == []


def test_checks_of_the_application_are_reported_as_skipped_and_leave_the_verdict_alone(passed):
    http = check(passed.report, "http")
    assert (http["name"], http["status"]) == ("health", "skipped")
    assert "target live" in http["reason"]
    assert passed.report.verdict == "pass"
    assert "1 of the application skipped" in passed.report.msg
    assert "health: skipped (the throwaway server has no network" in passed.record.read_text()


def test_a_drill_tells_rows_phases_and_the_measured_rto(passed):
    report = passed.report
    assert report.details["rows"]["public.users"] == 500
    assert report.details["rows"]["public.jobs"] == 2000
    for phase in ("check set", "start server", "load", "analyze", "evidence", "checks"):
        assert report.phases[phase] > 0
    loaded = sum(report.phases[p] for p in ("check set", "start server", "load", "evidence"))
    assert report.details["rto_s"] >= round(loaded, 1) > 0
    assert "processors" in report.details["hardware"]


def test_production_is_as_it_was_after_a_drill(passed):
    assert passed.after == passed.before


def test_the_throwaway_server_has_no_network_and_no_port_and_is_of_the_same_image(passed, plant):
    info = passed.throwaway
    assert info["HostConfig"]["NetworkMode"] == "none"
    assert not info["HostConfig"]["PortBindings"]
    assert list(info["NetworkSettings"]["Networks"]) == ["none"]
    assert info["Image"] == docker("inspect", "-f", "{{.Image}}", plant.server.name)
    assert not info["HostConfig"]["Privileged"]
    assert "com.docker.compose.project" not in info["Config"]["Labels"]
    binds = [mount for mount in info["Mounts"] if mount["Type"] != "tmpfs"]
    assert [mount["Name"] for mount in binds] == passed.volumes


def test_where_memory_is_short_the_kernel_ends_our_containers_rather_than_production(passed, plant):
    assert (passed.oom_score_adj, oom_score_adj(plant.server.name)) == ("500", "0")
    with Run("test") as run:
        containers = Containers()
        image_id = containers.image_id([plant.server.image])
        with run_beside(containers, run, image_id, ["sleep", "60"]):
            (sidecar,) = own_containers()
            assert oom_score_adj(sidecar) == "500"


def test_nothing_of_a_drill_is_left(passed):
    assert len(passed.volumes) == 1
    assert own_containers() == []
    assert own_volumes() == []
    assert docker("network", "ls", "-q", "--filter", "label=firedrill.owner") == ""
    assert passed.throwaway["Name"].lstrip("/") not in docker("ps", "-a", "--format", "{{.Names}}")


def test_a_second_drill_meanwhile_is_told_who_is_at_work(passed):
    assert f"a drill, process {os.getpid()}" in passed.second
    assert "shop" in passed.second


def test_a_drill_leaves_the_runbooks_entry_and_a_line_for_machines(passed, plant):
    report = passed.report
    heading = f"DRILL-{report.details['at'][:10]}"
    text = passed.record.read_text()
    assert report.details["record"] == heading
    assert f"### {heading}: " in text
    assert "Verdict: pass" in text
    assert f"{report.set_name}.dump" in text
    assert "users=500" in text
    assert "every user: ok" in text or "(every user): ok" in text
    log = plant.directory / "drills.jsonl"
    entry = json.loads(log.read_text().splitlines()[0])
    assert (entry["verdict"], entry["set_name"]) == ("pass", report.set_name)
    assert entry["rto_s"] == report.details["rto_s"]
    assert entry["rows"] == report.details["rows"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


#: What only a superuser may own, and keep.
_OF_A_SUPERUSER = """
CREATE ROLE {role} SUPERUSER;
CREATE FUNCTION heed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION heed();
ALTER EVENT TRIGGER watch OWNER TO {role};
CREATE PUBLICATION everything FOR ALL TABLES;
ALTER PUBLICATION everything OWNER TO {role};
CREATE FOREIGN DATA WRAPPER afar;
ALTER FOREIGN DATA WRAPPER afar OWNER TO {role};
CREATE TABLE things AS SELECT generate_series(1, 9) AS id;
"""


@pytest.mark.slow
def test_what_a_second_superuser_owns_passes(plant, sets):
    database = plant.server.create()
    role = f"second_{database}"
    plant.server.sql(_OF_A_SUPERUSER.format(role=role), database)
    plant.server.backup(sets, database)
    owned = Assertion(f"SELECT evtowner::regrole::text = '{role}' FROM pg_event_trigger")
    report = drill(DrillRequest(plant.server.target(database), sets, assertions=(owned,)))
    assert report.verdict == "pass", report.msg


# -- what is not proven ------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_was_not_checked_is_skipped_with_its_reason_and_never_ok(
    passed, plant, tmp_path, monkeypatch
):
    """No evidence in the set, and an HTTP check that a throwaway server cannot answer."""
    # What would read the answer is not needed for a request that is not made.
    monkeypatch.setattr(answers, "HAS_JMESPATH", False)
    directory = tmp_path / "bare"
    plant.server.backup(directory, "shop", evidence="none")
    report = plant.drill(
        directory,
        record_file=passed.record,
        assertions=_ASSERTIONS[:1],
        http_checks=(HttpCheck(name="health", service="web", port=80, expect="ok"),),
    )
    assert report.verdict == "partial"
    evidence, http = check(report, "evidence"), check(report, "http")
    assert (evidence["status"], http["status"]) == ("skipped", "skipped")
    assert "evidence" in evidence["reason"]
    assert "target live" in http["reason"]
    assert "health" not in report.details["reason"]
    assert report.details["not_compared"]
    # The second entry of a day has a heading of its own.
    first, second = passed.report.details, report.details
    day = f"DRILL-{second['at'][:10]}"
    assert second["record"] == (f"{day}-2" if first["at"][:10] == second["at"][:10] else day)
    text = passed.record.read_text()
    assert text.count(f"### {first['record']}: ") == 1
    assert text.count(f"### {second['record']}: ") == 1
    assert "health: skipped" in text


@pytest.mark.slow
@pytest.mark.parametrize(("content", "verdict"), [("", "pass"), ("SELECT lo_create(0)", "partial")])
def test_large_objects_that_a_role_may_not_read_are_a_shortcoming_where_there_are_any(
    plant, sets, content, verdict
):
    database = plant.server.create()
    role = f"plain_{database}"
    plant.server.sql(f"CREATE ROLE {role} LOGIN; ALTER DATABASE {database} OWNER TO {role}")
    owned = f"CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 1 AS id; {content}"
    plant.server.sql(owned, database, user=role)
    target = plant.server.target(database, user=role)
    backup(BackupRequest(target, sets, globals=False))
    report = drill(DrillRequest(plant.server.target(database), sets))
    assert report.verdict == verdict, report.msg
    assert ("large objects" in report.details["reason"]) is bool(content)


@pytest.mark.slow
def test_fingerprints_of_a_machine_with_another_byte_order_are_not_compared_and_that_is_said(
    plant, directory
):
    """The server's hashes depend on it, those of large objects too."""
    known = manifest_of(directory)
    tables = tuple(
        replace(table, fingerprint="1") if table.fingerprint else table
        for table in known.evidence.tables
    )
    large = replace(known.evidence.large_objects, fingerprint="1")
    rewrite(
        directory,
        source=replace(known.source, byte_order="big"),
        evidence=replace(known.evidence, tables=tables, large_objects=large),
    )
    report = plant.drill(directory)
    assert report.verdict == "pass"
    assert any("byte order big" in said for said in report.details["not_compared"])


def test_a_set_that_has_row_counts_only_passes_and_says_that_contents_were_not_compared(
    plant, sets, tmp_path
):
    database = plant.server.create(content="CREATE TABLE t AS SELECT generate_series(1, 9) AS id")
    plant.server.backup(sets, database, evidence="counts")
    record = tmp_path / "drills.md"
    report = drill(DrillRequest(plant.server.target(database), sets, record_file=record))
    assert report.verdict == "pass", report.msg
    assert check(report, "evidence")["reason"] == "1 tables, by their rows"
    (said,) = report.details["not_compared"]
    assert said == "contents of tables and large objects (the set has only their counts)"
    assert "not compared: contents of tables" in record.read_text()
    restored = plant.server.restore(sets, database)
    assert restored.details["not_compared"] == [said]


@pytest.mark.parametrize(
    "lacking", ["table", pytest.param("large objects", marks=pytest.mark.slow)]
)
def test_what_could_not_be_read_for_the_evidence_leaves_a_drill_partial(plant, directory, lacking):
    known = manifest_of(directory).evidence
    unread = {"rows": None, "fingerprint": None, "note": "cannot be read: out of memory"}
    changes: dict[str, Any] = {"large_objects": None}
    if lacking == "table":
        tables = [replace(t, **unread) if t.label == "public.jobs" else t for t in known.tables]
        changes = {"tables": tuple(tables)}
    rewrite(directory, evidence=replace(known, **changes))
    report = plant.drill(directory)
    assert report.verdict == "partial", report.msg
    evidence = check(report, "evidence")
    assert evidence["status"] == "partial"
    named = "public.jobs (cannot be read: out of memory)" if lacking == "table" else lacking
    assert named in evidence["reason"]
    assert named in report.details["reason"]
    # What never is compared is listed, and no shortcoming.
    (view,) = (said for said in report.details["not_compared"] if "contents are not read" in said)
    assert view not in evidence["reason"]


def test_without_a_set_nothing_was_tested(plant, tmp_path):
    report = plant.drill(tmp_path)
    assert report.verdict == "not_tested"
    assert str(tmp_path) in report.msg
    assert report.details["rto_s"] == 0


def test_a_set_of_another_database_is_no_drill_of_this_one(plant, directory):
    """Nor does it blame or clear the set."""
    name, log = manifest_of(directory).name, directory / LOG_NAME

    def said_of_sets() -> tuple[object, ...]:
        return last_drills(log), passed_sets(log, partly=True), damaged_sets(log)

    before = said_of_sets()
    request = DrillRequest(plant.server.target("postgres"), directory, name)
    with pytest.raises(SetError, match='is of database "shop", not of "postgres"'):
        drill(replace(request, check=True))
    report = drill(request)
    assert (report.verdict, report.set_name) == ("not_tested", "")
    assert name in report.msg
    assert 'is of database "shop", not of "postgres". Production was not touched.' in report.msg
    assert report.phases == {}
    entry = read_log(log)[-1]
    assert (entry["verdict"], entry["set_name"]) == ("not_tested", "")
    assert said_of_sets() == before


# -- the records -------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_written_costs_nobody_the_log(plant, directory):
    report = plant.drill(directory, source="no_such", record_file=directory)
    assert report.verdict == "not_tested"
    assert read_log(directory / LOG_NAME)[-1]["at"] == report.details["at"]
    (said,) = report.warnings
    assert f"The record {directory} cannot be written" in said


def test_a_log_that_cannot_be_written_costs_nobody_the_record(plant, directory):
    record = directory / "drills.md"
    report = plant.drill(directory, source="no_such", record_file=record, log_file=directory)
    assert report.details["record"] in record.read_text()
    (said,) = report.warnings
    assert f"The record {directory} cannot be written" in said


def test_a_log_that_was_named_is_made_with_its_directory_or_that_is_told(plant, tmp_path):
    log = tmp_path / "var" / "log.jsonl"
    plant.drill(tmp_path / "nowhere", log_file=log)
    assert len(read_log(log)) == 1
    # Without a name there is none where there is no backup directory.
    assert not (tmp_path / "nowhere").exists()
    report = plant.drill(tmp_path, log_file=log / "below.jsonl")
    (said,) = report.warnings
    assert str(log / "below.jsonl") in said


# -- the backup is bad -------------------------------------------------------------------------------


def test_a_damaged_set_is_a_bad_backup(plant, directory):
    (dump,) = directory.glob("*.dump")
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    report = plant.drill(directory)
    assert report.verdict == "backup_bad"
    assert dump.name in report.details["reason"]
    assert "SHA-256" in report.details["reason"]
    entry = json.loads((directory / "drills.jsonl").read_text().splitlines()[-1])
    assert entry["verdict"] == "backup_bad"


def test_other_rows_than_were_dumped_are_a_bad_backup_and_the_tables_are_named(plant, directory):
    evidence = manifest_of(directory).evidence
    changed = {
        "public.jobs": lambda t: replace(t, rows=t.rows + 1),
        "public.users": lambda t: replace(t, fingerprint="12345"),
    }
    tables = tuple(changed.get(t.label, lambda t: t)(t) for t in evidence.tables)
    rewrite(directory, evidence=replace(evidence, tables=tables))
    report = plant.drill(directory)
    assert report.verdict == "backup_bad"
    assert check(report, "evidence")["status"] == "failed"
    found = report.details["differences"]
    assert len(found) == 2
    assert any("public.jobs" in d and "2001" in d and "2000" in d for d in found)
    assert any("public.users" in d for d in found)
    assert "public.jobs" in report.details["reason"]


def test_a_false_assertion_and_an_old_set_are_a_bad_backup_and_both_are_named(plant, directory):
    rewrite(directory, created_at="2026-01-01T00:00:00Z")
    report = plant.drill(
        directory,
        freshness=Freshness(86400),
        assertions=(*_ASSERTIONS[:1], Assertion("SELECT count(*) > 500 FROM users", "more users")),
    )
    assert report.verdict == "backup_bad"
    reason = report.details["reason"]
    assert "more users" in reason
    assert "2026-01-01" in reason
    assert "every user" not in reason
    assert check(report, "evidence")["status"] == "ok"


def test_properties_that_no_restore_could_set_are_a_bad_backup_in_the_words_of_the_restore(
    plant, directory
):
    known = manifest_of(directory).properties
    refused = replace(known, settings=(*known.settings, ("", "no_such_setting=1")))
    rewrite(directory, properties=refused)
    report = plant.drill(directory)
    assert report.verdict == "backup_bad", report.msg
    assert "Properties of the database could not be set: " in report.msg
    assert "no_such_setting" in report.msg
    with pytest.raises(ToolError) as failure:
        # Where there is none yet, and no live one to be like.
        plant.server.restore(directory, "shop_again", source=report.set_name, force=True)
    said = "Properties of the database could not be set: "
    assert failure.value.what.startswith(said)


def test_what_a_throwaway_server_cannot_have_is_not_missed_and_other_roles_settings_are(
    plant, directory
):
    """It has no tablespace, and no role that the database does not need."""
    known = manifest_of(directory)
    kept = ("temp_tablespaces=fast", "temp_tablespaces=fast, slow")
    properties = replace(
        known.properties,
        settings=(*known.properties.settings, ("", kept[0]), ("keeper", kept[1])),
    )
    keeper = next(role for role in known.roles if role.name == "keeper")
    keeper = replace(
        keeper,
        settings=("temp_tablespaces=fast", "no_such_setting=1"),
        member_of=(Membership("bystander", admin=True), Membership("pg_monitor")),
    )
    roles = tuple(keeper if role.name == "keeper" else role for role in known.roles)
    rewrite(directory, properties=properties, roles=roles)
    report = plant.drill(
        directory,
        assertions=(Assertion("SELECT pg_has_role('keeper', 'pg_monitor', 'MEMBER')", "joined"),),
    )
    assert report.verdict == "pass", report.msg
    (said,) = report.warnings
    assert said.startswith("role keeper has not got its setting no_such_setting: ")


@pytest.mark.slow
def test_a_set_that_its_disk_cannot_give_back_is_a_bad_backup(plant, directory):
    globals_entry = manifest_of(directory).globals
    roles = directory / globals_entry.name
    roles.unlink()
    # A regular file of no bytes, reading which ends as reading a bad sector does.
    roles.symlink_to("/proc/self/mem")
    rewrite(directory, globals=replace(globals_entry, bytes=0))
    report = plant.drill(directory)
    assert report.verdict == "backup_bad"
    assert str(roles) in report.msg
    assert "Input/output error" in report.msg
    assert "dmesg" in report.msg
    entry = json.loads((directory / "drills.jsonl").read_text().splitlines()[-1])
    assert entry["verdict"] == "backup_bad"


#: Statistics of `stubborn` cannot be made in a throwaway server, which runs without fsync.
_STUBBORN = """
CREATE FUNCTION refuse(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  IF pg_catalog.current_query() = 'ANALYZE' AND pg_catalog.current_setting('fsync') = 'off' THEN
    RAISE 'there is none left' USING ERRCODE = '{code}';
  END IF;
  RETURN $1;
END $$;
CREATE TABLE stubborn AS SELECT generate_series(1, 9) AS id;
CREATE INDEX ON stubborn (refuse(id));
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "verdict"), [("53100", "environment"), ("22012", "backup_bad")], ids=["disk", "data"]
)
def test_a_throwaway_server_that_refuses_a_statement_gives_a_verdict(plant, sets, code, verdict):
    database = plant.server.create(content=_STUBBORN.format(code=code))
    plant.server.backup(sets, database)
    report = drill(DrillRequest(plant.server.target(database), sets))
    assert report.verdict == verdict
    assert "there is none left" in report.details["reason"]
    entry = json.loads((sets / "drills.jsonl").read_text().splitlines()[-1])
    assert entry["verdict"] == verdict


# -- the backup is not to blame ----------------------------------------------------------------------


@pytest.mark.slow
def test_an_assertion_that_cannot_be_asked_does_not_blame_the_backup(plant, directory):
    wrong = Assertion("SELECT count(*) > 0 FROM no_such_table", "a slip of the pen")
    report = plant.drill(directory, assertions=(wrong,))
    assert report.verdict == "environment"
    assert "a slip of the pen" in report.details["reason"]
    assert "no_such_table" in report.details["reason"]
    assert check(report, "assertion")["status"] == "error"
    assert check(report, "evidence")["status"] == "ok"


@pytest.mark.slow
def test_a_server_that_does_not_start_here_does_not_blame_the_backup(plant, directory):
    source = manifest_of(directory).source
    rewrite(directory, source=replace(source, preload_libraries="no_such_library"))
    before = plant.picture()
    report = plant.drill(directory)
    assert report.verdict == "environment"
    assert "no_such_library" in report.details["reason"]
    assert report.details["rto_s"] == 0
    assert plant.picture() == before
    assert own_containers() == []
    assert own_volumes() == []


@pytest.mark.parametrize("name", ["fdt-elsewhere", ""], ids=["elsewhere", "unnamed"])
def test_a_set_is_drilled_where_its_server_is_not(plant, directory, tmp_path, name):
    """As on another machine, whose image of the same name may have another id."""
    source = manifest_of(directory).source
    if not name:
        rewrite(directory, source=replace(source, image_id=f"sha256:{'0' * 64}", host="old"))
    target = Target(database="shop", container=name)
    here = tmp_path / "records" / "of drills"
    source_file = str(next(directory.glob("*.dump")))
    request = DrillRequest(target, here, source_file, assertions=_ASSERTIONS[:2])
    assert plant.server.name not in drill(replace(request, check=True)).warnings[-1]
    assert not here.parent.exists()
    report = drill(request)
    assert '"pass"' in (here / "drills.jsonl").read_text()
    assert (report.verdict, report.container) == ("pass", plant.server.name)
    assert report.details["rows"]["public.users"] == 500
    said = report.warnings[-1]
    assert ('no container "fdt-elsewhere"' if name else "No container was named") in said
    assert ("that made the dump" if name else "as this host has it; old is not told") in said
    assert own_containers() == []
    assert own_volumes() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"image_id": "", "image_digest": "", "image": "fdt-nosuch:9", "host": "pi9"},
            ("docker pull fdt-nosuch:9", "docker save", "pi9"),
        ),
        ({"major": 99}, ("the set is of 99",)),
    ],
    ids=["absent", "older"],
)
def test_where_neither_server_nor_image_is_the_drill_names_what_is_missing(
    directory, tmp_path, changes, said
):
    rewrite(directory, source=replace(manifest_of(directory).source, **changes))
    log = tmp_path / "log.jsonl"
    # That there can be no directory of sets costs nobody the log.
    nowhere = Path("/dev/null/sets")
    source = str(next(directory.glob("*.dump")))
    target = Target(database="shop", container="fdt-elsewhere")
    report = drill(DrillRequest(target, nowhere, source, log_file=log))
    assert report.verdict == "environment"
    assert '"environment"' in log.read_text()
    for words in said:
        assert words in report.details["reason"]


def test_a_server_that_is_down_is_a_verdict_and_on_record(image, plant, directory):
    stopped = docker("create", "--label", LABEL, image)
    target = replace(plant.server.target("shop"), container=stopped)
    request = DrillRequest(target, directory, record_file=directory / "drills.md")
    try:
        with pytest.raises(TargetError, match="has to run"):
            drill(replace(request, check=True))
        report = drill(request)
    finally:
        remove(stopped)
    assert (report.verdict, report.container) == ("environment", stopped)
    assert "has to run" in report.details["reason"]
    assert "Verdict: environment" in request.record_file.read_text()
    entry = json.loads((directory / "drills.jsonl").read_text().splitlines()[-1])
    assert (entry["verdict"], entry["database"]) == ("environment", "shop")
