# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told about the runs of one command: pings, messages to people, and figures for Prometheus.

Nothing here may harm a backup: what cannot be delivered is said as a warning, kept, and tried again at the next run.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Callable

from . import metrics
from .alarms import Alarms, Told, notice_of
from .attempts import Attempts
from .clock import doubt
from .config import Section
from .errors import ConfigError, FiredrillError, HostError
from .ledger import Ledger, unconfirmed
from .model import Problem, Report, iso, utc_now
from .notices import addresses, notify
from .outcomes import BUSY, OK, Outcome
from .pings import FAIL, LOG, START, SUCCESS, ping
from .run import owner_lives, telling
from .schedule import Schedule
from .status import CLOCK, UNDELIVERED, as_rows, standings

_PINGED = ("backup", "drill")
#: So long another run may take to tell: what it does has time limits of its own, for each database.
_TURN_S = 300.0


class Monitor:
    """Told of each run as it begins and ends; at the end it tells others."""

    def __init__(
        self,
        alarms: Alarms,
        sections: Sequence[Section],
        schedule: Schedule | None,
        every: Sequence[Section],
    ) -> None:
        """
        :param sections: the databases that the command is for.
        :param every: all databases of the settings, for one file holds the figures of them all.
        """
        self._alarms = alarms
        self._sections = {section.name: section for section in sections}
        self._every = every if alarms.metrics_dir else sections
        self._schedule = schedule
        self._ends: dict[tuple[str, str], tuple[str, str]] = {}
        #: The set that a backup has made, by the name of its database.
        self._made: dict[str, str] = {}
        self._warnings: list[str] = []

    def begin(self, action: str, name: str) -> None:
        """A run begins."""
        section = self._sections.get(name)
        if section and action in _PINGED:
            self._ping(section, action, START, "")
        if action == "copy" and self._ends:
            # It may take days, in which others back up, drill and tell.
            self._in_turn(self._tell_ends)

    def ended(self, action: str, name: str, outcome: Outcome) -> None:
        """A run has ended."""
        if action in (*_PINGED, "copy"):
            self._ends[name, action] = _verdict(outcome)
        if action == "backup":
            self._made[name] = outcome.report.set_name if outcome.report else ""

    def close(self) -> list[str]:
        """Tells what there is to tell; returns what could not be delivered, as warnings."""
        self._in_turn(self._tell_all)
        return list(dict.fromkeys(self._warnings))

    def _in_turn(self, tell: Callable[[datetime], None]) -> None:
        try:
            # Two that tell at once would say the same twice, and each forget what the other could not deliver.
            with telling(_TURN_S):
                tell(utc_now())
        except (FiredrillError, OSError) as error:
            why = error.what if isinstance(error, FiredrillError) else str(error)
            self._warnings.append(
                f"Nobody was told of this run: {why}; the next one tells how things stand"
            )

    def _tell_ends(self, now: datetime) -> None:
        """The pings alone: how things stand is told when all is done."""
        for section in self._sections.values():
            before = Told.read(section.directory, section.database)
            self._note(section, before, self._send(section, before))

    def _tell_all(self, now: datetime) -> None:
        found = standings(self._every, self._schedule, now)
        for one in found:
            if one.name in self._sections:
                self._tell(self._sections[one.name], one.problems, now)
        if self._alarms.metrics_dir:
            try:
                metrics.write(self._alarms.metrics_dir, as_rows(found))
            except OSError as error:
                self._warnings.append(
                    f"The figures for Prometheus could not be written to {self._alarms.metrics_dir}: {error.strerror}"
                )

    def _tell(self, section: Section, problems: Iterable[Problem], now: datetime) -> None:
        before = Told.read(section.directory, section.database)
        sent = self._send(section, before)
        told, why = self._notify(section, before, problems, is_set=not doubt(now, None))
        since = "while the clock was not set" if doubt(now, None) else f"since {iso(now)}"
        lost = "" if not why else before.lost or f"{since}: {why}"
        self._note(section, before, replace(sent, problems=told, lost=lost))

    def _send(self, section: Section, before: Told) -> Told:
        """Sends the pings that are due; returns what is known with those that did not arrive."""
        ends, owed, owed_set = self._earned(section, before)
        news = {job: one for job, one in ends.items() if one[0] != LOG}
        # What is only a remark takes the place of no success and no failure that is still to be delivered.
        pending = {**ends, **before.pings, **news}
        pings = {
            job: one
            for job, one in pending.items()
            if self._is_overtaken(section, job, one) or not self._ping(section, job, *one)
        }
        return replace(before, pings=pings, owed=owed, owed_set=owed_set)

    def _note(self, section: Section, before: Told, after: Told) -> None:
        try:
            if after != before:
                after.write(section.directory, section.database)
        except OSError as error:
            self._warnings.append(
                f"{section.name}: what was told could not be noted in {section.directory}: {error.strerror}; "
                "it is told again at the next run"
            )
            return
        self._ends = {key: end for key, end in self._ends.items() if key[0] != section.name}

    def _is_overtaken(self, section: Section, job: str, one: tuple[str, str]) -> bool:
        """Whether it is a success from before, and the next try has begun: it would be taken for that of the next."""
        if one[0] != SUCCESS or (section.name, job) in self._ends:
            return False
        attempt = Attempts(section.directory, section.database).latest(job)
        return bool(attempt and not attempt.ended and owner_lives(attempt.owner))

    def _earned(
        self, section: Section, before: Told
    ) -> tuple[dict[str, tuple[str, str]], str, str]:
        """The pings that the runs have earned, by job, and the success that waits for copies of its set, with that set."""
        ends = {job: end for (name, job), end in self._ends.items() if name == section.name}
        made, copied = ends.get("backup"), ends.pop("copy", None)
        owed, owed_set = before.owed, before.owed_set
        if made and made[0] != LOG:
            owed, owed_set = (made[1], self._made[section.name]) if made[0] == SUCCESS else ("", "")
        if not section.offsite.targets or not owed:
            return ends, "", ""
        if copied and copied[0] == FAIL:
            ends["backup"] = (FAIL, f"{owed}\n{copied[1]}")
        elif self._is_copied(section, owed_set):
            # Whoever made the copies: those of another run may have been of older sets.
            names = ", ".join(section.offsite.names)
            words = copied[1] if copied else f"Its copies are at {names}."
            ends["backup"] = (SUCCESS, f"{owed}\n{words}")
            return ends, "", ""
        elif made and made[0] == SUCCESS:
            ends["backup"] = (LOG, f"{owed}\nIts copies are still to be made.")
        return ends, owed, owed_set

    @staticmethod
    def _is_copied(section: Section, set_name: str) -> bool:
        """Whether each target has that set, and everything else that it was to be given."""
        where = section.directory, section.database
        targets = section.offsite.names
        known = Ledger(*where).targets()
        failing = any(known[name].failing_since for name in targets if name in known)
        return not failing and not unconfirmed(*where, [set_name], targets)[set_name]

    def _ping(self, section: Section, job: str, kind: str, body: str) -> bool:
        """Whether it has arrived, or nobody wants it."""
        try:
            url = section.ping_url(job)
            if url:
                ping(url, kind, body)
            return True
        except FiredrillError as error:
            self._warnings.append(f"{section.name}, ping of the {job}: {error}")
            return False

    def _notify(
        self, section: Section, before: Told, problems: Iterable[Problem], *, is_set: bool
    ) -> tuple[dict[str, tuple[str, ...]], str]:
        """The keys of what each of the people knows now, and why one of them could not be told more.

        :param is_set: whether the clock is. If not, nothing but that is certain: what else is wrong depends on the time.
        """
        wrong = [p for p in problems if p.key != UNDELIVERED and (is_set or p.key == CLOCK)]
        known, lost = {}, ""
        for address in addresses(self._alarms.apprise_urls, self._alarms.apprise_config):
            heard = known[address.key] = before.problems.get(address.key, ())
            kept = [key for key in heard if key != CLOCK and not is_set]
            told = [key for key in heard if key not in kept]
            notice = notice_of(told, wrong, name=section.name, host=platform.node())
            if notice is None:
                continue
            try:
                notify(address, notice.title, notice.body)
            except FiredrillError as error:
                self._warnings.append(f"{section.name}: {error}")
                lost = lost or error.what
                continue
            known[address.key] = tuple(sorted({*kept, *(problem.key for problem in wrong)}))
        return known, lost


