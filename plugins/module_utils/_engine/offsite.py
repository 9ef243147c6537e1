# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The copies of recovery sets at the offsite targets: uploaded whole, the manifest last, and checked at the far end."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .background import Background
from .errors import ConfigError, FiredrillError, SetError
from .filenames import MANIFEST
from .guide import GUIDE, guide
from .ledger import CONFIRMED, DAMAGED, LOST, REMOVED, Copy, Ledger
from .listing import list_sets
from .manifest import Manifest
from .model import Report, human_bytes, iso, utc_now
from .neighbours import last_backup
from .recovery_set import RecoverySet
from .remotes import store_of
from .run import Progress, Run
from .stores import FarSet, Store, far_sets
from .targets import Offsite, OffsiteTarget
from .upload import Upload

#: A verdict: at least one target has not got all sets now.
NOT_OFFSITE = "not_offsite"


@dataclass(frozen=True)
class CopyRequest:
    """Whose sets to bring to which targets; with `check` only says what is missing there."""

    directory: Path
    database: str
    offsite: Offsite
    timeout_s: float = 0
    check: bool = False


def copy_sets(request: CopyRequest, progress: Progress | None = None) -> Report:
    """Brings every complete set that a target has not confirmed to it, the newest first; one target after the other.

    A target that fails does not keep the others from theirs: the verdict is then `not_offsite`, and `targets` in the
    details says for each what was uploaded and what went wrong.

    :raises ConfigError: there is no target.
    :raises FiredrillError: nothing could be tried.
    """
    if not request.offsite.targets:
        raise ConfigError(
            "There is no offsite target",
            state="Nothing was copied",
            todo="Name one under `offsite` in the settings (docs/offsite.md)",
        )
    with Run("copy", timeout_s=request.timeout_s, progress=progress) as run:
        run.state = "What was confirmed before stays so"
        ledger = Ledger(request.directory, request.database)
        with run.lock(*ledger.lock_identity):
            return _Copying(run, request, ledger).report()


@dataclass
class _Outcome:
    """What became of one target."""

    target: str
    place: str
    uploaded: list[str] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    bytes: int = 0
    #: How often the target itself failed.
    failures: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "place": self.place,
            "uploaded": self.uploaded,
            "confirmed": self.confirmed,
            "lost": self.lost,
            "missing": self.missing,
            "bytes": self.bytes,
            "error": "; ".join(self.errors),
        }


