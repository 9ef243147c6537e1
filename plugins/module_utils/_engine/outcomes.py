# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How runs end: exit statuses, and what is said of an error."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import (
    BusyError,
    ConfigError,
    FiredrillError,
    HostError,
    InterruptedRun,
    OffsiteError,
    RefusedError,
)
from .model import Report
from .offsite import NOT_OFFSITE
from .run import Signalled

OK, FAILED, MISUSED, BACKUP_BAD, ENVIRONMENT, PARTIAL, NOT_TESTED, BUSY, INTERRUPTED, OFFSITE = (
    range(10)
)

#: Of several databases the run ends with the status that comes first here.
WORST_FIRST = (
    *(INTERRUPTED, BACKUP_BAD, FAILED, MISUSED, ENVIRONMENT, OFFSITE, BUSY),
    *(NOT_TESTED, PARTIAL, OK),
)

_VERDICTS = {
    "": OK,
    "pass": OK,
    "intact": OK,
    "backup_bad": BACKUP_BAD,
    "environment": ENVIRONMENT,
    "partial": PARTIAL,
    "not_tested": NOT_TESTED,
    NOT_OFFSITE: OFFSITE,
}
_ERRORS = (
    (ConfigError, MISUSED),
    (HostError, ENVIRONMENT),
    (OffsiteError, OFFSITE),
    (BusyError, BUSY),
    (InterruptedRun, INTERRUPTED),
)

#: The same for people.
HELP = """\
exit status:
  0  done; a drill passed, a set is intact, what was asked for is already so
  1  it failed; the message says in what state things are
  2  wrong use, or a wrong configuration
  3  the backup is bad: a drill or verify found it so
  4  this host could not do it: no Docker engine, no right, no disk, a library missing
  5  partial: what was checked is good, but not everything could be checked
  6  not tested: no check could be held
  7  another run is working on the same database
  8  a signal or the time limit ended it
  9  an offsite target failed, or has not got all sets; the other targets have theirs
With several databases the worst of them, in this order: 8 3 1 2 4 9 7 6 5 0.
"""


@dataclass(frozen=True)
class Outcome:
    """How one run ended: its exit status and its JSON; a report, or an error in words and what others may hear of it."""

    status: int
    document: Any
    report: Report | None = None
    error: str = ""
    told: str = ""


def success(report: Report) -> Outcome:
    """A run that came to its end; the verdict may be bad all the same."""
    return Outcome(_VERDICTS.get(report.verdict, FAILED), report.as_dict(), report)


def failure(error: BaseException, action: str = "", label: str = "") -> Outcome:
    """An error in words; what nobody thought of is named by type and place only: its text may be secret.

    :param label: what it was done to: a database of the settings, a set, a directory.
    """
    if isinstance(error, (KeyboardInterrupt, Signalled)):
        error = InterruptedRun("It was ended by a signal", by_signal=True, todo="Run it again")
    if isinstance(error, FiredrillError):
        status, words = _status(error), str(error)
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        status, words = ENVIRONMENT, f"{where}{error.strerror}."
    else:
        frames = traceback.extract_tb(error.__traceback__)
        place = (
            f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
            if frames
            else "an unknown place"
        )
        status = FAILED
        words = f"Unexpected {type(error).__name__} at {place}. This is a mistake in Firedrill: please report it."
    document = {
        "action": action,
        "name": label,
        "failed": True,
        "msg": words,
        "error": type(error).__name__,
    }
    if isinstance(error, RefusedError):
        document["findings"] = list(error.findings)
    told = error.told if isinstance(error, FiredrillError) else ""
    return Outcome(status, document, error=words, told=told or words)


def worst(outcomes: list[Outcome]) -> int:
    """The exit status of several runs."""
    return min((outcome.status for outcome in outcomes), key=WORST_FIRST.index)


def _status(error: FiredrillError) -> int:
    return next((status for kind, status in _ERRORS if isinstance(error, kind)), FAILED)
