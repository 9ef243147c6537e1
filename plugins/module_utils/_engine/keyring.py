# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The keyring: private keys that open sets, held in memory while a run lasts.

A key reaches age through a pipe. gpg opens nothing without a home for its keys: that is a directory of the run's own
below /run, which is memory, and it is gone with the run.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .cipher import Decrypting, call, told
from .durable import read_text
from .errors import ConfigError, HostError, LockedError
from .filenames import method_of
from .run import Run

GPG = ("gpg", "--batch", "--no-tty", "--quiet", "--no-options")
_PASSPHRASE = (
    "it is protected by a passphrase, and nobody can be asked for one here",
    (
        "Give it without: for age the decrypted file, for SSH a copy changed by `ssh-keygen -p`, for gpg an "
        "export after `--change-passphrase` in a directory of its own"
    ),
)
_SSH_MAGIC = b"openssh-key-v1\0"
#: What age can use (age(1), SSH keys).
_SSH_KINDS = ("ssh-ed25519", "ssh-rsa")
_AGE_LINE = re.compile(r"^AGE-(SECRET-KEY|PLUGIN)-", re.MULTILINE)


@dataclass(frozen=True)
class Identity:
    """The text of a private key, or of several of one kind; where it is empty, why, and what to do."""

    text: str = field(repr=False)
    lacking: str = "no private key was given"
    todo: str = "Give the private key (`identity`, `identity_file` or --identity-file)"


class Key:
    """A private key, or several of one kind, that decrypt files. Its secret is in no message and no repr()."""

    #: Which program it is for.
    method = ""
    #: The public keys that belong to it, as far as they can be told.
    public: tuple[str, ...] = ()
    #: Where it has no method: why, and what to do.
    nothing = Identity("")

    def decrypt(self, path: Path) -> Decrypting:
        """The file's content to read; whether it is whole shows at the end.

        :raises LockedError: there is no key, or one for the other program.
        """
        method = method_of(path.name)
        if not self.method:
            raise LockedError(
                f"{path.name} is encrypted with {method}, and {self.nothing.lacking}",
                todo=self.nothing.todo,
            )
        if method != self.method:
            raise LockedError(
                f"{path.name} is encrypted with {method}, and the private key is one for {self.method}",
                todo="Give the private key of one of its recipients",
            )
        return self._decrypt(path)

    def _decrypt(self, path: Path) -> Decrypting:
        raise NotImplementedError

    def __str__(self) -> str:
        return ", ".join(_shown(name) for name in self.public) or "one whose public key is not told"


class NoKey(Key):
    """None, which is told where one is needed."""

    def __init__(self, nothing: Identity) -> None:
        self.nothing = nothing


class AgeKey(Key):
    """Identities of age, or a private key of SSH."""

    method = "age"

    def __init__(self, text: str, public: tuple[str, ...]) -> None:
        self._text = text
        self.public = public

    def _decrypt(self, path: Path) -> Decrypting:
        command = ("age", "--decrypt", "-i", "-", str(path.absolute()))
        return Decrypting(command, path.name, secret=self._text)


class GpgKey(Key):
    """Private keys of gpg, imported into a home of their own."""

    method = "gpg"

    def __init__(self, home: Path, public: tuple[str, ...]) -> None:
        self._home = home
        self.public = public

    def _decrypt(self, path: Path) -> Decrypting:
        command = (*GPG, "--homedir", str(self._home), "--pinentry-mode", "error")
        return Decrypting((*command, "--decrypt", str(path.absolute())), path.name)


class PassphraseKey(Key):
    """A passphrase that was made up for one run, for files that it encrypts with gpg itself."""

    method = "gpg"

    def __init__(self, base: tuple[str, ...]) -> None:
        self._base = base
        self.passphrase = secrets.token_hex(32)

    def _decrypt(self, path: Path) -> Decrypting:
        command = (*self._base, "--decrypt", str(path.absolute()))
        return Decrypting(command, path.name, passphrase=self.passphrase)


def new_age_key() -> AgeKey:
    """A key that nobody else has.

    :raises HostError: it cannot be made.
    """
    made = call(("age-keygen",))
    if made.status:
        raise HostError(f"age-keygen made no key: {told(made.stderr)}")
    return _age_key(made.stdout.decode())


@contextmanager
def open_key(run: Run, identity: Identity) -> Iterator[Key]:
    """The key of a text: identities of age, a private key of SSH, or an armored private key of gpg.

    :raises ConfigError: it is none that can be used here.
    """
    text = identity.text
    if not text.strip():
        yield NoKey(identity)
    elif "-----BEGIN PGP PRIVATE KEY BLOCK-----" in text:
        home = run.private_directory("gpg")
        try:
            yield _gpg_key(home, text)
        finally:
            # Its agent would stay, and hold the key, for as long as it finds its home.
            call(("gpgconf", "--homedir", str(home), "--kill", "all"))
    else:
        yield _age_or_ssh_key(text)


