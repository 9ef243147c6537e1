# -*- coding: utf-8 -*-
# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine on a host of its own: a directory for each build, a link to the present one, and the command."""

from __future__ import annotations

import hashlib
import os
import pkgutil
import shlex
import shutil
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

# The command is on top of the engine: importing it brings all of it along when Ansible packs a module.
from ._engine import __version__, cli

PACKAGE = "firedrill_engine"
CURRENT = "current"
_MARK = "# Written by firedrill.postgres.host_command"
_LAUNCHER = f"""\
#!/bin/sh
{_MARK}
# The link is followed once, so that an upgrade does not reach into a run. -I: root imports nothing from the directory
# that it stands in, nor from what the environment names.
engine=$(readlink -e -- {{link}}) || {{{{
    echo 'firedrill: its engine is missing: install it again' >&2
    exit 4
}}}}
exec /usr/bin/python3 -Ic 'import sys; sys.path.insert(0, sys.argv.pop(1)); from {PACKAGE}.cli import main; sys.exit(main())' \\
    "$engine" "$@"
"""


class InstallationError(Exception):
    """It cannot be done; the text says why, and that nothing was changed."""


@dataclass
class Outcome:
    """What was changed, or with `check` would be. `left` are builds that a process still runs."""

    changed: bool = False
    build: str = ""
    before: str = ""
    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def engine_files() -> dict[str, bytes]:
    """The engine that came with this module, wherever it was imported from: its files by name."""
    package = str(cli.__package__)
    path = __import__(package, fromlist=["cli"]).__path__
    names = ["__init__", *(found.name for found in pkgutil.iter_modules(path))]
    return {f"{name}.py": pkgutil.get_data(package, f"{name}.py") or b"" for name in sorted(names)}


def build_of(files: dict[str, bytes]) -> str:
    """`<version>-<hash>`: equal for equal files only."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"{__version__}-{digest.hexdigest()[:12]}"


def launcher_text(home: Path) -> str:
    """The command."""
    return _LAUNCHER.format(link=shlex.quote(str(home / CURRENT)))


def install(home: Path, launcher: Path, *, keep: int, check: bool) -> Outcome:
    """Makes this engine the present one of the host.

    A new build gets a directory of its own, then the link changes hands in one step: whoever starts the command
    meets the one engine or the other, and a run that is under way keeps its files.

    :param keep: how many of the builds before stay, beside those that a process runs.
    :raises InstallationError: something that is not ours is in the way.
    :raises OSError: it cannot be written.
    """
    _refuse_foreign(launcher)
    files = engine_files()
    build = build_of(files)
    outcome = Outcome(build=build, before=present(home))
    if not _is_whole(home / build, files):
        outcome.changed = True
        if not check:
            _place(home, build, files)
    if outcome.before != build:
        outcome.changed = True
        if not check:
            # What was used last is what is gone back to.
            os.utime(home / build)
            _link(home, build)
    if _differs(launcher, launcher_text(home).encode()):
        outcome.changed = True
        if not check:
            _write(launcher, launcher_text(home).encode(), 0o755)
    others = [name for name in _builds(home) if name != build]
    if outcome.before in others:
        others.remove(outcome.before)
        others.insert(0, outcome.before)
    _remove(home, others[keep:], outcome, check=check)
    return outcome


def uninstall(home: Path, launcher: Path, *, check: bool) -> Outcome:
    """Removes the command and every build that no process runs."""
    _refuse_foreign(launcher)
    outcome = Outcome(before=present(home))
    if os.path.lexists(launcher):
        outcome.changed = True
        if not check:
            launcher.unlink()
    if os.path.lexists(home / CURRENT):
        outcome.changed = True
        if not check:
            (home / CURRENT).unlink()
    _remove(home, _builds(home), outcome, check=check)
    if home.is_dir() and not outcome.left:
        outcome.changed = True
        if not check:
            for leftover in home.glob(".new-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            # A file of somebody else stays, and the directory with it.
            if not any(home.iterdir()):
                home.rmdir()
    return outcome


def present(home: Path) -> str:
    """The build that the command runs now; "" when there is none."""
    try:
        return os.path.basename(os.readlink(home / CURRENT))
    except OSError:
        return ""


def _builds(home: Path) -> list[str]:
    """Every build of the host, the one that was put to use last before the others."""
    found = [path for path in home.glob("*-*") if (path / PACKAGE).is_dir() and path.name[0] != "."]
    return [p.name for p in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def _is_whole(place: Path, files: dict[str, bytes]) -> bool:
    package = place / PACKAGE
    try:
        there = {path.name: path.read_bytes() for path in package.glob("*.py")}
    except OSError:
        return False
    return there == files


def _place(home: Path, build: str, files: dict[str, bytes]) -> None:
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    for leftover in home.glob(".new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
    try:
        (new / PACKAGE).mkdir()
        for name, content in files.items():
            _write(new / PACKAGE / name, content, 0o644)
        (new / PACKAGE).chmod(0o755)
        new.chmod(0o755)
        if (home / build).exists():
            # Somebody has changed it: what carries its name must be it.
            damaged = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
            (home / build).rename(damaged / build)
            new.rename(home / build)
            shutil.rmtree(damaged)
        else:
            new.rename(home / build)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    _sync(home)


def _link(home: Path, build: str) -> None:
    new = home / f".new-link-{os.getpid()}"
    new.unlink(missing_ok=True)
    new.symlink_to(build)
    new.replace(home / CURRENT)
    _sync(home)


def _remove(home: Path, builds: list[str], outcome: Outcome, *, check: bool) -> None:
    running = _running(home)
    for build in builds:
        if build in running:
            outcome.left.append(build)
            continue
        outcome.changed = True
        outcome.removed.append(build)
        if not check:
            shutil.rmtree(home / build)


def _running(home: Path) -> set[str]:
    """Builds that a process was started with: the launcher gives it the path."""
    found: set[str] = set()
    prefix = os.fsencode(home) + b"/"
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        found.update(os.fsdecode(w[len(prefix) :]) for w in words if w.startswith(prefix))
    return found


def _refuse_foreign(launcher: Path) -> None:
    try:
        mode = launcher.lstat().st_mode
        ours = stat.S_ISREG(mode) and _MARK.encode() in launcher.read_bytes()
    except FileNotFoundError:
        return
    if not ours:
        raise InstallationError(
            f"{launcher} is not Firedrill's: somebody else has put it there. Nothing was changed. "
            "Move it away, or name another place for the command."
        )


def _differs(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() != content or stat.S_IMODE(path.stat().st_mode) != 0o755
    except OSError:
        return True


def _write(path: Path, content: bytes, mode: int) -> None:
    """A file, whole or not at all, and on the disk."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
