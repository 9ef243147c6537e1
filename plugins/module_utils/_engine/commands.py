# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each command does: from what was typed to requests, and from their outcomes to exit statuses."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

from .alarms import Alarms
from .attempts import failures_noted
from .config import DEFAULT_PATH, SCHEDULE_NAME, Section, load_config, load_schedule
from .drill import drill
from .due import Task, due_tasks
from .dump import backup
from .errors import ConfigError, FiredrillError, HostError, InterruptedRun, SetError
from .fetch import FAR
from .holds import AcknowledgeRequest, acknowledge
from .keyproofs import check_key
from .ledger import offsite_row
from .listing import Listed, list_sets
from .model import Report, utc_now
from .monitor import Monitor, try_alarms
from .mounts import not_mounted
from .offsite import copy_sets
from .outcomes import Outcome, failure, success
from .prune import PruneRequest, prune
from .prune_far import PruneFarRequest, prune_far
from .restore import restore
from .retention import Policy
from .rollback import roll_back
from .run import Progress, Signalled
from .schedule import Schedule
from .settling import SettleRequest, settle_interrupted
from .status import status_rows
from .vault import Vault
from .verify import verify

#: Opens a display for one run; takes what the run is called.
Watch = Callable[[str], AbstractContextManager[Optional[Progress]]]

#: Options that go into a request under their own name.
_CHANGES = (
    *("check", "compress", "evidence", "force", "jobs", "live", "method", "no_owner"),
    *("no_privileges", "restore_superusers", "safety_dump", "source", "stop_services"),
    *("timeout_s", "verify"),
)
#: What is done, and not only looked at.
_TOLD = ("backup", "copy", "drill", "due", "prune", "restore", "rollback")
_WHERE = ("container", "project", "service")
_BARE = (*_WHERE, "user", "login_password_file")