def identity_of(text: str, path: Path | None) -> Identity:
    """A private key that was given as it is, or as a file, or not at all. That a file cannot be read is told where the key
    is needed: not every set is encrypted.

    :raises ConfigError: both were given.
    """
    if text and path:
        raise ConfigError(
            "The private key was given twice, as it is and as a file", todo="Leave one of them out"
        )
    if path is None:
        # As read_text() does of a file.
        return Identity(text.lstrip("\ufeff"))
    try:
        return Identity(read_text(path, "the private key"))
    except HostError as error:
        return Identity("", error.what, error.todo)


def _age_or_ssh_key(text: str) -> Key:
    bare = text.strip()
    if bare.startswith(("age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE-----")):
        raise _refused(*_PASSPHRASE)
    if "PRIVATE KEY-----" in bare:
        if _AGE_LINE.search(bare):
            raise _refused(
                "it is one of SSH and one of age together, which age does not read",
                "Give one of the two",
            )
        # age looks at the first line only, and takes a comment there for a key of its own.
        bare = bare[max(bare.find("-----BEGIN"), 0) :]
        return AgeKey(bare + "\n", _public_of_ssh(bare))
    if _AGE_LINE.search(bare):
        return _age_key(bare + "\n")
    if re.match(r"age1|ssh-|-----BEGIN PGP PUBLIC", bare):
        raise _refused("it is a public key", "Give the private key that belongs to it")
    raise _refused("it is neither one of age, nor of SSH, nor an armored one of gpg")


def _age_key(text: str) -> AgeKey:
    # What age says of a malformed key might repeat a part of it.
    ended = call(("age-keygen", "-y", "-"), text.encode())
    if ended.status and "AGE-PLUGIN-" not in text:
        raise _refused("age cannot read it", "Was it copied whole?")
    return AgeKey(text, tuple(ended.stdout.decode().split()))


def _public_of_ssh(text: str) -> tuple[str, ...]:
    """The public key that lies open in a private one of OpenSSH (PROTOCOL.key of its sources); () for older formats."""
    if "ENCRYPTED" in text:
        raise _refused(*_PASSPHRASE)
    found = re.search(
        r"-----BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END OPENSSH PRIVATE KEY-----",
        text,
        re.DOTALL,
    )
    if not found:
        return ()
    try:
        content = base64.b64decode("".join(found[1].split()), validate=True)
        if not content.startswith(_SSH_MAGIC):
            raise ValueError
        rest = content[len(_SSH_MAGIC) :]
        cipher, rest = _field(rest)
        unused_function, rest = _field(rest)
        unused_options, rest = _field(rest)
        blob, unused_rest = _field(rest[4:])
        kind, unused_rest = _field(blob)
    except (ValueError, binascii.Error, struct.error) as error:
        raise _refused("it is damaged", "Was it copied whole?") from error
    if cipher != b"none":
        raise _refused(*_PASSPHRASE)
    name = kind.decode("ascii", "replace")
    if name not in _SSH_KINDS:
        raise _refused(f"it is one of SSH of the kind {name}, age takes {' and '.join(_SSH_KINDS)}")
    return (f"{name} {base64.b64encode(blob).decode()}",)


def _field(content: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from(">I", content)
    if len(content) < 4 + length:
        raise ValueError
    return content[4 : 4 + length], content[4 + length :]


def _gpg_key(home: Path, text: str) -> GpgKey:
    base = (*GPG, "--homedir", str(home))
    imported = call((*base, "--pinentry-mode", "error", "--import"), text.encode())
    if imported.status:
        raise _refused(f"gpg cannot read it: {told(imported.stderr)}", "Was it exported whole?")
    listed = call((*base, "--with-colons", "--list-secret-keys"))
    public = _decrypting_parts(listed.stdout.decode(errors="replace"))
    if not public:
        raise _refused("there is no private key in it that decrypts", "Was it exported whole?")
    if any(line.split()[7:8] == ["P"] for line in _agent_keys(home)):
        raise _refused(*_PASSPHRASE)
    return GpgKey(home, public)


def _decrypting_parts(listing: str) -> tuple[str, ...]:
    """The fingerprints of all parts in gpg's listing (doc/DETAILS of GnuPG) that decrypt and whose secret is not left out:
    a set is encrypted to one part of a key."""
    found, wanted = [], False
    for line in listing.splitlines():
        fields = [*line.split(":"), *[""] * 15]
        if fields[0] in ("sec", "ssb"):
            wanted = "e" in fields[11] and fields[14] != "#"
        elif fields[0] == "fpr" and wanted:
            found.append(fields[9])
            wanted = False
    return tuple(found)


def _agent_keys(home: Path) -> list[str]:
    """What gpg's agent says of its keys: the eighth word is P for one with a passphrase (KEYINFO)."""
    command = ("gpg-connect-agent", "--homedir", str(home), "KEYINFO --list", "/bye")
    answer = call(command).stdout.decode(errors="replace")
    return [line for line in answer.splitlines() if line.startswith("S KEYINFO")]


def _refused(
    why: str, todo: str = "Give the private key of one of the set's recipients"
) -> ConfigError:
    return ConfigError(
        f"The private key cannot be used: {why}", state="Nothing was changed", todo=todo
    )


def _shown(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:38]}...{name[-38:]}"
