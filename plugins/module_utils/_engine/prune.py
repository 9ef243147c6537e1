# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The prune: complete sets that are too old go; what is not ours or not complete is never touched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .durable import sync_directory
from .errors import ConfigError, HostError
from .listing import Listed, list_sets, require_directory
from .model import Report, human_bytes, utc_now
from .retention import Candidate, Decision, Policy, decide
from .vault import Vault


@dataclass(frozen=True)
class PruneRequest:
    """What to prune by which policy; without a database every one that has sets there, each by itself."""

    directory: Path
    policy: Policy = field(default_factory=Policy)
    database: str = ""
    check: bool = False


def prune(request: PruneRequest) -> Report:
    """Removes the sets that the policy lets go; with `check` only says which, and why.

    The details hold `removed` and `kept`, each with the reason, and `skipped`: what is no complete set.

    :raises ConfigError: the policy makes no sense.
    :raises HostError: the directory cannot be read, or a file not be removed.
    """
    if not request.policy.days >= 0:
        raise ConfigError("Sets cannot be kept for less than 0 days", state="Nothing was removed")
    vault = Vault(request.directory)
    require_directory(request.directory)
    with vault.lock():
        listed = list_sets(request.directory, request.database)
        whole = {one.recovery_set.name: one for one in listed if one.complete}
        decisions = _decide(whole.values(), request.policy)
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
        details={
            "directory": str(request.directory),
            "removed": [_told(decision, whole) for decision in decisions if not decision.keep],
            "kept": [_told(decision, whole) for decision in decisions if decision.keep],
            "skipped": skipped,
        },
    )


def _decide(sets: Iterable[Listed], policy: Policy) -> list[Decision]:
    groups: dict[str, list[Candidate]] = {}
    for one in sets:
        manifest = one.recovery_set.require_manifest()
        groups.setdefault(manifest.database, []).append(
            Candidate(
                name=one.recovery_set.name,
                created=manifest.created,
                passed=one.passed,
                found_bad=one.verdict == "backup_bad",
                safety=manifest.purpose == "safety",
            )
        )
    now = utc_now()
    return [
        decision
        for unused_database, group in sorted(groups.items())
        for decision in decide(group, policy, now)
    ]


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
