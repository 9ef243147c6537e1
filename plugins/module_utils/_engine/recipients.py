# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The recipients: public keys that a host's sets are encrypted to, checked before anything is read or written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cipher import Encrypting, Output, call, told
from .durable import read_text
from .errors import ConfigError
from .filenames import CIPHERS
from .keyring import GPG, Key, PassphraseKey, new_age_key
from .model import Encryption
from .run import Run

_SSH = re.compile(r"(ssh-[a-z0-9-]+|ecdsa-[a-z0-9-]+|sk-\S+) +([A-Za-z0-9+/=]+)( .*)?")
_BLOCK = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----((?!-----BEGIN).)*?-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL,
)
#: A key that stands beside armored blocks: of age or SSH, the fingerprint of one, the rest of a block that was cut.
_OTHER_KEY = re.compile(r"-----BEGIN|^\s*(age1|ssh-|([0-9A-Fa-f][ \t]*){40}$)", re.MULTILINE)
#: Validity of a key in gpg's listing (doc/DETAILS of GnuPG) that makes it useless, in words.
_UNUSABLE = {"e": "has expired", "r": "was revoked", "d": "is disabled", "i": "is invalid"}


def recipients_of_file(path: Path) -> tuple[str, ...]:
    """Public keys of a file: one a line, with comments after `#`, or armored blocks of gpg.

    :raises ConfigError: it has both, and one of them would be left out.
    :raises HostError: it cannot be read.
    """
    text = read_text(path, "The public keys")
    if blocks := [found[0] for found in _BLOCK.finditer(text)]:
        if _OTHER_KEY.search(_BLOCK.sub("", text)):
            raise ConfigError(
                f"{path} holds armored keys of gpg, and beside them a key that is none, or is cut short",
                state="Nothing was changed",
                todo="Export each key for gpg whole (gpg --export --armor KEY), and leave out what is for age",
            )
        return tuple(blocks)
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def encryption_of(
    method: str, recipients: Sequence[str] = (), files: Sequence[Path] = ()
) -> Encryption:
    """What is to be encrypted to whom, with the public keys of the files.

    :raises ConfigError: as recipients_of_file().
    :raises HostError: a file cannot be read.
    """
    of_files = (key for path in files for key in recipients_of_file(path))
    return Encryption(method, (*recipients, *of_files))


@dataclass(frozen=True)
class Recipients:
    """Whom files are encrypted to: ready commands, and what the manifest says of the keys."""

    encryption: Encryption
    command: tuple[str, ...]
    #: Opens what this run encrypts, as long as it lasts; None where nobody asked for one.
    own_key: Key | None = None

    @property
    def ending(self) -> str:
        """What an encrypted file's name ends with."""
        return CIPHERS[self.encryption.method]

    def encrypt(self, output: Output) -> Encrypting:
        """Encrypts what is written to the result into `output`."""
        passphrase = self.own_key.passphrase if isinstance(self.own_key, PassphraseKey) else ""
        return Encrypting(self.command, output, passphrase)


def prepare(run: Run, wanted: Encryption, *, own_key: bool = False) -> Recipients:
    """Checks every public key by encrypting to it.

    :param own_key: make a key of this run's own too, which is nowhere but in its memory.
    :raises ConfigError: there is no recipient, or one that cannot be used.
    :raises HostError: the program is missing.
    """
    if wanted.method not in CIPHERS:
        raise ConfigError(
            f'"{wanted.method}" is no way to encrypt',
            state="Nothing was changed",
            todo=f"Use {' or '.join(CIPHERS)}",
        )
    if not wanted.recipients:
        raise ConfigError(
            "Sets are to be encrypted, and no recipient is named: nobody could ever open them",
            state="Nothing was changed",
            todo="Name at least one public key",
        )
    make = _prepare_age if wanted.method == "age" else _prepare_gpg
    return make(run, wanted, own_key)


def _prepare_age(unused_run: Run, wanted: Encryption, own_key: bool) -> Recipients:
    names = tuple(dict.fromkeys(_bare(text) for text in wanted.recipients))
    for number, name in enumerate(names, 1):
        if "PRIVATE KEY" in name or name.upper().startswith("AGE-SECRET-KEY-"):
            raise _unusable(f"Recipient {number}", "it is a private key, which must not be here")
        ended = call(_age((name,)))
        if ended.status:
            raise _unusable(f"Recipient {_short(name)}", f"age says {told(ended.stderr)}")
    key = new_age_key() if own_key else None
    return Recipients(Encryption("age", names), _age((*names, *(key.public if key else ()))), key)


