# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ledger of offsite copies: which set was confirmed at which target and when, and what went wrong there last."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Callable

from .durable import read_object, replace_file
from .errors import HostError
from .filenames import file_base
from .model import Problem, iso

#: What became of a set at a target. `confirmed`: all of it is there, checked. `lost`: it was, and is gone.
#: `damaged`: it was, and came back as something else, so nothing that the far end says of it proves it any more.
#: `removed`: the retention removed it, so it is not uploaded again.
CONFIRMED, LOST, DAMAGED, REMOVED = "confirmed", "lost", "damaged", "removed"
_MISSED = (LOST, DAMAGED)

#: So long after its dump a set may be on its way.
_TIME_TO_COPY_S = 6 * 3600.0


@dataclass(frozen=True)
class Copy:
    """One set at one target. `proof` says how the far end showed it; times are UTC, ISO 8601.

    `bytes` is without the manifest; `purpose` and `rows` are those of the manifest.
    """

    state: str
    at: str
    created_at: str = ""
    bytes: int = 0
    proof: str = ""
    purpose: str = ""
    rows: int | None = None


@dataclass(frozen=True)
class TargetState:
    """One target: when it last answered and had everything (`whole_at`), and since when it fails, with the reason."""

    whole_at: str = ""
    failing_since: str = ""
    error: str = ""
    copies: dict[str, Copy] = field(default_factory=dict)

    def confirmed(self) -> list[str]:
        """The names of the sets that were confirmed there, newest first."""
        found = [
            (copy.created_at, name) for name, copy in self.copies.items() if copy.state == CONFIRMED
        ]
        return [name for unused_created, name in sorted(found, reverse=True)]


