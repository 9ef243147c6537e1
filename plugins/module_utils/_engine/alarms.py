# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When somebody is told, and what: once when something begins to be wrong, and once when it is well again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .filenames import file_base
from .model import Problem
from .notes import read_note, write_note


@dataclass(frozen=True)
class Alarms:
    """Who is told: addresses for apprise, a file of such addresses, the directory of node_exporter's text files."""

    apprise_urls: tuple[str, ...] = field(default=(), repr=False)
    apprise_config: Path | None = None
    metrics_dir: Path | None = None

    @property
    def people(self) -> bool:
        return bool(self.apprise_urls or self.apprise_config)


@dataclass(frozen=True)
class Notice:
    """A message to people."""

    title: str
    body: str


def notice_of(
    told: Collection[str], problems: Sequence[Problem], *, name: str, host: str
) -> Notice | None:
    """The message that is due, or None when all that is so was said already.

    :param told: the keys of the problems that the last message named; none after one that all is well.
    :param problems: what is wrong now.
    """
    now = {problem.key for problem in problems}
    if now == set(told):
        return None
    if not now:
        return Notice(
            f"firedrill: {name} on {host} is well again",
            f"What was wrong with the backups of {name} on {host} is over.\n",
        )
    new = [problem.words for problem in problems if problem.key not in told]
    old = [problem.words for problem in problems if problem.key in told]
    over = len(set(told) - now)
    lines = [f"- {problem}" for problem in new]
    if old:
        lines += ["", "As before:", *(f"- {problem}" for problem in old)]
    if over:
        lines += ["", f"Over: {over} of those that were told before."]
    lines += ["", f"On {host}, `firedrill status` shows how it is now."]
    count = f"{len(problems)} problem" if len(problems) == 1 else f"{len(problems)} problems"
    return Notice(f"firedrill: {name} on {host} has {count}", "\n".join(lines).lstrip("\n") + "\n")


@dataclass(frozen=True)
class Told:
    """What was told of one database: the keys of the problems, by whom they were told to (as Address.key), and what could
    not be delivered yet.

    `pings` holds, by job, the kind and the text of a ping that is still to be sent; `owed` is the text of a success that
    waits for the copies of the set `owed_set`; `lost` says since when a message could not be delivered, and why.
    """

    problems: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pings: dict[str, tuple[str, str]] = field(default_factory=dict)
    owed: str = ""
    lost: str = ""
    owed_set: str = ""

    @staticmethod
    def read(directory: Path, database: str) -> Told:
        """What the file beside the sets says; one that cannot be read says that nothing was told."""
        found = read_note(_path(directory, database))
        problems, pings = found.get("problems"), found.get("pings")
        known = {
            str(job): (str(one[0]), str(one[1]))
            for job, one in (pings if isinstance(pings, dict) else {}).items()
            if isinstance(one, list) and len(one) == 2
        }
        return Told(
            {
                str(key): tuple(map(str, keys))
                for key, keys in (problems if isinstance(problems, dict) else {}).items()
                if isinstance(keys, list)
            },
            known,
            str(found.get("owed") or ""),
            str(found.get("lost") or ""),
            str(found.get("owed_set") or ""),
        )

    def write(self, directory: Path, database: str) -> None:
        """:raises OSError: it could not be written."""
        write_note(_path(directory, database), asdict(self))


def _path(directory: Path, database: str) -> Path:
    return directory / f"{file_base(database)}.alarms"