def try_alarms(alarms: Alarms, section: Section) -> Report:
    """Sends a message and pings that change nothing at the far side, so that a person sees them arrive.

    :raises FiredrillError: one could not be delivered, or nobody is to be told.
    """
    host = platform.node()
    words = f"This is a test: {section.name} on {host} can tell you when something is wrong.\n"
    sent = []
    for job in _PINGED:
        url = section.ping_url(job)
        if url:
            ping(url, LOG, words)
            sent.append(f"the ping of the {job}")
    lost: list[FiredrillError] = []
    for address in addresses(alarms.apprise_urls, alarms.apprise_config):
        try:
            notify(address, f"firedrill: a test from {host}", words)
            sent.append(f"the message to {address.label}")
        except FiredrillError as error:
            lost.append(error)
    if lost:
        delivered = f"Delivered were {', '.join(sent)}" if sent else "Nothing was delivered"
        raise HostError("; ".join(one.what for one in lost), state=delivered, todo=lost[0].todo)
    if not sent:
        raise ConfigError(
            f"Nobody is told when something is wrong with {section.name}",
            todo="Set `alarms` or `ping_url` in the settings",
        )
    return Report(
        action="alarms",
        changed=False,
        msg=f"Delivered: {', '.join(sent)}. Has it arrived?",
        database=section.database,
    )


def _verdict(outcome: Outcome) -> tuple[str, str]:
    """The kind of the ping that a run has earned, and its text."""
    report = outcome.report
    if report is None:
        # What another run keeps from its turn has not failed: it comes when that one is done.
        return (LOG if outcome.status == BUSY else FAIL), outcome.told
    report = report.public
    # A dump with nothing in it may be one of the wrong database.
    if report.action == "backup" and report.details.get("total_rows") == 0:
        return FAIL, f"{report.msg}. It holds no row at all."
    broken = [
        f"{check['kind']} {check['name']}: {check.get('reason', '')}"
        for check in report.details.get("checks", ())
        if check["status"] != "ok"
    ]
    words = "\n".join([report.msg, *broken])
    return (SUCCESS if outcome.status == OK else FAIL), words