class Ledger:
    """The ledger of one database, beside its recovery sets. One that cannot be read knows nothing: then it is asked anew."""

    def __init__(self, directory: Path, database: str) -> None:
        self.path = directory / f"{file_base(database)}.offsite"
        self._database = database

    def targets(self) -> dict[str, TargetState]:
        """What is known, by the target's name."""
        found = read_object(self.path).get("targets")
        if not isinstance(found, dict):
            return {}
        return {
            str(name): _state(content)
            for name, content in found.items()
            if isinstance(content, dict)
        }

    def target(self, name: str) -> TargetState:
        """What is known of one target; nothing of one that was never tried."""
        return self.targets().get(name, TargetState())

    def copy_of(self, set_name: str, target: str) -> Copy | None:
        return self.target(target).copies.get(set_name)

    def confirmed(self, set_name: str, target: str) -> bool:
        """Whether all of that set was shown to be at that target."""
        copy = self.copy_of(set_name, target)
        return bool(copy and copy.state == CONFIRMED)

    def note(self, set_name: str, target: str, copy: Copy) -> None:
        """What became of a set at a target.

        :raises HostError: it cannot be written.
        """
        self._update(target, lambda state: replace(state, copies={**state.copies, set_name: copy}))

    def missed(self, set_name: str, target: str, state: str, now: datetime) -> None:
        """A set that was confirmed is `lost` or `damaged` there. Of one that was not, nothing is noted.

        :raises HostError: it cannot be written.
        """
        copy = self.copy_of(set_name, target)
        if copy and copy.state == CONFIRMED:
            self.note(set_name, target, replace(copy, state=state, at=iso(now)))

    def found(self, set_name: str, target: str, now: datetime) -> None:
        """A set that was `lost` is there again as it was confirmed: its disk was not mounted there, or somebody has brought
        it back.

        :raises HostError: it cannot be written.
        """
        copy = self.copy_of(set_name, target)
        if copy and copy.state == LOST:
            self.note(set_name, target, replace(copy, state=CONFIRMED, at=iso(now)))

    def removed(self, set_name: str, target: str, now: datetime) -> None:
        """The retention removed a set there; to be noted before the first file goes.

        :raises HostError: it cannot be written.
        """
        before = self.copy_of(set_name, target) or Copy(REMOVED, "")
        self.note(set_name, target, replace(before, state=REMOVED, at=iso(now)))

    def lost(self, here: Iterable[str]) -> dict[str, list[str]]:
        """By target the names of the sets that it has lost, and that are not among those that are here either."""
        known = set(here)
        found = {
            target: sorted(
                name
                for name, copy in state.copies.items()
                if copy.state in _MISSED and name not in known
            )
            for target, state in self.targets().items()
        }
        return {target: names for target, names in found.items() if names}

    def forget(self, target: str, set_names: Iterable[str]) -> None:
        """Sets that are neither here nor there any more."""
        gone = set(set_names)
        self._update(
            target,
            lambda state: replace(
                state,
                copies={name: copy for name, copy in state.copies.items() if name not in gone},
            ),
        )

    def succeeded(self, target: str, now: datetime) -> None:
        """A run found or made everything there."""
        self._update(
            target, lambda state: replace(state, whole_at=iso(now), failing_since="", error="")
        )

    def failed(self, target: str, error: str, now: datetime) -> None:
        """A run could not do all that it had to there."""
        self._update(
            target,
            lambda state: replace(
                state, failing_since=state.failing_since or iso(now), error=error
            ),
        )

    def _update(self, target: str, change: Callable[[TargetState], TargetState]) -> None:
        try:
            with self._alone():
                known = self.targets()
                known[target] = change(known.get(target, TargetState()))
                content = {"targets": {name: asdict(state) for name, state in known.items()}}
                text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
                replace_file(self.path, text + "\n")
        except OSError as error:
            raise HostError(
                f"The ledger {self.path} cannot be written: {error.strerror}"
            ) from error

    @property
    def lock_identity(self) -> tuple[str, str, str]:
        """What two runs that copy or prune for this ledger have in common, however they spell its directory."""
        return "offsite", os.path.realpath(self.path.parent), self._database

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A copy and a prune may write at the same time, each its own lines."""
        path = self.path.with_name(f".{self.path.name}.lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def unconfirmed(
    directory: Path, database: str, set_names: Iterable[str], targets: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """By the names of sets, the targets that have not got them. Where retention removed one, it has been."""
    known = Ledger(directory, database).targets()
    copies = {target: known.get(target, TargetState()).copies for target in targets}
    return {
        name: tuple(target for target in copies if _is_due(copies[target].get(name)))
        for name in set_names
    }


def offsite_row(
    directory: Path, database: str, set_name: str, targets: Iterable[str]
) -> dict[str, str]:
    """For each target when it confirmed that set, `removed` when its retention took the copy away, "" when it has none."""
    known = Ledger(directory, database).targets()
    copies = {name: known.get(name, TargetState()).copies.get(set_name) for name in targets}
    return {name: _shown(copy) for name, copy in copies.items()}


def _shown(copy: Copy | None) -> str:
    if copy and copy.state == CONFIRMED:
        return copy.at
    return REMOVED if copy and copy.state == REMOVED else ""


def target_rows(
    directory: Path, database: str, targets: Iterable[str], sets: Mapping[str, datetime]
) -> list[dict[str, Any]]:
    """How each target is doing, as plain values; `sets` are the complete ones here with their dates."""
    known = Ledger(directory, database).targets()
    return [_row(name, known.get(name, TargetState()), sets) for name in targets]


def _row(name: str, state: TargetState, sets: Mapping[str, datetime]) -> dict[str, Any]:
    confirmed = state.confirmed()
    newest = state.copies[confirmed[0]] if confirmed else None
    return {
        "target": name,
        "confirmed": len(confirmed),
        "newest_confirmed": {
            "name": confirmed[0],
            "created_at": newest.created_at,
            "confirmed_at": newest.at,
        }
        if newest
        else None,
        "missing": [one for one in sets if _is_due(state.copies.get(one))],
        "lost": sorted(one for one, copy in state.copies.items() if copy.state in _MISSED),
        "whole_at": state.whole_at or None,
        "failing_since": state.failing_since or None,
        "error": state.error,
    }


def _is_due(copy: Copy | None) -> bool:
    return copy is None or copy.state in _MISSED


def target_problems(
    rows: Iterable[Mapping[str, Any]], sets: Mapping[str, datetime], now: datetime
) -> list[Problem]:
    """What somebody has to look after."""
    found = []
    for row in rows:
        name, newest = row["target"], row["newest_confirmed"]
        late = [
            one for one in row["missing"] if (now - sets[one]).total_seconds() > _TIME_TO_COPY_S
        ]
        there = f"the newest set there is {newest['name']}" if newest else "no set is there"
        if row["failing_since"]:
            words = (
                f"offsite target {name} fails since {row['failing_since']}, {there}: {row['error']}"
            )
            found.append(Problem(f"offsite {name} fails", words))
        elif late:
            words = f"{len(late)} of {len(sets)} sets are not at offsite target {name}, {there}"
            found.append(Problem(f"offsite {name} lacks sets", words))
        lost = [one for one in row["lost"] if one not in sets]
        if lost:
            words = (
                f"offsite target {name} has lost {', '.join(lost[:3])}"
                + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
                + ", not here either (`firedrill acknowledge` if somebody removed them on purpose)"
            )
            found.append(Problem(f"offsite {name} has lost sets", words))
    return found


def _state(content: dict[str, Any]) -> TargetState:
    texts = {
        entry.name: str(content.get(entry.name) or "")
        for entry in fields(TargetState)
        if entry.name != "copies"
    }
    copies = content.get("copies")
    known = {}
    for name, one in copies.items() if isinstance(copies, dict) else ():
        with contextlib.suppress(TypeError, ValueError, AttributeError):
            known[str(name)] = Copy(**{key: one[key] for key in one if key in _COPY})
    return TargetState(**texts, copies=known)


_COPY = {entry.name for entry in fields(Copy)}
