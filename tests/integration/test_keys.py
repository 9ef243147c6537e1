# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys of age, SSH and gpg: what can be used is told from what cannot, before anything is encrypted or opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from keys import MAKERS, KeyPair, age_key, gpg_key, rotated_gpg_key, ssh_key
from recovery_sets import a_manifest
from servers import await_that

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import (
    ConfigError,
    LockedError,
    SetError,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.filenames import CIPHERS
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.keyring import (
    GpgKey,
    Identity,
    open_key,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Encryption
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.outlet import outlet
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.recipients import (
    Recipients,
    encryption_of,
    prepare,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import (
    RUNTIME_DIRECTORY,
    Run,
)
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.sealed import decrypting
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.vault import Vault

pytestmark = pytest.mark.integration

#: More than a pipe and a chunk of age hold.
CONTENT = b"a secret line of a dump\n" + os.urandom(300_000)


@pytest.fixture
def run() -> Iterator[Run]:
    with Run("test") as run:
        yield run


def encrypted(directory: Path, recipients: Recipients, content: bytes = CONTENT) -> Path:
    name = f"shop.dump{recipients.ending}"
    with Vault(directory).unnamed() as file:
        with outlet(file, recipients) as out:
            out.write(content)
            out.finish()
        file.publish(name)
    return directory / name


def opened(run: Run, path: Path, identity: str) -> bytes:
    with open_key(run, Identity(identity)) as key, decrypting(path, key, None) as stream:
        return b"".join(iter(stream.read, b""))


@pytest.mark.parametrize("kind", MAKERS)
def test_each_of_several_recipients_opens_what_was_encrypted_and_nobody_else(
    run: Run, tmp_path: Path, kind: str
) -> None:
    first, second, stranger = (MAKERS[kind]() for unused in range(3))
    recipients = prepare(run, Encryption(first.method, (first.public, second.public)))
    path = encrypted(tmp_path, recipients)
    assert CONTENT[:20] not in path.read_bytes()
    assert opened(run, path, first.private) == opened(run, path, second.private) == CONTENT
    with pytest.raises(LockedError, match="does not open") as wrong:
        opened(run, path, stranger.private)
    assert stranger.secret not in str(wrong.value)


@pytest.mark.parametrize("kind", ["age", "gpg"])
def test_a_file_that_was_cut_or_changed_is_not_taken_for_whole(
    run: Run, tmp_path: Path, kind: str
) -> None:
    pair = MAKERS[kind]()
    path = encrypted(tmp_path, prepare(run, pair.encryption))
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:middle],
        whole[:-1],
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        b"",
    ):
        path.write_bytes(damaged)
        with pytest.raises(SetError, match="damaged"):
            opened(run, path, pair.private)


@pytest.mark.parametrize("method", CIPHERS)
def test_a_run_opens_what_it_encrypted_itself_though_it_has_no_recipients_key(
    run: Run, tmp_path: Path, method: str
) -> None:
    pair = MAKERS[method]()
    recipients = prepare(run, pair.encryption, own_key=True)
    path = encrypted(tmp_path, recipients)
    assert recipients.own_key
    with decrypting(path, recipients.own_key, None) as stream:
        assert b"".join(iter(stream.read, b"")) == CONTENT
    assert opened(run, path, pair.private) == CONTENT
    assert len(recipients.encryption.recipients) == 1


def test_the_comment_of_an_ssh_key_is_not_kept(run: Run) -> None:
    (kept,) = prepare(run, ssh_key().encryption).encryption.recipients
    assert kept.startswith("ssh-ed25519 ")
    assert "who@where" not in kept


def test_public_keys_of_files_are_read_with_comments_and_armor(run: Run, tmp_path: Path) -> None:
    first, second, armored = age_key(), ssh_key(), gpg_key()
    (tmp_path / "age").write_text(f"# ours\n{first.public}\n\n{second.public}\n")
    (tmp_path / "gpg").write_text(armored.public)
    found = encryption_of("age", [], [tmp_path / "age"])
    assert found.recipients == (first.public, second.public)
    assert len(prepare(run, found).encryption.recipients) == 2
    assert prepare(run, encryption_of("gpg", [], [tmp_path / "gpg"])).encryption.method == "gpg"


def unusable() -> dict[str, tuple[str, str, str]]:
    """Method, recipient, and what is said of it."""
    age, ssh, gpg = age_key(), ssh_key(), gpg_key()
    return {
        "malformed": ("age", "age1notakey", "malformed recipient"),
        "cut": ("age", age.public[:-1], "malformed recipient"),
        "private": ("age", age.private.splitlines()[-1], "private key"),
        "gpg for age": ("age", gpg.public, "cannot be encrypted to"),
        "ecdsa": ("age", ssh_key("ecdsa").public, "cannot be encrypted to"),
        "ssh for gpg": ("gpg", ssh.public, "SSH keys are for age"),
        "fingerprint": ("gpg", "0123456789ABCDEF0123456789ABCDEF01234567", "armored"),
        "expired": ("gpg", gpg_key(expired=True).public, "has expired"),
        "private gpg": ("gpg", gpg.private, "private key"),
        "damaged": ("gpg", gpg.public.replace("\n\n", "\n\nAAAA", 1), "cannot"),
    }


@pytest.mark.slow
def test_a_public_key_that_cannot_be_used_is_named_with_the_reason(run: Run) -> None:
    good = {"age": age_key().public, "gpg": gpg_key().public}
    for label, (method, public, words) in unusable().items():
        with pytest.raises(ConfigError) as refusal:
            prepare(run, Encryption(method, (good[method], public)))
        said = str(refusal.value)
        assert words in said, label
        assert "Nothing was changed" in said
        assert "AGE-SECRET-KEY" not in said
    with pytest.raises(ConfigError, match="no recipient"):
        prepare(run, Encryption("age", ()))
    with pytest.raises(ConfigError, match="no way to encrypt"):
        prepare(run, Encryption("rot13", ("x",)))


def protected() -> list[str]:
    return [
        ssh_key(passphrase="correct horse").private,
        gpg_key(passphrase="correct horse").private,
    ]


@pytest.mark.slow
def test_a_private_key_with_a_passphrase_is_refused_in_words(run: Run) -> None:
    armored = "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n"
    for text in [*protected(), armored]:
        with pytest.raises(ConfigError, match="passphrase"), open_key(run, Identity(text)):
            pass


@pytest.mark.parametrize("text", ["hello", "AGE-SECRET-KEY-1SHORT", "age1abc", "ssh-ed25519 AAAA"])
def test_what_is_no_private_key_is_refused_and_not_repeated(run: Run, text: str) -> None:
    with pytest.raises(ConfigError) as refusal, open_key(run, Identity(text)):
        pass
    assert text not in str(refusal.value)


#: One of a plugin that no host has, well-formed.
PLUGIN = "AGE-PLUGIN-NONEXIST-1QQQQQQQQQQQQQQQQ64SP8X"


@pytest.mark.parametrize("identity", [PLUGIN, PLUGIN[:-1], "AGE-PLUGIN-1"])
def test_a_key_that_age_cannot_use_does_not_make_a_set_damaged(
    run: Run, tmp_path: Path, identity: str
) -> None:
    path = encrypted(tmp_path, prepare(run, age_key().encryption))
    with pytest.raises(LockedError, match="The private key cannot be used") as refusal:
        opened(run, path, identity)
    assert identity not in str(refusal.value)


def test_an_ssh_key_of_another_kind_or_beside_one_of_age_is_refused_in_words(run: Run) -> None:
    ssh = ssh_key().private
    for text, words in (
        (ssh_key("ecdsa").private, "kind ecdsa-sha2-nistp256, age takes ssh-ed25519"),
        (ssh + age_key().private, "one of SSH and one of age"),
        (age_key().private + ssh, "one of SSH and one of age"),
    ):
        with pytest.raises(ConfigError, match=words), open_key(run, Identity(text)):
            pass


def test_a_comment_in_front_of_an_ssh_key_does_no_harm(run: Run, tmp_path: Path) -> None:
    pair = ssh_key()
    path = encrypted(tmp_path, prepare(run, pair.encryption))
    assert opened(run, path, f"\ufeff# the key of the house\n\n{pair.private}") == CONTENT


def test_a_part_that_gpg_got_later_is_not_proved_by_an_older_export(
    run: Run, tmp_path: Path
) -> None:
    before, after = rotated_gpg_key()
    (former,) = prepare(run, before.encryption).encryption.recipients
    recipients = prepare(run, after.encryption)
    (present,) = recipients.encryption.recipients
    assert former != present
    with open_key(run, Identity(before.private)) as key:
        assert key.public == (former,)
    with open_key(run, Identity(after.private)) as key:
        assert key.public == (former, present)
    path = encrypted(tmp_path, recipients)
    assert opened(run, path, after.private) == CONTENT
    with pytest.raises(LockedError, match="does not open"):
        opened(run, path, before.private)


def test_a_key_whose_private_part_is_not_here_is_told_from_a_wrong_one(
    run: Run, tmp_path: Path
) -> None:
    recipients = prepare(run, gpg_key().encryption)
    path = encrypted(tmp_path, recipients)
    manifest = replace(a_manifest("gpg"), encryption=recipients.encryption)
    for public, words in ((recipients.encryption.recipients, "card"), (("ABCD",), "Give the")):
        key = GpgKey(run.private_directory("gpg"), public)
        with (
            pytest.raises(LockedError, match=r"\(.*No secret key\)") as refusal,
            decrypting(path, key, manifest),
        ):
            pass
        assert words in refusal.value.todo


def test_the_key_for_the_other_program_is_told_from_a_wrong_one(run: Run, tmp_path: Path) -> None:
    path = encrypted(tmp_path, prepare(run, age_key().encryption))
    with pytest.raises(LockedError, match="the private key is one for gpg"):
        opened(run, path, gpg_key().private)
    with pytest.raises(LockedError, match="no private key was given"):
        opened(run, path, "")


def agents(home: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            found += [line] if "gpg-agent" in line and home in line else []
    return found


def test_nothing_of_gpg_stays_when_the_run_has_ended(tmp_path: Path) -> None:
    pair: KeyPair = gpg_key()
    with Run("test") as run:
        path = encrypted(tmp_path, prepare(run, pair.encryption))
        assert opened(run, path, pair.private) == CONTENT
        homes = [p for p in run.directory.iterdir() if p.name.startswith("gpg")]
        assert {p.stat().st_mode & 0o777 for p in homes} == {0o700}
    assert not run.directory.exists()
    # It is told to end, and ends after its answer.
    await_that(lambda: not agents(str(RUNTIME_DIRECTORY / run.id)), "the agent has ended")
