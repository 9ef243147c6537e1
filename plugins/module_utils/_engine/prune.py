# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The prune: complete sets that are too old go; what is not ours or not complete is never touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .attempts import end_noted
from .durable import sync_directory
from .errors import ConfigError, HostError
from .holds import Acknowledgement, candidates, reason_to_hold
from .ledger import unconfirmed
from .listing import Listed, list_sets, require_directory
from .model import Report, human_bytes, utc_now
from .retention import Decision, History, Policy, decide, newest_dated
from .vault import Vault


@dataclass(frozen=True)
class PruneRequest:
    """What to prune by which policy; without a database every one that has sets there, each by itself.

    `targets` has the offsite targets that are to have the sets of a database, by its name.
    """

    directory: Path
    policy: Policy = field(default_factory=Policy)
    database: str = ""
    check: bool = False
    targets: Mapping[str, Sequence[str]] = field(default_factory=dict)


def prune(request: PruneRequest) -> Report:
    """Removes the sets that the policy lets go; with `check` only says which, and why. That it failed is noted, for
    `status`.

    The details hold `removed` and `kept`, each with the reason, and `skipped`: what is no complete set.

    :raises ConfigError: the policy makes no sense.
    :raises HostError: the directory cannot be read, or a file not be removed.
    """
    if request.policy.doubt:
        raise ConfigError(request.policy.doubt, state="Nothing was removed")
    names = [request.database] if request.database else request.targets
    with ExitStack() as noted:
        for name in names:
            noted.enter_context(end_noted(request.directory, name, "prune", check=request.check))
        return _prune(request)


def _prune(request: PruneRequest) -> Report:
    vault = Vault(request.directory)
    require_directory(request.directory)
    with vault.lock():
        listed = list_sets(request.directory, request.database)
        whole = {one.recovery_set.name: one for one in listed if one.complete}
        found = [
            _judge(request, database, list(whole.values()))
            for database in sorted({one.database for one in whole.values()})
        ]
        decisions = [decision for judged in found for decision in judged.decisions]
        doomed = [whole[decision.name] for decision in decisions if not decision.keep]
        if not request.check:
            _remove(vault, doomed)
    freed = human_bytes(sum(one.bytes for one in doomed))
    verb = "Would remove" if request.check else "Removed"
    skipped = [
        {"name": one.recovery_set.name, "problems": list(one.shortcomings)}
        for one in listed
        if not one.complete
    ]
    return Report(
        action="prune",
        changed=bool(doomed),
        msg=(
            f"{verb} {_sets(len(doomed))} ({freed}) of {request.directory}, kept {len(decisions) - len(doomed)}"
            + (f", left {len(skipped)} alone that are not complete" if skipped else "")
        ),
        database=request.database,
        warnings=[warning for judged in found for warning in judged.warnings],
        details={
            "directory": str(request.directory),
            "removed": [_told(decision, whole) for decision in decisions if not decision.keep],
            "kept": [_told(decision, whole) for decision in decisions if decision.keep],
            "skipped": skipped,
        },
    )


@dataclass(frozen=True)
class _Judged:
    decisions: list[Decision]
    warnings: list[str]


def _judge(request: PruneRequest, database: str, whole: Sequence[Listed]) -> _Judged:
    """What becomes of the sets of one database. Before any goes, it is noted up to where losses of rows were judged:
    a gap that pruning leaves must not look like one.

    :raises HostError: that cannot be noted.
    """
    now = utc_now()
    names = [one.recovery_set.name for one in whole if one.database == database]
    lacking = unconfirmed(request.directory, database, names, request.targets.get(database, ()))
    known = candidates(whole, database, lacking)
    hold = reason_to_hold(request.directory, database, known, now)
    history = History(known, request.policy, now)
    decisions = decide(known, request.policy, now, hold=hold, history=history)
    newest = newest_dated(known, now)
    if newest and not request.check and not all(decision.keep for decision in decisions):
        Acknowledgement(request.directory, database).record(newest)
    warnings = [f"no set of {database} is removed: {hold}"] if hold else []
    if paused := history.fresh_pause():
        warnings.append(f"{database}: {paused}")
    return _Judged(decisions, warnings)


def _remove(vault: Vault, doomed: list[Listed]) -> None:
    for number, one in enumerate(doomed):
        try:
            vault.remove(one.recovery_set)
        except OSError as error:
            raise HostError(
                f"{one.recovery_set.path} could not be removed: {error.strerror}",
                state=f"{_sets(number)} of {len(doomed)} were removed before it",
                todo="Is the file system writable?",
            ) from error
    if doomed:
        sync_directory(vault.directory)


def _told(decision: Decision, whole: dict[str, Listed]) -> dict[str, Any]:
    one = whole[decision.name]
    return {
        "name": decision.name,
        "database": one.database,
        "bytes": one.bytes,
        "reason": decision.reason,
    }


def _sets(count: int) -> str:
    return f"{count} set" if count == 1 else f"{count} sets"
