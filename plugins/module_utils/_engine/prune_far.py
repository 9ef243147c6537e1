# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The prune of an offsite target: by its own policy, only what is known to be a whole set there, the manifest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .attempts import end_noted
from .errors import FiredrillError
from .holds import Acknowledgement, candidates, reason_of_loss, reason_to_hold
from .ledger import CONFIRMED, REMOVED, Copy, Ledger
from .listing import list_sets
from .model import Report, human_bytes, parse_time, utc_now
from .offsite import NOT_OFFSITE
from .remotes import store_of
from .report import LOG_NAME, damaged_sets, passed_sets
from .retention import Candidate, Decision, History, decide, newest_dated
from .run import Progress, Run
from .stores import FarSet, Store
from .targets import Offsite, OffsiteTarget

_DAY_S = 86400.0


@dataclass(frozen=True)
class PruneFarRequest:
    """Whose copies to prune at which targets; with `check` only says which would go, and why."""

    directory: Path
    database: str
    offsite: Offsite
    check: bool = False


def prune_far(request: PruneFarRequest, progress: Progress | None = None) -> Report:
    """Removes copies that the policy of their target lets go, one target after the other.

    A target that cannot be listed loses nothing. The details are those of prune(), each entry with its `target`; the
    verdict is `not_offsite` when a target failed, which is noted, for `status`.

    :raises BusyError: copies are being made just now.
    :raises HostError: the directory cannot be read, or what goes cannot be noted.
    """
    directory, database = request.directory, request.database
    ledger = Ledger(directory, database)
    with (
        end_noted(directory, database, "prune-far", check=request.check) as failures,
        Run("prune", progress=progress) as run,
        run.lock(*ledger.lock_identity),
    ):
        pruning = _Pruning(run, request, ledger)
        report = pruning.report()
        # Of a target that cannot be reached, its copies tell.
        targets = ledger.targets()
        failures += [
            words
            for name, words in pruning.failures.items()
            if name not in targets or not targets[name].failing_since
        ]
        return report


