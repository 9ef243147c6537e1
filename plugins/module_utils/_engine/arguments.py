# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be typed after `firedrill`, and the exit statuses that it ends with."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, Callable, NoReturn

from .config import DEFAULT_PATH
from .dump import EVIDENCE_LEVELS
from .errors import ConfigError
from .outcomes import HELP
from .restore import METHODS
from .version import VERSION

_EPILOG = f"""\
{HELP}
Nothing ever asks a question: it can run from a timer, and from a person at three in the morning.
"""

_SOURCES = (
    "latest, before:TIME (2026-02-19, UTC), a set's name or timestamp, a file, or offsite:latest, "
    "offsite:TARGET/latest, offsite:TARGET/NAME"
)


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving, so that wrong use is reported like any other error."""

    def __init__(self, **options: Any) -> None:
        # An abbreviation would change its meaning with the next option that is added.
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, todo=f"See `{self.prog} --help`")


def _number(kind: Callable[[str], float], lowest: float) -> Callable[[str], float]:
    def number(written: str) -> float:
        try:
            value = kind(written)
        except ValueError:
            value = math.nan
        if not (value >= lowest and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f'"{written}" is no number from {lowest:g} on')
        return value

    return number


def _shared(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Options that may stand before and after the command; after it they have no default of their own."""
    unset: Any = None if top else argparse.SUPPRESS
    off: Any = False if top else argparse.SUPPRESS
    how = parser.add_argument_group("how")
    how.add_argument(
        "--config",
        type=Path,
        default=unset,
        metavar="FILE",
        help=f"settings (default: {DEFAULT_PATH})",
    )
    how.add_argument(
        "--json",
        action="store_true",
        default=off,
        help="one JSON document on standard output, no more",
    )
    how.add_argument("--quiet", action="store_true", default=off, help="say only what is wrong")
    where = parser.add_argument_group("which database")
    where.add_argument(
        "--database", default=unset, metavar="NAME", help="where the settings have several, or none"
    )
    bare = parser.add_argument_group("instead of a file of settings")
    bare.add_argument(
        "--container", default=unset, metavar="NAME", help="the container of the server"
    )
    bare.add_argument("--project", default=unset, help="or its project in Docker Compose,")
    bare.add_argument("--service", default=unset, help="and the service in that")
    bare.add_argument(
        "--backup-dir", type=Path, default=unset, metavar="DIR", help="where the sets are"
    )
    bare.add_argument(
        "--user", default=unset, help="the role to connect as (default: the container's own)"
    )
    bare.add_argument(
        "--login-password-file",
        type=Path,
        default=unset,
        metavar="FILE",
        help="where its password is, if one is asked",
    )


def _options_of_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        dest="timeout_s",
        type=_number(float, 0),
        metavar="SECONDS",
        help="give up after so long",
    )


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        dest="check",
        action="store_true",
        default=None,
        help="say what would happen, and change nothing",
    )


def _jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=_number(int, 0), metavar="N", help="load with so many (0: one a processor)"
    )


def _stop_service(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stop-service",
        dest="stop_services",
        action="append",
        metavar="NAME",
        help="stop this service or container meanwhile; may be repeated, replaces the list of the settings",
    )


def _backup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compress",
        metavar="METHOD",
        help="auto, none, gzip, zstd or lz4, and :LEVEL where wanted",
    )
    parser.add_argument("--evidence", choices=EVIDENCE_LEVELS, help="what to record of the rows")


def _identity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--identity-file",
        metavar="FILE",
        help="the private key that opens encrypted sets, - for standard input",
    )


