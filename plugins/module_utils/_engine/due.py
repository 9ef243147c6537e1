# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the host's schedule wants by now and has not got: made one after the other, never two of a kind at once.

The same command serves the moment of the schedule, the catch-up after the host was off, and the repetition after a
failure: it looks at what is there, not at why it was called.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Callable

from .access import open_access
from .attempts import Attempts
from .clock import await_clock, uptime_s
from .config import Section
from .drill import drill
from .dump import backup
from .errors import BusyError, FiredrillError, HostError, InterruptedRun, TargetError
from .ledger import target_rows
from .listing import is_there, list_sets
from .model import Report, iso, utc_now
from .offsite import NOT_OFFSITE, copy_sets
from .outcomes import failure
from .prune import PruneRequest, prune
from .prune_far import PruneFarRequest, prune_far
from .retention import Policy
from .run import Progress, Run, only_one
from .schedule import Schedule
from .settling import SettleRequest, interrupted, settle_interrupted
from .state import State, look
from .vault import Vault

_BOOT_S = 300.0
_PAUSE_S = 10.0


@dataclass(frozen=True)
class Task:
    """A run with its name; it makes its request when its turn comes, and takes the display."""

    label: str
    call: Callable[[Any], Report]
    #: What it does, where a command does several things.
    action: str = ""


def due_tasks(
    sections: Sequence[Section], schedule: Schedule, policy: Policy, *, check: bool
) -> Iterator[Task]:
    """One task after the other; which is the next depends on what became of the one before. Copies come last, and are left
    to another run that is making some.

    :param check: tasks that only say what is due.
    :raises BusyError: this is being done already.
    :raises HostError: the clock is not set.
    """
    with only_one("due"):
        if not check:
            yield from _settlements(sections)
        newest = _newest(sections)
        doubt = await_clock(newest, 0) if check else await_clock(newest)
        backups = _Backup(schedule, policy, doubt)
        for job in (backups, _Drill(schedule)):
            for section in sections:
                yield from job.tasks(section, check=check)
    with ExitStack() as held:
        # A first upload may take days: the next night's backup must not wait for it.
        try:
            held.enter_context(only_one("due-copy"))
        except BusyError:
            return
        copies = _Copy(schedule)
        for far in (copies, _PruneFar(backups.made, copies.brought)):
            for section in sections:
                yield from far.tasks(section, check=check)


def _settlements(sections: Sequence[Section]) -> Iterator[Task]:
    for section in sections:
        with suppress(FiredrillError):
            if interrupted(section.directory, section.database):
                yield Task(section.name, _Settle(section), "settle")


class _Settle:
    def __init__(self, section: Section) -> None:
        self._section = section

    def __call__(self, progress: Progress | None) -> Report:
        request = SettleRequest(self._section.target(), self._section.directory)
        return settle_interrupted(request, progress)


def _newest(sections: Sequence[Section]) -> datetime | None:
    """When the newest set of all was made."""
    moments: list[datetime] = []
    for directory in {section.directory for section in sections}:
        with suppress(FiredrillError):
            if is_there(directory):
                moments += [s.recovery_set.created for s in list_sets(directory) if s.database]
    return max(moments, default=None)


class _Job:
    """One kind of work of the schedule."""

    name = ""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def due(self, section: Section, state: State, now: datetime) -> datetime | None:
        """The moment of the schedule that it is due since."""
        raise NotImplementedError

    def last(self, state: State) -> datetime | None:
        raise NotImplementedError

    def run(self, section: Section, progress: Progress | None) -> Report:
        raise NotImplementedError

    def tasks(self, section: Section, *, check: bool) -> Iterator[Task]:
        """The task, if it is due now."""
        now = utc_now()
        try:
            state = look(section.directory, section.database, now)
        except FiredrillError as error:
            # One job tells it: a drill that nobody knows to be due must not be told as one that failed.
            if self.name == _Backup.name:
                yield Task(section.name, _Fail(error), self.name)
            return
        slot = self.due(section, state, now)
        if slot is None:
            return
        if check:
            last = self.last(state)
            words = f"the last is of {iso(last)}" if last else "there has been none"
            report = Report(
                action=self.name,
                changed=True,
                msg=f"A {self.name} is due since {iso(slot)}; {words}",
                database=section.database,
            )
            yield Task(section.name, lambda unused_progress: report, self.name)
            return
        yield Task(section.name, _Try(self, section, slot), self.name)


class _Fail:
    def __init__(self, error: FiredrillError) -> None:
        self._error = error

    def __call__(self, unused_progress: Progress | None) -> Report:
        raise self._error


