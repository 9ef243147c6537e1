# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real keys of age, SSH and gpg, made by their own programs; and where a text lies open that they are to hide."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.model import Encryption


@dataclass(frozen=True)
class KeyPair:
    """`method` is the program it is for; `public` and `private` are the texts that people pass around."""

    method: str
    public: str
    private: str

    @property
    def encryption(self) -> Encryption:
        return Encryption(self.method, (self.public,))

    @property
    def secret(self) -> str:
        """A line that only the private key has."""
        return [line for line in self.private.splitlines() if len(line) > 30][-1]


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def age_key() -> KeyPair:
    private = _run("age-keygen")
    return KeyPair("age", _run("age-keygen", "-y", "-", stdin=private).strip(), private)


def ssh_key(kind: str = "ed25519", passphrase: str = "") -> KeyPair:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "key"
        _run("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "who@where", "-f", str(path))
        public = path.with_suffix(".pub").read_text().strip()
        return KeyPair("age", public, path.read_text())


def gpg_key(*, passphrase: str = "", expired: bool = False) -> KeyPair:
    # The agent's socket lies in it, whose path must be short.
    with tempfile.TemporaryDirectory(prefix="fdk", dir="/tmp") as home:
        base = ("gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback")
        base = (*base, "--passphrase", passphrase)
        past = ("--faked-system-time", "20200101T000000") if expired else ()
        until = "1d" if expired else "never"
        try:
            _run(
                *base, *past, "--quick-gen-key", "Tess T. <tess@example.org>", "default", "-", until
            )
            exported = [
                _run(*base, "--armor", what) for what in ("--export", "--export-secret-keys")
            ]
        finally:
            _run("gpgconf", "--homedir", home, "--kill", "all")
        return KeyPair("gpg", exported[0], exported[1])


def rotated_gpg_key() -> tuple[KeyPair, KeyPair]:
    """One key as it was exported before and after it got another part to encrypt with."""
    with tempfile.TemporaryDirectory(prefix="fdk", dir="/tmp") as home:
        base = ("gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback")
        base = (*base, "--passphrase", "")
        past = ("--faked-system-time", "20250101T000000")

        def exported() -> KeyPair:
            both = [_run(*base, "--armor", f"--export{what}") for what in ("", "-secret-keys")]
            return KeyPair("gpg", both[0], both[1])

        try:
            _run(*base, *past, "--quick-gen-key", "Tess T.", "default", "-", "never")
            before = exported()
            listed = _run(*base, "--with-colons", "--list-keys").splitlines()
            primary = next(line.split(":")[9] for line in listed if line.startswith("fpr:"))
            _run(*base, "--quick-add-key", primary, "rsa2048", "encr", "never")
            return before, exported()
        finally:
            _run("gpgconf", "--homedir", home, "--kill", "all")


MAKERS = {"age": age_key, "ssh": ssh_key, "gpg": gpg_key}


def shows(text: str, *places: Path) -> list[str]:
    """The files of the places that hold a text."""
    found = []
    for place in places:
        # Path.rglob() fails where a directory vanishes meanwhile.
        for directory, unused_directories, files in os.walk(place):
            for path in (Path(directory, name) for name in files):
                with contextlib.suppress(OSError):
                    if path.is_file() and text.encode() in path.read_bytes():
                        found.append(str(path))
    return found