class Command:
    """What was typed, ready to run.

    :raises FiredrillError: the options or the settings are wrong.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.name: str = options.command
        self._options = options
        self._asked = _asked(options)
        self._policy = Policy()
        self._alarms = Alarms()
        self._every: list[Section] = []
        self._sections = self._bare() if self._is_bare() else self._configured()
        self._changes = {
            key: getattr(options, key)
            for key in _CHANGES
            if getattr(options, key, None) is not None
        }
        if "stop_services" in self._changes:
            self._changes["stop_services"] = tuple(self._changes["stop_services"])
        if self.name in ("restore", "rollback") and len(self._sections) > 1:
            raise ConfigError(
                f"Which database? The settings have {_names(self._sections)}",
                state="Nothing was changed",
                todo="Name it with --database",
            )
        self._changes.update(_identity(options))
        makers: dict[str, Callable[[], Iterator[Task]]] = {
            "backup": self._backup,
            "copy": self._copy,
            "restore": self._restore,
            "rollback": self._rollback,
            "drill": self._drill,
            "verify": self._verify,
            "keycheck": self._keycheck,
            "prune": self._prune,
            "acknowledge": self._acknowledge,
            "settle": self._settle,
            "config": self._config,
            "alarms": self._try_alarms,
        }
        tasks = list(makers[self.name]()) if self.name in makers else []
        #: Whether JSON is a list: as many documents as there are databases, directories or sets.
        self.several = (
            self.name in ("list", "status", "due")
            or len(tasks) > 1
            or bool(getattr(options, "all", False))
        )
        self._tasks: Iterable[Task] = tasks
        self._monitor = self._watcher()
        if self.name == "due":
            # What is due next shows only when the one before is done.
            self._tasks = due_tasks(
                self._sections, self._require_schedule(), self._policy, check=bool(options.check)
            )

    def run(self, watch: Watch) -> Iterator[Outcome]:
        """Does it, one database after the other; a failure of one does not keep the next from its turn."""
        try:
            for task in self._tasks:
                action = task.action or self.name
                # A look at the live database proves no restore, so it counts for no drill.
                monitor = None if self._changes.get("live") else self._monitor
                if monitor:
                    monitor.begin(action, task.label)
                outcome, ended = self._attempt(task, watch)
                if monitor:
                    monitor.ended(action, task.label, outcome)
                yield outcome
                if ended:
                    break
        except FiredrillError as error:
            # What keeps the schedule from any work must not keep it from telling how the host stands.
            yield failure(error, self.name)

    def tell(self) -> list[str]:
        """Tells others what the runs have come to; returns what could not be delivered, as warnings."""
        return self._monitor.close() if self._monitor else []

    def rows(self) -> list[dict[str, Any]]:
        """What `list` shows: each set as plain values, newest first.

        :raises HostError: a directory cannot be read.
        """
        now = utc_now()
        return [
            {**one.as_dict(now), "offsite": self._offsite(directory, one)}
            for directory, database in self._places()
            for one in list_sets(directory, database)
        ]

    def _offsite(self, directory: Path, listed: Listed) -> dict[str, str]:
        """As offsite_row()."""
        names = self._targets(directory, listed.database)
        return offsite_row(directory, listed.database, listed.recovery_set.name, names)

    def _targets(self, directory: Path, database: str) -> list[str]:
        """The names of the offsite targets for the sets of a database in that directory."""
        own = [one for one in self._beside(directory) if one.database == database]
        return own[0].offsite.names if own else []

    def status(self) -> list[dict[str, Any]]:
        """What `status` shows: each database as plain values, problems first."""
        return status_rows(self._sections, load_schedule(self._path), utc_now())

    def _watcher(self) -> Monitor | None:
        """Who is told of what is done; nobody of what only would be."""
        if self.name not in _TOLD or getattr(self._options, "check", False) or self._is_bare():
            return None
        return Monitor(self._alarms, self._sections, load_schedule(self._path), self._every)

    def _try_alarms(self) -> Iterator[Task]:
        return self._each(lambda section, unused_progress: try_alarms(self._alarms, section))

    # -- which databases ---------------------------------------------------------------------------

    def _is_bare(self) -> bool:
        options = self._options
        given = [key for key in (*_BARE, "backup_dir") if getattr(options, key) is not None]
        if given and options.config:
            named = ", ".join(f"--{key.replace('_', '-')}" for key in given)
            raise ConfigError(
                f"--config and {named} exclude each other", todo="Leave one of them out"
            )
        return bool(given)

    def _bare(self) -> list[Section]:
        """A section from options alone."""
        options = self._options
        database = self._asked
        if options.backup_dir is None:
            raise ConfigError(
                "Without a file of settings --backup-dir is needed", state="Nothing was changed"
            )
        # A drill of a set needs the image of its server only.
        needs_server = self.name in ("backup", "restore", "rollback", "settle", "status") or (
            self.name == "drill" and options.live
        )
        whole = options.container or (options.project and options.service)
        if (needs_server and not whole) or (
            options.container and (options.project or options.service)
        ):
            raise ConfigError(
                "Give either --container, or --project and --service", state="Nothing was changed"
            )
        newest = (
            self.name == "verify" and not options.all and _is_relative(options.source or "latest")
        )
        if not database and (needs_server or newest or self.name in ("acknowledge", "drill")):
            raise ConfigError(
                "Without a file of settings --database is needed", state="Nothing was changed"
            )
        settings = {
            key: getattr(options, key) for key in _BARE if getattr(options, key) is not None
        }
        if self.name == "prune":
            _refuse_settled(options.backup_dir.absolute())
        return [Section(database, options.backup_dir.absolute(), settings)]

    @property
    def _path(self) -> Path:
        return self._options.config or DEFAULT_PATH

    def _configured(self) -> list[Section]:
        config = load_config(self._path)
        self._policy = config.policy
        self._alarms = config.alarms
        self._every = every = list(config.sections.values())
        asked = self._asked
        if not asked:
            return every
        found = [one for one in every if one.name == asked] or [
            one for one in every if one.database == asked
        ]
        if not found:
            raise ConfigError(
                f'{config.path} has no database "{asked}", it has {_names(every)}',
                state="Nothing was changed",
            )
        return found

    def _places(self) -> list[tuple[Path, str]]:
        """Directories, each with the one database that was asked for, or "" for all that have sets there."""
        found: dict[tuple[str, str], Path] = {}
        for one in self._sections:
            found.setdefault((one.place, one.database if self._asked else ""), one.directory)
        return [(directory, database) for (unused_place, database), directory in found.items()]

    def _beside(self, directory: Path) -> list[Section]:
        """The databases that keep their sets in that directory, however they spell it."""
        return [one for one in self._sections if one.place == os.path.realpath(directory)]

    # -- the commands: each gives labels and what to call --------------------------------------------

    def _each(
        self, ask: Callable[[Section, Any], Report], sections: list[Section] | None = None
    ) -> Iterator[Task]:
        for section in sections or self._sections:
            yield Task(section.name, partial(ask, section))

    def _backup(self) -> Iterator[Task]:
        return self._each(self._make_set)

    def _make_set(self, section: Section, progress: Progress | None) -> Report:
        check = bool(self._changes.get("check"))
        # A file of public keys or a password that cannot be read fails a backup as well.
        with failures_noted(section.directory, section.database, check=check):
            request = section.backup(**self._changes)
        return backup(request, progress)

    def _copy(self) -> Iterator[Task]:
        return self._each(
            lambda section, progress: copy_sets(section.copy(**self._changes), progress)
        )

    def _restore(self) -> Iterator[Task]:
        return self._each(
            lambda section, progress: restore(section.restore(**self._changes), progress)
        )

    def _rollback(self) -> Iterator[Task]:
        return self._each(
            lambda section, progress: roll_back(section.restore(**self._changes), progress)
        )

    def _drill(self) -> Iterator[Task]:
        # What is live goes by no set.
        sections = self._sections if self._options.live else self._meant()
        return self._each(
            lambda section, progress: drill(section.drill(**self._changes), progress), sections
        )

    def _verify(self) -> Iterator[Task]:
        if self._options.all:
            return iter(self._verify_all())
        return self._each(
            lambda section, progress: verify(section.verify(**self._changes), progress),
            self._meant(),
        )

    def _keycheck(self) -> Iterator[Task]:
        return self._each(
            lambda section, progress: check_key(section.verify(**self._changes), progress),
            self._meant(),
        )

    def _meant(self) -> list[Section]:
        """The databases that were asked for; of a set that was named, the one that it is of.

        :raises SetError: none of them has it.
        """
        source, sections = self._options.source or "latest", self._sections
        if len(sections) > 1 and not _is_relative(source):
            return [_owner(sections, source)]
        return sections

    def _verify_all(self) -> list[Task]:
        if self._options.source:
            raise ConfigError(
                "Either --all or a set, not both", todo="See `firedrill verify --help`"
            )
        tasks = [
            Task(one.recovery_set.name, partial(self._verify_one, directory, one))
            for directory, database in self._places()
            for one in list_sets(directory, database)
        ]
        if not tasks:
            where = ", ".join(str(directory) for directory, unused_database in self._places())
            raise SetError(f"There is no set in {where}", todo="Is it the right directory?")
        return tasks

    def _verify_one(self, directory: Path, listed: Listed, progress: Progress | None) -> Report:
        beside = self._beside(directory)
        own = [one for one in beside if one.database == listed.database]
        if own or listed.database:
            section = own[0] if own else Section(listed.database, directory)
        else:
            # Nobody can tell whose set it is, so it is read with the programs of whichever server there is.
            known = beside[0].settings if beside else {}
            section = Section("", directory, {key: known[key] for key in _WHERE if key in known})
        return verify(section.verify(**self._changes), progress, found=listed.recovery_set)

    def _prune(self) -> Iterator[Task]:
        days, check = self._options.days, bool(self._options.check)
        policy = self._policy if days is None else dataclasses.replace(self._policy, days=days)
        for directory, database in self._places():
            targets = {one.database: one.offsite.names for one in self._beside(directory)}
            request = PruneRequest(directory, policy, database, check, targets)
            yield Task(database or str(directory), partial(_prune, request))
        for section in self._sections:
            if section.offsite.targets:
                far = PruneFarRequest(section.directory, section.database, section.offsite, check)
                yield Task(section.name, partial(prune_far, far))

    def _acknowledge(self) -> Iterator[Task]:
        check = bool(self._options.check)
        return self._each(
            lambda section, unused_progress: acknowledge(
                AcknowledgeRequest(section.directory, section.database, check)
            )
        )

    def _settle(self) -> Iterator[Task]:
        # A disk that never comes must not keep the others' applications waiting.
        in_turn = sorted(self._sections, key=lambda section: bool(not_mounted(section.directory)))
        return self._each(
            lambda section, progress: settle_interrupted(
                SettleRequest(section.target(), section.directory, self._options.wait_s), progress
            ),
            in_turn,
        )

    def _config(self) -> Iterator[Task]:
        yield Task(str(self._path), lambda unused_progress: self._settings())

    def _settings(self) -> Report:
        schedule = load_schedule(self._path)
        told = f"{self._policy}; {schedule or 'this host has no schedule of its own'}"
        return Report(
            action="config",
            changed=False,
            msg=f"{self._path} is right: {_names(self._sections)}; sets are kept for {told}",
            details={"databases": [section.name for section in self._sections]},
        )

    def _require_schedule(self) -> Schedule:
        schedule = None if self._is_bare() else load_schedule(self._path)
        if schedule is None:
            raise ConfigError(
                f"This host has no schedule of its own: there is no {self._path.with_name(SCHEDULE_NAME)}",
                state="Nothing was begun",
                todo="Play the role firedrill.postgres.schedule, or write the file",
            )
        return schedule

    # -- how a run ends ----------------------------------------------------------------------------

    def _attempt(self, task: Task, watch: Watch) -> tuple[Outcome, bool]:
        """The outcome, and whether a signal ended it, so that nothing more must begin."""
        action, label = task.action or self.name, task.label
        try:
            with watch(f"{action} {label}" if self.several else action) as progress:
                report = task.call(progress)
            return success(report), False
        except InterruptedRun as error:
            # The time limit is each database's own.
            return failure(error, action, label), error.by_signal
        except (KeyboardInterrupt, Signalled) as error:
            return failure(error, action, label), True
        except Exception as error:  # noqa: BLE001 -- a person gets one line, the next database its turn
            return failure(error, action, label), False


def _asked(options: argparse.Namespace) -> str:
    """The database that was named; "" for none."""
    name, option = getattr(options, "name", None), options.database
    if name and option and name != option:
        raise ConfigError(
            f'Both "{name}" and --database "{option}" were given', todo="Leave one of them out"
        )
    return name or option or ""


def _identity(options: argparse.Namespace) -> dict[str, Any]:
    """The private key that was named, as a change of a request; one from standard input is read here, once.

    :raises HostError: standard input gives none.
    """
    named = getattr(options, "identity_file", None)
    if named is None:
        return {}
    if named != "-":
        return {"identity_file": Path(named).absolute()}
    try:
        text = sys.stdin.read()
    except (OSError, UnicodeDecodeError, AttributeError):
        text = ""
    if not text.strip():
        raise HostError("Standard input gave no private key", state="Nothing was changed")
    return {"identity": text, "identity_file": None}


def _refuse_settled(directory: Path) -> None:
    """Sets whose keeping is settled go by that only: options alone know neither the days nor the offsite targets.

    :raises ConfigError: the settings of this host name the directory.
    """
    if not os.path.exists(DEFAULT_PATH):
        return
    every = list(load_config(DEFAULT_PATH).sections.values())
    here = [one for one in every if one.place == os.path.realpath(directory)]
    if here:
        raise ConfigError(
            f"{DEFAULT_PATH} says how long the sets in {directory} are kept, of {_names(here)}",
            state="Nothing was removed",
            todo="Leave --backup-dir out: `firedrill prune`, or `firedrill prune DATABASE`",
        )


def _prune(request: PruneRequest, unused_progress: object) -> Report:
    return prune(request)


def _is_relative(source: str) -> bool:
    """Whether a source means another set for each database."""
    return source == "latest" or source.startswith(("before:", FAR))


def _owner(sections: list[Section], source: str) -> Section:
    """The database that a set is of.

    :raises SetError: none of them has it.
    :raises HostError: the disk of the first is not mounted, and none of the others has it.
    """
    refusals: list[FiredrillError] = []
    for section in sections:
        try:
            manifest = Vault(section.directory).resolve(source, section.database).manifest
        except (HostError, SetError) as error:
            refusals.append(error)
            continue
        if manifest is None or manifest.database == section.database:
            return section
    raise (
        refusals[0]
        if refusals
        else SetError(
            f"{source} is of none of the databases {_names(sections)}",
            todo="Name the database with --database",
        )
    )


def _names(sections: list[Section]) -> str:
    return ", ".join(one.name for one in sections)
