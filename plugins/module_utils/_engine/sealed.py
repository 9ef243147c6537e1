# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sealed sets: what in the manifest tells about content is read with the key, and so is the dump."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from .cipher import Decrypting, Plaintext, UndecryptedError, told
from .errors import LockedError, SetError, ToolError
from .filenames import DUMP, GLOBALS, method_of
from .keyring import Key
from .manifest import FileEntry, Manifest
from .recovery_set import RecoverySet

_NO_KEY = re.compile(r"no identity matched any of the recipients|No secret key")
#: What age says of a key, before it looks at the file; what it says of a file begins otherwise.
_BAD_KEY = re.compile(r"(?P<unread>reading \"-\":)|\bplugin:")
#: What a manifest and the sealed one have in common; all of it counts, for a set may have been put together.
_SAME = ("name", "database", "created_at", "dump", "globals", "encryption", "source.major")


def unseal(recovery_set: RecoverySet, key: Key) -> RecoverySet:
    """The set with its whole manifest and with the key for its dump; one that is not encrypted stays as it is.

    :raises LockedError: there is no key, or another one is needed.
    :raises SetError: the file is damaged, or of another set.
    """
    if not method_of(recovery_set.path.name):
        return recovery_set
    manifest = recovery_set.manifest
    if manifest is None or not manifest.locked:
        return replace(recovery_set, key=key)
    if manifest.sealed is None:
        raise SetError(
            f"The manifest of {recovery_set.name} names no file with its sealed part",
            todo="Use another set",
        )
    path = recovery_set.file_of(manifest.sealed)
    if not path.exists():
        raise SetError(
            f"{path} is missing: without it nobody can tell what {recovery_set.name} has to hold",
            todo="Bring the file back, or use another set",
        )
    with decrypting(path, key, manifest) as stream:
        text = b"".join(iter(stream.read, b""))
    whole = Manifest.from_json(text.decode("utf-8", "surrogateescape"), str(path))
    if [_value(whole, name) for name in _SAME] != [_value(manifest, name) for name in _SAME]:
        raise SetError(
            f"{path} is not the sealed part of {recovery_set.name}: the two do not belong together",
            todo="Use another set, or another copy of this one",
        )
    return replace(recovery_set, manifest=replace(whole, sealed=manifest.sealed), key=key)


def _value(manifest: Manifest, name: str) -> object:
    value: object = manifest
    for part in name.split("."):
        value = getattr(value, part)
    return value


def archive_of(recovery_set: RecoverySet) -> AbstractContextManager[Path | Decrypting]:
    """The dump, ready to be loaded: its file, or what it streams from while it is decrypted.

    :raises LockedError: the set was not unsealed.
    :raises SetError: at the end of the block: the file is damaged.
    """
    path = recovery_set.path
    if not method_of(path.name):
        return contextlib.nullcontext(path)
    manifest = recovery_set.manifest
    return decrypting(path, recovery_set.key or Key(), manifest, _plaintext(manifest, DUMP))


def check_globals(recovery_set: RecoverySet) -> None:
    """Decrypts the file of the roles to its end, where an unsealed set has one.

    :raises SetError: it is damaged.
    """
    manifest, key = recovery_set.manifest, recovery_set.key
    if manifest is None or manifest.globals is None or key is None:
        return
    path = recovery_set.file_of(manifest.globals)
    with decrypting(path, key, manifest, _plaintext(manifest, GLOBALS)):
        pass


def _plaintext(manifest: Manifest | None, kind: str) -> FileEntry | None:
    """What a decrypted file has to be like, if its set says it."""
    entries = manifest.plaintext if manifest else ()
    return next((entry for entry in entries if entry.name.endswith(kind)), None)


@contextlib.contextmanager
def decrypting(
    path: Path, key: Key, manifest: Manifest | None, expected: FileEntry | None = None
) -> Iterator[Decrypting]:
    """A file's content to read; leaving the block says whether it was right, whatever was made of it inside.

    :param manifest: of the file's set, for messages.
    :param expected: what the plaintext has to be.
    :raises LockedError: there is no key, or another one is needed.
    :raises SetError: the file is damaged.
    """
    with key.decrypt(path) as stream:
        try:
            yield stream
        except (SetError, ToolError) as error:
            # That the archive ends early says less than why.
            _require_whole(stream, path, key, manifest, expected)
            raise error
        _require_whole(stream, path, key, manifest, expected)


def _require_fit(messages: str, path: Path, key: Key, manifest: Manifest | None) -> None:
    """:raises LockedError: by what the program said it is the key that does not open the file."""
    if bad := _BAD_KEY.search(messages):
        # What age says of a malformed key might repeat a part of it.
        why = "age cannot read it" if bad["unread"] else told(messages)
        raise LockedError(
            f"The private key cannot be used: {why}",
            todo="Was it copied whole, and is the plugin that it needs installed?",
        )
    if not _NO_KEY.search(messages):
        return
    recipients = manifest.encryption.recipients if manifest and manifest.encryption else ()
    todo = "Give the private key of one of its recipients"
    if set(recipients) & set(key.public):
        todo = (
            "It is the right one, but its private part is missing or cannot be used here: is it on a card, was the "
            "subkey exported, does gpg's agent run?"
        )
    to = f": it is encrypted to {', '.join(recipients)}" if recipients else ""
    raise LockedError(
        f"The private key does not open {path.name}{to}, and the key is that of {key} ({told(messages)})",
        todo=todo,
    )


def _require_whole(
    stream: Decrypting,
    path: Path,
    key: Key,
    manifest: Manifest | None,
    expected: FileEntry | None,
) -> None:
    try:
        found = stream.finish()
    except UndecryptedError as error:
        _require_fit(error.messages, path, key, manifest)
        raise SetError(
            f"{path} is damaged: {error.what}", todo="Use another set, or another copy of this one"
        ) from error
    if expected and found != Plaintext(expected.bytes, expected.sha256):
        raise SetError(
            f"What {path} decrypts to is not what was dumped: its SHA-256 is another",
            todo="Use another set, or another copy of this one",
        )
