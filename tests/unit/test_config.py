# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file of settings: what it gives, and what it refuses, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.firedrill.postgres.plugins.module_utils._engine import config
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.config import (
    Config,
    load_config,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    ConfigError,
    HostError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import (
    Assertion,
    Encryption,
    Freshness,
    SqlScript,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.retention import Policy

WHOLE = """
backup_dir: /var/backups/firedrill
retention:
  days: 14
  keep_weekly: 4
  keep_monthly: 12
databases:
  ai_fsm:
    project: ai-fsm
    service: db
    user: postgres
    login_password_file: {secret}
    timeout_s: 3600
    compress: zstd:3
    evidence: counts
    globals: false
    exclude_table_data: [public.sessions]
    min_free_bytes: 1000000000
    method: swap
    stop_services: [web, worker]
    jobs: 2
    no_owner: true
    no_privileges: true
    post_sql:
      - container_file: /docker-entrypoint-initdb.d/001_core_schema.sql
      - sql: ANALYZE
    keep_previous: false
    safety_dump: false
    verify: true
    restore_superusers: false
    assertions:
      - SELECT count(*) > 0 FROM public.users
      - name: an owner exists
        sql: SELECT true
    freshness: {{max_age_s: 93600, sql: SELECT max(at) FROM public.audit_log}}
    http_checks:
      - {{service: web, port: 3000, path: /api/health, expect: status, equals: ok}}
      - name: login
        service: web
        port: 3000
        path: /api/v1/auth/login
        method: POST
        body_file: {body}
        expect: user.role
        equals: owner
    record_file: /srv/docs/DECISION_LOG.md
  Other Shop:
    container: shop-db
    database: shop
    backup_dir: /mnt/usb/backups
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return tmp_path / "config.yml"


def read(path: Path, text: str) -> Config:
    path.write_text(text)
    return load_config(path)


def problems(path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, text)
    return str(caught.value)


@pytest.fixture
def whole(settings: Path, tmp_path: Path) -> Config:
    secret, body = tmp_path / "secret", tmp_path / "body"
    secret.write_text("p'\"$( )\\ä\n")
    body.write_text('{"email": "admin@example.com", "password": "geheim"}')
    return read(settings, WHOLE.format(secret=secret, body=body))


def test_a_backup_is_asked_for_as_written(whole: Config) -> None:
    request = whole.sections["ai_fsm"].backup()
    assert (request.target.database, request.target.project, request.target.service) == (
        "ai_fsm",
        "ai-fsm",
        "db",
    )
    assert request.directory == Path("/var/backups/firedrill")
    assert (request.compress, request.evidence, request.globals) == ("zstd:3", "counts", False)
    assert request.exclude_table_data == ("public.sessions",)
    assert (request.min_free_bytes, request.timeout_s) == (1_000_000_000, 3600)
    assert request.check is False


def test_a_restore_is_asked_for_as_written(whole: Config) -> None:
    request = whole.sections["ai_fsm"].restore(source="20260219_020000", method="replace")
    assert (request.source, request.method) == ("20260219_020000", "replace")
    assert request.stop_services == ("web", "worker")
    assert (request.jobs, request.no_owner, request.no_privileges) == (2, True, True)
    assert request.post_sql == (
        SqlScript(container_file="/docker-entrypoint-initdb.d/001_core_schema.sql"),
        SqlScript(sql="ANALYZE"),
    )
    assert (request.keep_previous, request.safety_dump, request.verify) == (False, False, True)
    assert (request.force, request.timeout_s) == (False, 3600)


def test_a_drill_is_asked_for_as_written(whole: Config) -> None:
    request = whole.sections["ai_fsm"].drill(live=True)
    assert request.assertions == (
        Assertion("SELECT count(*) > 0 FROM public.users"),
        Assertion("SELECT true", "an owner exists"),
    )
    assert request.freshness == Freshness(93600, "SELECT max(at) FROM public.audit_log")
    health, login = request.http_checks
    assert (health.service, health.port, health.path) == ("web", 3000, "/api/health")
    assert (health.expect, health.equals, health.method) == ("status", "ok", "GET")
    assert login.body == {"email": "admin@example.com", "password": "geheim"}
    assert request.record_file == Path("/srv/docs/DECISION_LOG.md")


def test_a_drill_of_a_set_knows_the_checks_of_the_application_without_their_secrets(
    whole: Config, tmp_path: Path
) -> None:
    (tmp_path / "body").unlink()
    health, login = whole.sections["ai_fsm"].drill().http_checks
    assert (health.label, login.label) == ("GET web:3000/api/health", "login")
    assert (login.body, login.headers) == (None, {})


def test_a_password_comes_from_its_file_without_the_line_break(whole: Config) -> None:
    assert whole.sections["ai_fsm"].target().login_password == "p'\"$( )\\ä"


def test_verify_needs_no_password_file(whole: Config, tmp_path: Path) -> None:
    (tmp_path / "secret").unlink()
    assert whole.sections["ai_fsm"].verify(source="latest").target.login_password == ""
    with pytest.raises(HostError, match=r"secret.*cannot be read: No such file"):
        whole.sections["ai_fsm"].backup()


def test_secrets_are_in_no_representation(whole: Config) -> None:
    section = whole.sections["ai_fsm"]
    for shown in (repr(whole), repr(section.backup()), repr(section.drill(live=True))):
        assert '"$( )' not in shown
        assert "geheim" not in shown


def test_a_section_has_its_own_name_database_and_directory(whole: Config) -> None:
    request = whole.sections["Other Shop"].backup()
    assert (request.target.container, request.target.database) == ("shop-db", "shop")
    assert request.directory == Path("/mnt/usb/backups")
    assert whole.policy == Policy(days=14, keep_weekly=4, keep_monthly=12)


def test_a_body_that_is_no_json_goes_out_as_it_is(settings: Path, tmp_path: Path) -> None:
    (tmp_path / "body").write_text("user=admin&password=x\n")
    found = read(
        settings,
        "backup_dir: /b\ndatabases: {a: {container: c, http_checks: [{url: 'http://x/', "
        f"body_file: {tmp_path}/body}}]}}}}",
    )
    assert found.sections["a"].drill(live=True).http_checks[0].body == "user=admin&password=x"


ENCRYPTED = """
backup_dir: /b
encryption: {{with: age, recipients: [age1ours], recipients_files: [{file}]}}
databases:
  shop: {{container: c, identity_file: /media/key}}
  clinic: {{container: c, encryption: {{with: gpg, recipients: ["-----BEGIN"]}}}}
"""


def test_sets_are_encrypted_as_written_and_a_database_outranks_the_host(
    settings: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("# theirs\nage1theirs\n")
    found = read(settings, ENCRYPTED.format(file=tmp_path / "keys"))
    shop, clinic = found.sections["shop"], found.sections["clinic"]
    ours = Encryption("age", ("age1ours", "age1theirs"))
    assert shop.backup().encryption == shop.restore(method="replace").encryption == ours
    assert clinic.backup().encryption == Encryption("gpg", ("-----BEGIN",))
    opened = (shop.restore(), shop.drill(), shop.verify())
    assert {request.identity_file for request in opened} == {Path("/media/key")}


def test_public_keys_that_are_gone_are_in_the_way_of_no_restore_that_needs_none(
    settings: Path, tmp_path: Path
) -> None:
    shop = read(settings, ENCRYPTED.format(file=tmp_path / "gone")).sections["shop"]
    for unneeded in ({}, {"method": "replace", "safety_dump": False}):
        assert shop.restore(**unneeded).encryption is None
    for needed in ({"method": "replace"}, {"keep_previous": False}):
        with pytest.raises(HostError, match="gone cannot be read"):
            shop.restore(**needed)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{recipients: [age1x]}", "encryption.with is missing"),
        ("{with: age}", "encryption names no public key"),
        ("{with: rot13, recipients: [x]}", "encryption.with"),
        ("{with: age, recipient: [x]}", "did you mean recipients?"),
    ],
)
def test_an_encryption_that_makes_no_sense_is_refused(
    settings: Path, written: str, words: str
) -> None:
    text = f"backup_dir: /b\nencryption: {written}\ndatabases: {{a: {{container: c}}}}\n"
    assert words in problems(settings, text)


def test_the_shortest_file_will_do(settings: Path) -> None:
    found = read(settings, "backup_dir: /b\ndatabases:\n  shop: {container: db}\n")
    assert found.policy.days == 7
    assert found.sections["shop"].backup().compress == "auto"
    assert found.sections["shop"].backup().target.database == "shop"


def test_everything_that_is_wrong_is_told_at_once_with_key_and_file(settings: Path) -> None:
    said = problems(
        settings,
        """
backup_dir: backups
retenton: {days: 7}
databases:
  shop:
    container: [a]
    jobs: two
    globals: "yes"
    evidence: some
    compress: brotli
    timeout_s: -1
    min_free_bytes: 1.5
    method: magic
    stop_service: web
    exclude_table_data:
    post_sql: [{file: /a, sql: b}]
    assertions: [{name: x}]
    freshness: {}
    http_checks: [{service: web}, {url: "http://x/", port: http}]
""",
    )
    assert said.startswith(f"{settings} cannot be used: (1) ")
    for words in (
        'backup_dir has to begin with "/"',
        "retenton is no known key (did you mean retention?)",
        "databases.shop.container has to be text, not a list",
        "databases.shop.jobs has to be a whole number from 0 on, not text",
        "databases.shop.globals has to be true or false, not text",
        'databases.shop.evidence has to be one of full, counts, none, not "some"',
        'databases.shop.compress: "brotli" is no compression',
        "databases.shop.timeout_s has to be a number from 0 on, not the number -1",
        "databases.shop.min_free_bytes has to be a whole number from 0 on",
        'databases.shop.method has to be one of swap, replace, not "magic"',
        "databases.shop.stop_service is no known key (did you mean stop_services?)",
        "databases.shop.exclude_table_data has to be a list, not nothing",
        "databases.shop.post_sql[1] needs one of file, container_file and sql",
        "databases.shop.assertions[1].sql is missing",
        "databases.shop.freshness.max_age_s is missing",
        "databases.shop.http_checks[1] needs either url, or service and port",
        "databases.shop.http_checks[2].port has to be a whole number from 1 on, not text",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{}", "databases.shop needs either container, or project and service"),
        ("{container: c, service: db}", "needs either container, or project and service"),
        ("{project: p}", "databases.shop needs both project and service"),
        (
            "{container: c, login_password: x, login_password_file: /x}",
            "has both login_password and login_password_file",
        ),
        ("", "databases.shop has to be a mapping (`key: value`), not nothing"),
        ("{container: no}", "container has to be text, not true or false (put it in quotes"),
        ("{container: 2026}", "container has to be text, not the number 2026"),
        ('{container: ""}', "container must not be empty"),
        ("{container: c, timeout_s: .nan}", "timeout_s has to be a number from 0 on"),
        ("{container: c, timeout_s: .inf}", "timeout_s has to be a number from 0 on"),
        ("{container: c, jobs: true}", "jobs has to be a whole number from 0 on"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(settings: Path, section: str, words: str) -> None:
    assert words in problems(settings, f"backup_dir: /b\ndatabases:\n  shop: {section}\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file has to be a mapping (`key: value`), not nothing"),
        ("- a", "the file has to be a mapping (`key: value`), not a list"),
        ("backup_dir: /b", "databases is missing"),
        ("databases: {a: {container: c}}", "backup_dir is missing"),
        ("backup_dir: /b\ndatabases: {1: {container: c}}", "databases has the key 1"),
        ("backup_dir: /b\nretention: {days: -1}", "retention.days has to be a number from 0 on"),
        (
            "backup_dir: /b\nretention: {keep_yearly: 1.5}",
            "retention.keep_yearly has to be a whole number from 0 on",
        ),
        ("backup_dir: /b\ndatabases: {a: {container: c}}\nbackup_dir: /c", "is there twice"),
        ("a: [", "is no YAML: line 1, column 5"),
        ("a: !!python/object/apply:os.system [x]", "is no YAML: line 1, column 4"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(settings: Path, text: str, words: str) -> None:
    said = problems(settings, text)
    assert words in said
    assert str(settings) in said


def test_a_key_that_is_there_twice_is_named_with_its_line(settings: Path) -> None:
    said = problems(
        settings, "backup_dir: /b\ndatabases:\n  a: {container: c}\n  a: {container: d}\n"
    )
    assert 'line 4, column 3: the key "a" is there twice' in said


def test_anchors_and_merges_may_share_settings(settings: Path) -> None:
    found = read(
        settings,
        """
backup_dir: /b
databases:
  a: &base {project: p, service: db, no_owner: true}
  b: {<<: *base, service: other}
""",
    )
    assert found.sections["b"].restore().no_owner is True
    assert found.sections["b"].target().service == "other"


def test_two_databases_of_one_name_may_not_share_a_directory(settings: Path) -> None:
    text = "backup_dir: /b\ndatabases:\n  one: {container: a, database: app}\n  two: {container: b, database: app%s}\n"
    said = problems(settings, text % "")
    assert 'databases.one and databases.two both keep sets of a database "app" in /b' in said
    assert read(settings, text % ", backup_dir: /c").sections["two"].directory == Path("/c")
    link = settings.with_name("link")
    link.symlink_to("/b")
    for same in (link, "/c/../b"):
        assert "both keep sets" in problems(settings, text % f", backup_dir: {same}")


@pytest.mark.parametrize(
    "secret",
    [
        "login_password: geheim",
        "http_checks: [{url: 'http://x/', body: geheim}]",
        "http_checks: [{url: 'http://x/', headers: {Authorization: geheim}}]",
    ],
)
def test_a_file_with_secrets_that_others_can_read_is_refused(settings: Path, secret: str) -> None:
    text = f"backup_dir: /b\ndatabases: {{a: {{container: c, {secret}}}}}"
    settings.touch()
    for mode in (0o640, 0o604):
        settings.chmod(mode)
        said = problems(settings, text)
        assert f"others can read it (mode 0{mode:o})" in said
        assert f"chmod 600 {settings}" in said
        assert "geheim" not in said
    settings.chmod(0o600)
    assert read(settings, text).sections["a"]


def test_a_file_without_secrets_may_be_read_by_all(settings: Path) -> None:
    settings.touch()
    settings.chmod(0o644)
    assert read(settings, "backup_dir: /b\ndatabases: {a: {container: c}}")


def test_a_wrong_value_is_not_repeated_since_it_may_be_a_password(settings: Path) -> None:
    said = problems(
        settings, "backup_dir: /b\ndatabases: {a: {container: c, jobs: geheim, globals: geheim}}"
    )
    assert "geheim" not in said


def test_a_missing_file_says_what_else_can_be_done(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no configuration file .*--container"):
        load_config(tmp_path / "absent.yml")


def test_a_file_that_is_no_text_is_refused(settings: Path) -> None:
    settings.write_bytes(b"backup_dir: \xff\xfe")
    with pytest.raises(ConfigError, match="is no text in UTF-8"):
        load_config(settings)


def test_a_directory_in_its_place_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_without_the_yaml_library_the_package_is_named(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "HAS_YAML", False)
    with pytest.raises(HostError, match="python3-yaml"):
        load_config(settings)