class _Copying:
    def __init__(self, run: Run, request: CopyRequest, ledger: Ledger) -> None:
        self._run = run
        self._request = request
        self._ledger = ledger
        self._warnings: list[str] = []
        #: The check of a set's files here, by its name: they are read once, however many targets there are.
        self._checks: dict[str, Background[FiredrillError | None]] = {}

    def report(self) -> Report:
        request = self._request
        listed = list_sets(request.directory, request.database)
        sets = [
            one.recovery_set for one in listed if one.complete and one.database == request.database
        ]
        outcomes = [self._target(target, sets) for target in request.offsite.targets]
        failed = [one for one in outcomes if one.errors]
        self._warnings += [
            f"offsite target {one.target}: {text}" for one in failed for text in one.errors
        ]
        uploads = sum(len(one.uploaded) for one in outcomes)
        size = human_bytes(sum(one.bytes for one in outcomes))
        wanting = sum(len(one.missing) for one in outcomes)
        if request.check:
            msg = f"Would upload {uploads} copies ({size})" if uploads else "Nothing is missing"
        elif uploads:
            msg = f"{uploads} copies uploaded and confirmed ({size})"
        else:
            msg = "Nothing had to be uploaded" if not wanting else "Nothing was uploaded"
        names = [one.target for one in outcomes if not one.errors]
        msg += (
            f"; all {len(sets)} sets are at {', '.join(names)}"
            if names and not request.check
            else ""
        )
        if failed:
            msg += f"; NOT all are at {', '.join(one.target for one in failed)}"
        return Report(
            action="copy",
            changed=bool(uploads),
            msg=msg,
            database=request.database,
            verdict=NOT_OFFSITE if failed else "",
            phases=dict(self._run.phases),
            warnings=self._warnings,
            details={"targets": [one.as_dict() for one in outcomes]},
        )

    # -- one target ----------------------------------------------------------------------------------

    def _target(self, target: OffsiteTarget, sets: list[RecoverySet]) -> _Outcome:
        store = store_of(target, self._request.offsite.folder, self._run)
        outcome = _Outcome(target.name, store.place)
        newest = last_backup(sets)
        listing: dict[str, int] = {}
        far: dict[str, FarSet] = {}
        try:
            store.connect()
            self._begin_newest(sets, target)
            with self._run.phase(f"list {target.name}"):
                listing = store.listing()
                far = {one.name: one for one in far_sets(listing)}
                self._look_for_losses(store, far, sets, outcome)
                self._look_for_strangers(store, far, sets)
        except FiredrillError as error:
            outcome.errors.append(str(error))
            outcome.missing = [
                one.name for one in sets if not self._ledger.confirmed(one.name, target.name)
            ]
            sets = []
        for recovery_set in sets:
            self._set(
                store,
                recovery_set,
                far.get(recovery_set.name),
                outcome,
                guided=recovery_set is newest,
            )
            if outcome.failures > 1:
                # It failed twice: those that are left would hardly fare better.
                break
        if not self._request.check:
            if newest and not outcome.errors and newest.name not in outcome.confirmed:
                self._guide(store, newest, listing, outcome)
            if outcome.errors:
                self._ledger.failed(target.name, outcome.errors[0], utc_now())
            else:
                self._ledger.succeeded(target.name, utc_now())
        # One that waits takes memory from the next.
        store.close()
        return outcome

    def _guide_of(self, newest: RecoverySet) -> Path:
        """The commands for a recovery without this tool, for the newest set: a file to lay beside the sets."""
        path = self._run.private_directory("guide") / GUIDE
        path.write_bytes(guide([newest.require_manifest()]).encode("utf-8", "surrogateescape"))
        return path

    def _guide(
        self, store: Store, newest: RecoverySet, listing: Mapping[str, int], outcome: _Outcome
    ) -> None:
        """Lays the guide beside sets that were all there before; else it goes up with the newest of them."""
        path = self._guide_of(newest)
        try:
            if outcome.uploaded or listing.get(GUIDE) != path.stat().st_size:
                store.put(path)
        except FiredrillError as error:
            outcome.errors.append(str(error))

    def _begin_newest(self, sets: list[RecoverySet], target: OffsiteTarget) -> None:
        """Checks what is going to be uploaded while the far end is asked what it has, unless that may never answer."""
        state = self._ledger.target(target.name)
        new = bool(sets) and sets[0].name not in state.copies
        if new and not self._request.check and not state.failing_since:
            self._begin_check(sets[0])

    def _begin_check(self, recovery_set: RecoverySet) -> Background[FiredrillError | None]:
        name = recovery_set.name
        if name not in self._checks:
            self._checks[name] = Background(partial(_damage_of, recovery_set))
        return self._checks[name]

    def _checked_here(self, recovery_set: RecoverySet) -> FiredrillError | None:
        """What is wrong with the files of a set here."""
        with self._run.phase("check set"):
            return self._begin_check(recovery_set).result()

    def _look_for_losses(
        self, store: Store, far: dict[str, FarSet], sets: list[RecoverySet], outcome: _Outcome
    ) -> None:
        """Sets that were confirmed and are not in the listing now, and not here either; and those that are back."""
        here = {one.name for one in sets}
        state = self._ledger.target(store.name)
        for name, copy in state.copies.items():
            back = name in far and far[name].has(copy.bytes)
            if copy.state == LOST and name not in here and back and not self._request.check:
                self._ledger.found(name, store.name, utc_now())
        for name in state.confirmed():
            found = far.get(name)
            if (
                name in here
                or (found and found.has_manifest)
                or store.size(f"{name}{MANIFEST}") is not None
            ):
                continue
            outcome.lost.append(name)
            self._warnings.append(
                f"{name} was confirmed at {store.name}, and is gone there and here"
            )
            if not self._request.check:
                self._ledger.missed(name, store.name, LOST, utc_now())

    def _look_for_strangers(
        self, store: Store, far: dict[str, FarSet], sets: list[RecoverySet]
    ) -> None:
        """The newest set there that is not known here may be of a host whose sets would be taken for ours."""
        known = {*self._ledger.target(store.name).copies, *(one.name for one in sets)}
        strange = [one for one in far.values() if one.has_manifest and one.name not in known]
        with suppress(FiredrillError):
            for one in strange[:1]:
                other = store.manifest(one.name)
                if other.source.host != platform.node():
                    self._warnings.append(
                        f"{store.place} holds sets of host {other.source.host} too, the newest is {one.name}: "
                        "give each host a directory of its own there"
                    )

    def _set(
        self,
        store: Store,
        recovery_set: RecoverySet,
        found: FarSet | None,
        outcome: _Outcome,
        *,
        guided: bool,
    ) -> None:
        name, manifest = recovery_set.name, recovery_set.require_manifest()
        copy = self._ledger.copy_of(name, store.name)
        if copy and copy.state == REMOVED:
            return
        known = bool(copy and copy.state == CONFIRMED)
        came_back_damaged = bool(copy and copy.state == DAMAGED)
        damage = None
        try:
            if known and self._is_there(store, manifest, found):
                return
            if known:
                outcome.lost.append(name)
                self._warnings.append(
                    f"{name} was confirmed at {store.name}, and is not whole there any more"
                )
            if came_back_damaged:
                self._warnings.append(
                    f"{name} came back damaged from {store.name}: all of it has to go up again"
                )
            size = sum(entry.bytes for entry in manifest.entries)
            if self._request.check:
                outcome.uploaded.append(name)
                outcome.bytes += size
                return
            if damage := self._checked_here(recovery_set):
                raise damage
            with self._run.phase(f"upload {store.name}"):
                beside = self._guide_of(recovery_set) if guided else None
                proof, sent = Upload(
                    store, recovery_set, found, beside, anew=came_back_damaged
                ).run()
        except FiredrillError as error:
            outcome.missing.append(name)
            outcome.errors.append(str(error))
            outcome.failures += error is not damage
            if known and not self._request.check:
                with suppress(FiredrillError):
                    self._ledger.missed(name, store.name, LOST, utc_now())
            return
        self._ledger.note(
            name,
            store.name,
            Copy(
                *(CONFIRMED, iso(utc_now()), manifest.created_at, size, proof),
                *(manifest.purpose, manifest.rows),
            ),
        )
        outcome.confirmed.append(name)
        if sent:
            outcome.uploaded.append(name)
            outcome.bytes += sent

    @staticmethod
    def _is_there(store: Store, manifest: Manifest, found: FarSet | None) -> bool:
        """Whether a set that was confirmed still is; a listing that lags does not decide it."""
        if found and found.holds(manifest):
            return True
        names = {entry.name: entry.bytes for entry in manifest.entries}
        return store.size(f"{manifest.name}{MANIFEST}") is not None and all(
            store.size(name) == size for name, size in names.items()
        )


def _damage_of(recovery_set: RecoverySet) -> FiredrillError | None:
    try:
        recovery_set.check_files()
    except SetError as error:
        # It is said of each target, and none is to blame; retention keeps what they have not got.
        name = recovery_set.name
        error.todo = (
            f"Bring a good file back here, or remove all files of {name}; then `firedrill copy`"
        )
        return error
    except FiredrillError as error:
        return error
    return None