def _restore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=_SOURCES)
    parser.add_argument(
        "--method", choices=METHODS, help="beside the live database, or in its place"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        default=None,
        help="even if it is restored already, or is of another database",
    )
    for field, words in (
        ("verify", "restore without comparing, or without a manifest"),
        ("safety_dump", "destroy without a dump of what is there"),
    ):
        option = f"--no-{field.replace('_', '-')}"
        parser.add_argument(option, dest=field, action="store_const", const=False, help=words)
    _stop_service(parser)
    _jobs(parser)
    parser.add_argument(
        "--no-owner",
        action="store_true",
        default=None,
        help="everything belongs to the connected role",
    )
    parser.add_argument(
        "--no-privileges", action="store_true", default=None, help="leave out GRANT and REVOKE"
    )
    parser.add_argument(
        "--restore-superusers",
        action="store_true",
        default=None,
        help="create missing roles even as superusers",
    )


def _drill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="source", metavar="SOURCE", help=f"{_SOURCES} (default: latest)"
    )
    parser.add_argument(
        "--live",
        action="store_true",
        default=None,
        help="ask the live database and its application",
    )
    _jobs(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SET", nargs="?", help=f"{_SOURCES} (default: latest)")
    parser.add_argument("--all", action="store_true", help="every set there is")


def _keycheck(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="source", metavar="SOURCE", help=f"{_SOURCES} (default: latest)"
    )


def _prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--days",
        type=_number(float, 0),
        metavar="N",
        help="keep what is so old on this host, whatever the settings say (default without: 7)",
    )


def _settle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        dest="wait_s",
        type=_number(float, 0),
        default=0.0,
        metavar="SECONDS",
        help="wait so long for the Docker engine and the server, as after a boot (default: 0)",
    )


_NAME = ("name", "the database, where the settings have several")
_ALL = ("name", "the database (default: each of the settings)")
_COMMANDS: tuple[
    tuple[str, str, tuple[str, str] | None, tuple[Callable[[Any], None], ...]], ...
] = (
    ("backup", "dump a database to a recovery set", _ALL, (_backup, _options_of_runs, _dry_run)),
    (
        "restore",
        "bring a recovery set back",
        None,
        (_restore, _identity, _options_of_runs, _dry_run),
    ),
    (
        "drill",
        "restore a set into a throwaway server and prove it",
        _ALL,
        (_drill, _identity, _options_of_runs, _dry_run),
    ),
    (
        "verify",
        "read a set to its last byte, without a restore",
        None,
        (_verify, _identity, _options_of_runs),
    ),
    (
        "keycheck",
        "prove that a private key opens the newest set",
        _ALL,
        (_keycheck, _identity, _options_of_runs),
    ),
    (
        "copy",
        "bring the sets to the offsite targets that have not confirmed them",
        _ALL,
        (_options_of_runs, _dry_run),
    ),
    ("list", "show the sets: age, size, evidence, last drill", _ALL, ()),
    (
        "rollback",
        "go back to what was live before the last restore",
        _NAME,
        (_stop_service, _options_of_runs, _dry_run),
    ),
    ("prune", "remove sets that are too old", _ALL, (_prune, _dry_run)),
    (
        "acknowledge",
        "say that it was meant that there are far fewer rows, or that copies or a container are gone",
        _ALL,
        (_dry_run,),
    ),
    ("status", "show how protected this host is; exit status 1 with a problem", _ALL, ()),
    ("due", "make the backup and hold the drill that the schedule wants by now", _ALL, (_dry_run,)),
    ("settle", "end what a power cut interrupted: start what was stopped", _ALL, (_settle,)),
    ("alarms", "send a test message and test pings, to see them arrive", _ALL, ()),
    ("config", "read the settings, and say what is wrong with them", None, ()),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command; it raises ConfigError for wrong use, SystemExit for --help and --version."""
    parser = _Parser(
        prog="firedrill",
        description="Backs up, restores and proves by drills PostgreSQL databases that run in containers.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"firedrill {VERSION}")
    _shared(parser, top=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, words, position, parts in _COMMANDS:
        command = commands.add_parser(
            name, help=words, description=f"{words[0].upper()}{words[1:]}."
        )
        if position:
            command.add_argument(position[0], metavar="NAME", nargs="?", help=position[1])
        for part in parts:
            part(command)
        _shared(command, top=False)
    return parser