def _age(names: tuple[str, ...]) -> tuple[str, ...]:
    return ("age", "--encrypt", *(word for name in names for word in ("-r", name)))


def _bare(text: str) -> str:
    """A public key of SSH without its comment, which is often a person's address."""
    found = _SSH.fullmatch(text.strip())
    return f"{found[1]} {found[2]}" if found else text.strip()


def _prepare_gpg(run: Run, wanted: Encryption, own_key: bool) -> Recipients:
    home = run.private_directory("gpg")
    base = (*GPG, "--no-autostart", "--homedir", str(home))
    parts: list[str] = []
    for number, text in enumerate(wanted.recipients, 1):
        label = f"Recipient {number}"
        if "PRIVATE KEY" in text:
            raise _unusable(label, "it is a private key, which must not be here")
        if not _BLOCK.search(text):
            raise _unusable(
                label,
                "with gpg a recipient is an armored public key (gpg --export --armor KEY)"
                + (", SSH keys are for age" if _SSH.fullmatch(text.strip()) else ""),
            )
        shown = call((*base, "--with-colons", "--show-keys"), text.encode())
        keys = _keys_listed(shown.stdout.decode(errors="replace"))
        if shown.status or not keys:
            raise _unusable(label, f"gpg cannot read it: {told(shown.stderr)}")
        for one in keys:
            _require_valid(f"{label} ({one.owner}, {one.fingerprint})", one.trouble)
        imported = call((*base, "--import"), text.encode())
        if imported.status:
            raise _unusable(label, f"gpg cannot read it: {told(imported.stderr)}")
        for one in keys:
            ended = call((*base, *_gpg((one.encrypting,))))
            if ended.status:
                raise _unusable(
                    f"{label} ({one.owner}, {one.fingerprint})", f"gpg says {told(ended.stderr)}"
                )
        parts += [one.encrypting for one in keys]
    names = tuple(dict.fromkeys(parts))
    command = (*base, *_gpg(names))
    if not own_key:
        return Recipients(Encryption("gpg", names), command)
    key = PassphraseKey(base)
    # gpg would ask its agent for a count that suits a passphrase of a person.
    symmetric = (*base, "--s2k-count", "65536", "--symmetric")
    return Recipients(Encryption("gpg", names), (*symmetric, *_gpg(names)), key)


def _gpg(parts: tuple[str, ...]) -> tuple[str, ...]:
    # Dumps are compressed already; trust in a key is the operator's, who put it into the settings.
    how = ("--trust-model", "always", "--compress-algo", "none", "--encrypt", "--output", "-")
    # With the mark it is this part of the key, and not the one that gpg would choose.
    return (*how, *(word for name in parts for word in ("--recipient", f"{name}!")))


@dataclass
class _Listed:
    """A key in gpg's listing. `encrypting` is the fingerprint of the part that is encrypted to; `trouble` "" for a good one."""

    trouble: str
    fingerprint: str = ""
    owner: str = ""
    encrypting: str = ""


def _keys_listed(listing: str) -> list[_Listed]:
    """The keys of gpg's listing; of several parts that can encrypt now the newest counts, as for gpg itself."""
    found: list[_Listed] = []
    made = newest = 0
    can_encrypt = False
    for line in listing.splitlines():
        fields = [*line.split(":"), *[""] * 12]
        if fields[0] == "pub":
            found.append(_Listed(_UNUSABLE.get(fields[1], "")))
            newest = -1
        if not found:
            continue
        one = found[-1]
        if fields[0] in ("pub", "sub"):
            made = int(fields[5]) if fields[5].isdigit() else 0
            can_encrypt = "e" in fields[11] and fields[1] not in _UNUSABLE
        elif fields[0] == "fpr":
            one.fingerprint = one.fingerprint or fields[9]
            if can_encrypt and made > newest:
                one.encrypting, newest = fields[9], made
        elif fields[0] == "uid" and not one.owner:
            one.owner = fields[9]
    for one in found:
        if not (one.trouble or one.encrypting):
            one.trouble = "has no part that can encrypt now"
    return found


def _require_valid(label: str, trouble: str) -> None:
    if trouble:
        raise _unusable(label, f"the key {trouble}")


def _unusable(label: str, why: str) -> ConfigError:
    return ConfigError(
        f"{label} cannot be encrypted to: {why}",
        state="Nothing was changed",
        todo="Correct the public keys that sets are encrypted to",
    )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