class _Try:
    """A run of the schedule, with what becomes of it noted beside the sets."""

    def __init__(self, job: _Job, section: Section, slot: datetime) -> None:
        self._job = job
        self._section = section
        self._slot = slot

    def __call__(self, progress: Progress | None) -> Report:
        section, name = self._section, self._job.name
        with suppress(FiredrillError):
            # A first backup that fails needs a place where that is noted.
            Vault(section.directory).prepare()
        attempts = Attempts(section.directory, section.database)
        before = attempts.begin(name, self._slot, utc_now())
        try:
            report = self._run(progress)
        except BusyError:
            attempts.withdraw(name, before)
            raise
        except Exception as error:
            if isinstance(error, InterruptedRun) and error.by_signal:
                # As a rule the host goes down; when it is up again nothing may rest.
                attempts.withdraw(name, before)
                raise
            attempts.end(name, failure(error).told)
            raise
        untested = report.verdict in ("environment", "not_tested", NOT_OFFSITE)
        attempts.end(name, report.public.msg if untested else "")
        return report

    def _run(self, progress: Progress | None) -> Report:
        while True:
            try:
                return self._job.run(self._section, progress)
            except (HostError, TargetError):
                # Soon after the boot the engine or the server may not be up yet.
                if uptime_s() > _BOOT_S:
                    raise
            time.sleep(_PAUSE_S)


class _Backup(_Job):
    name = "backup"

    def __init__(self, schedule: Schedule, policy: Policy, doubt: str) -> None:
        super().__init__(schedule)
        self._policy = policy
        self._doubt = doubt
        self.made: list[Section] = []

    def due(self, section: Section, state: State, now: datetime) -> datetime | None:
        return state.backup_due(self._schedule, now)

    def last(self, state: State) -> datetime | None:
        return state.own_at

    def run(self, section: Section, progress: Progress | None) -> Report:
        report = backup(section.backup(), progress)
        report.warnings += [self._doubt] if self._doubt else []
        self.made.append(section)
        return report

    def tasks(self, section: Section, *, check: bool) -> Iterator[Task]:
        yield from super().tasks(section, check=check)
        # Only a new set lets an old one go; at once, for the next backup may need the room.
        if section in self.made:
            request = PruneRequest(
                section.directory,
                self._policy,
                section.database,
                targets={section.database: section.offsite.names},
            )
            yield Task(section.name, lambda unused_progress: prune(request), "prune")


class _PruneFar:
    """The same at the targets, when they have the new set; a target may have been asleep when it was made."""

    def __init__(self, made: Sequence[Section], brought: Sequence[Section]) -> None:
        self._made, self._brought = made, brought

    def tasks(self, section: Section, *, check: bool) -> Iterator[Task]:
        is_new = section in self._made or section in self._brought
        if is_new and section.offsite.targets and not check:
            far = PruneFarRequest(section.directory, section.database, section.offsite)
            yield Task(section.name, lambda progress: prune_far(far, progress), "prune")


class _Copy(_Job):
    """What a target has not got: the new set, and those that it could not be given before."""

    name = "copy"

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.brought: list[Section] = []

    def due(self, section: Section, state: State, now: datetime) -> datetime | None:
        whole = {
            one.recovery_set.name: one.recovery_set.created for one in state.sets if one.complete
        }
        rows = target_rows(section.directory, section.database, section.offsite.names, whole)
        wanting = any(row["missing"] or row["failing_since"] for row in rows)
        slot = max(whole.values(), default=None)
        if slot is None or not wanting:
            return None
        attempt = state.tries.get(self.name)
        return None if attempt and attempt.rests(slot, now, state.up_s) else slot

    def last(self, state: State) -> datetime | None:
        return None

    def run(self, section: Section, progress: Progress | None) -> Report:
        report = copy_sets(section.copy(), progress)
        if report.changed:
            self.brought.append(section)
        return report

    def tasks(self, section: Section, *, check: bool) -> Iterator[Task]:
        if section.offsite.targets:
            yield from super().tasks(section, check=check)


class _Drill(_Job):
    name = "drill"

    def due(self, section: Section, state: State, now: datetime) -> datetime | None:
        has_key = "identity_file" in section.settings
        return state.drill_due(self._schedule, now, has_key=has_key)

    def last(self, state: State) -> datetime | None:
        return state.last_drill.at if state.last_drill else None

    def run(self, section: Section, progress: Progress | None) -> Report:
        if uptime_s() <= _BOOT_S:
            # A drill would not fail, but put on record that it could not be held.
            with Run("drill") as run:
                open_access(run, section.target())
        return drill(section.drill(), progress)