class _Pruning:
    def __init__(self, run: Run, request: PruneFarRequest, ledger: Ledger) -> None:
        self._run = run
        self._request = request
        self._now = utc_now()
        self._ledger = ledger
        self._acknowledgement = Acknowledgement(request.directory, request.database)
        listed = list_sets(request.directory, request.database)
        self._here = {one.recovery_set.name for one in listed}
        self._known = candidates(listed, request.database)
        self._hold = reason_to_hold(request.directory, request.database, self._known, self._now)
        log = request.directory / LOG_NAME
        self._passed, self._damaged = passed_sets(log), damaged_sets(log)
        self._partly = passed_sets(log, partly=True)
        self._removed: list[dict[str, Any]] = []
        self._kept: list[dict[str, Any]] = []
        self._skipped: list[dict[str, Any]] = []
        self._warnings: list[str] = []
        self.failures: dict[str, str] = {}
        self._strange = 0

    def report(self) -> Report:
        request = self._request
        for target in request.offsite.targets:
            try:
                self._prune(target)
            except FiredrillError as error:
                self.failures[target.name] = f"offsite target {target.name}: {error}"
        freed = human_bytes(sum(one["bytes"] for one in self._removed))
        verb = "Would remove" if request.check else "Removed"
        names = ", ".join(request.offsite.names)
        return Report(
            action="prune",
            changed=bool(self._removed),
            msg=(
                f"{verb} {len(self._removed)} copies ({freed}) at {names}, kept {len(self._kept)}"
                + (
                    f"; {self._strange} that are old enough stay, this host has not confirmed them"
                    if self._strange
                    else ""
                )
                + (f"; NOT pruned: {', '.join(self.failures)}" if self.failures else "")
            ),
            database=request.database,
            verdict=NOT_OFFSITE if self.failures else "",
            warnings=[*self._warnings, *self.failures.values()],
            details={
                "removed": self._removed,
                "kept": self._kept,
                "skipped": self._skipped,
            },
        )

    def _prune(self, target: OffsiteTarget) -> None:
        store = store_of(target, self._request.offsite.folder, self._run)
        copies = self._ledger.target(target.name).copies
        far = {one.name: one for one in store.sets()}
        whole = [one for one in far.values() if one.has_manifest]
        known = [self._candidate(one, target.name, copies.get(one.name)) for one in whole]
        hold = self._hold or reason_of_loss(known, self._now, self._acknowledgement.until())
        history = History(self._made(known, copies), target.retention, self._now)
        decisions = decide(known, target.retention, self._now, hold=hold, history=history)
        if hold:
            self._warnings.append(f"no copy at {target.name} is removed: {hold}")
        self._strange += sum(
            one.name not in copies
            and (self._now - one.created).total_seconds() > target.retention.days * _DAY_S
            for one in known
        )
        going = [decision for decision in decisions if not decision.keep]
        self._kept += [self._told(one, far, target) for one in decisions if one.keep]
        if self._request.check:
            self._removed += [self._told(one, far, target) for one in going]
        else:
            self._remove(store, target, far, going, known)
            self._tidy(store, far, copies)
            self._forget_losses(target, known, copies, hold, history)
        store.close()
        self._skipped += [
            {"name": one.name, "target": target.name, "problems": ["it has no manifest there"]}
            for one in far.values()
            if not one.has_manifest and not _was_removed(copies.get(one.name))
        ]

    def _made(self, known: list[Candidate], copies: Mapping[str, Copy]) -> list[Candidate]:
        """The backups that this host is known to have made: of a time longer than sets stay here the copies tell, and of one
        whose copies were not made the sets that are here."""
        here = {one.name for one in self._known}
        far = [one for one in known if one.name in copies and one.name not in here]
        return [*self._known, *far] or known

    def _candidate(self, far: FarSet, target: str, copy: Copy | None) -> Candidate:
        """A copy as retention judges it. What was not confirmed, or is not all there now, is not known to be one."""
        good = copy is not None and copy.state in (CONFIRMED, REMOVED) and far.has(copy.bytes)
        created = far.created
        with suppress(ValueError):
            created = parse_time(copy.created_at) if copy and copy.created_at else created
        return Candidate(
            name=far.name,
            created=created,
            # What is not known to be whole never takes the place of the newest.
            passed=good and far.name in self._passed,
            partly=good and far.name in self._partly,
            damaged=not good or far.name in self._damaged,
            safety=bool(copy and copy.purpose == "safety"),
            rows=copy.rows if copy else None,
            unconfirmed=() if good else (target,),
        )

    def _remove(
        self,
        store: Store,
        target: OffsiteTarget,
        far: Mapping[str, FarSet],
        going: Iterable[Decision],
        known: list[Candidate],
    ) -> None:
        for number, decision in enumerate(going):
            newest = newest_dated(self._known or known, self._now)
            if not number and newest:
                # A gap that pruning leaves must not look like a loss of rows.
                self._acknowledgement.record(newest)
            self._ledger.removed(decision.name, target.name, self._now)
            store.remove(decision.name)
            self._removed.append(self._told(decision, far, target))

    def _tidy(self, store: Store, far: Mapping[str, FarSet], copies: Mapping[str, Copy]) -> None:
        """Ends removals that were cut off, and forgets what is nowhere any more."""
        for name, copy in copies.items():
            if copy.state == REMOVED and name in far and not far[name].has_manifest:
                store.remove(name)
        gone = [
            name
            for name, copy in copies.items()
            if copy.state == REMOVED and name not in far and name not in self._here
        ]
        if gone:
            self._ledger.forget(store.name, gone)

    def _forget_losses(
        self,
        target: OffsiteTarget,
        known: list[Candidate],
        copies: Mapping[str, Copy],
        hold: str,
        history: History,
    ) -> None:
        """A lost copy that would be removed by now, were it still there, is missed by nobody any more."""
        there = {one.name for one in known}
        lost = []
        for name in self._ledger.lost(self._here).get(target.name, ()):
            with suppress(ValueError):
                created, safety = (
                    parse_time(copies[name].created_at),
                    copies[name].purpose == "safety",
                )
                lost += [Candidate(name, created, safety=safety)] if name not in there else []
        names = {one.name for one in lost}
        decisions = decide([*known, *lost], target.retention, self._now, hold=hold, history=history)
        gone = [one.name for one in decisions if not one.keep and one.name in names]
        if gone:
            self._ledger.forget(target.name, gone)

    def _told(
        self, decision: Decision, far: Mapping[str, FarSet], target: OffsiteTarget
    ) -> dict[str, Any]:
        return {
            "name": decision.name,
            "target": target.name,
            "database": self._request.database,
            "bytes": far[decision.name].bytes,
            "reason": decision.reason,
        }


def _was_removed(copy: Copy | None) -> bool:
    return bool(copy and copy.state == REMOVED)
