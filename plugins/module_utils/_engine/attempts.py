# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the host's own schedule tried last: written before a try and after it, so that failures are told and not hammered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path

from .errors import BusyError, FiredrillError, InterruptedRun
from .filenames import file_base
from .model import iso, parse_time, utc_now
from .notes import read_note, write_note
from .run import is_at_it, owner_mark
from .vault import Vault

_PAUSE_S = 3600.0
_LONGEST_PAUSE_S = 86400.0
#: The catch-up comes once an hour, and not on the second.
_SLACK_S = 300.0


@dataclass(frozen=True)
class Attempt:
    """The latest try of one job: for which moment of the schedule, when, and how it ended.

    `failures` counts the tries for that moment that did not succeed; one that is under way counts already. `msg` is why it
    failed, or, while it has not ended, why the one before it did. `owner` is the mark of the process that is at it.
    """

    slot: str
    at: str
    failures: int = 1
    ended: bool = False
    msg: str = ""
    owner: str = ""

    @property
    def failed(self) -> bool:
        """Whether the latest try that has ended failed."""
        return self.failures > 0 if self.ended else bool(self.msg)

    @property
    def words(self) -> str:
        """When it failed, and why."""
        return (
            f"of {self.at} failed: {self.msg}"
            if self.ended
            else f"failed before ({self.msg}), the one of {self.at} has not ended"
        )

    def is_under_way(self, slot: datetime, now: datetime) -> bool:
        """Whether it is being made for that moment, and has been for less than a day."""
        is_it = self.slot == iso(slot) and not self.ended
        return is_it and is_at_it(self.owner, self.at, now)

    def rests(self, slot: datetime, now: datetime, up_s: float) -> bool:
        """Whether it is too early to try again for that moment: one hour after the first failure, then twice as long.

        :param up_s: seconds since the host was started.
        """
        if self.slot != iso(slot) or not self.failures:
            return False
        if not self.ended and self.failures == 1:
            # A power cut, not a failure.
            return False
        pause_s = min(_PAUSE_S * float(1 << min(self.failures - 1, 10)), _LONGEST_PAUSE_S)
        try:
            passed_s = (now - parse_time(self.at)).total_seconds()
        except ValueError:
            return False
        if self.failures == 1 and passed_s > up_s:
            # What goes down may have failed because of it.
            return False
        # A clock that was put back must not stop the backups.
        return 0 <= passed_s < pause_s - _SLACK_S


class Attempts:
    """The latest tries of one database, by job, beside its recovery sets."""

    def __init__(self, directory: Path, database: str) -> None:
        self.path = directory / f"{file_base(database)}.attempts"

    def latest(self, job: str) -> Attempt | None:
        """The latest try of a job; a file that cannot be read knows none."""
        values = read_note(self.path).get(job)
        known = {entry.name: entry.type for entry in fields(Attempt)}
        if not isinstance(values, dict) or not {"slot", "at"} <= values.keys():
            return None
        return Attempt(**{name: value for name, value in values.items() if name in known})

    def begin(self, job: str, slot: datetime, now: datetime) -> Attempt | None:
        """Before a try; returns the one before it, for withdraw()."""
        before = self.latest(job)
        again = before.failures if before and before.slot == iso(slot) else 0
        msg = before.msg if before and before.failed else ""
        attempt = Attempt(iso(slot), iso(now), failures=again + 1, msg=msg, owner=owner_mark())
        self._write(job, attempt)
        return before

    def withdraw(self, job: str, before: Attempt | None) -> None:
        """After a try that was none: another run was at it. What was known before is known again."""
        self._write(job, before)

    def fail(self, job: str, now: datetime, failure: str) -> None:
        """Notes the failure of a run that no schedule asked for."""
        self._write(job, Attempt(iso(now), iso(now), ended=True, msg=failure))

    def end(self, job: str, failure: str = "") -> None:
        """After it: what went wrong, or nothing."""
        attempt = self.latest(job)
        if attempt:
            failures = attempt.failures if failure else 0
            self._write(job, replace(attempt, failures=failures, ended=True, msg=failure))

    def _write(self, job: str, attempt: Attempt | None) -> None:
        # Where even this cannot be written, what is tried will say so itself.
        with contextlib.suppress(OSError):
            write_note(
                self.path, {**read_note(self.path), job: asdict(attempt) if attempt else None}
            )


@contextlib.contextmanager
def failures_noted(directory: Path, database: str, *, check: bool = False) -> Iterator[None]:
    """Notes what ends a backup, or what it is made ready with, so that retention keeps what there is.

    :param check: nothing is noted of what only would be done.
    """
    try:
        yield
    except BusyError:
        raise
    except BaseException as error:
        if not check:
            _note(directory, database, "dump", _words_of(error))
        raise


@contextlib.contextmanager
def end_noted(
    directory: Path, database: str, job: str, *, check: bool = False
) -> Iterator[list[str]]:
    """Notes how a job ended that the schedule does not try again by itself, so that `status` tells when it failed.

    What is added to the list that this gives is a failure too. Whoever ended it by a signal knows.

    :param check: nothing is noted of what only would be done.
    """
    failures: list[str] = []
    try:
        yield failures
    except (BusyError, InterruptedRun):
        raise
    except Exception as error:
        failures.append(_words_of(error))
        raise
    finally:
        if failures and not check:
            _note(directory, database, job, "; ".join(failures))
    if not failures and not check:
        Attempts(directory, database).end(job)


def _note(directory: Path, database: str, job: str, words: str) -> None:
    # Without a set there is none that has to be kept; where nobody can look, the error itself says why.
    with contextlib.suppress(FiredrillError):
        if Vault(directory).sets(database):
            Attempts(directory, database).fail(job, utc_now(), words)


def _words_of(error: BaseException) -> str:
    return (error.told or str(error)) if isinstance(error, FiredrillError) else type(error).__name__
