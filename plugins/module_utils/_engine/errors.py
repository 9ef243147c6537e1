# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can go wrong, in words for the person who has to act on it."""

from __future__ import annotations

from collections.abc import Sequence


class FiredrillError(Exception):
    """Something failed. The text says what happened, the state things are in now, and what to do next.

    `told` is what may be written beside the sets or sent to others, where that is less; "" for the text itself.
    """

    def __init__(self, what: str, *, state: str = "", todo: str = "", told: str = "") -> None:
        self.told = told
        self.what = what
        self.state = state
        self.todo = todo
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what, self.state, self.todo]
        return " ".join(part if part[-1] in ".?!" else part + "." for part in parts if part)


class ConfigError(FiredrillError):
    """The request itself makes no sense: an option, a file of settings."""


class TargetError(FiredrillError):
    """The container, the server or the database is not there or does not let us in."""


class AbsentError(TargetError):
    """This host has no such container, or none was named."""


class SetError(FiredrillError):
    """A recovery set is missing, incomplete, damaged or of another database."""


class LockedError(FiredrillError):
    """A set is encrypted, and there is no key, or none that opens it. Its content was not read."""


class HostError(FiredrillError):
    """This host cannot do it now: no Docker engine, no right, no disk, a library missing."""


class OffsiteError(FiredrillError):
    """An offsite target cannot be reached, lets nobody in, is full, or does not hold what it was given."""


class OvertakenError(TargetError):
    """A change of the schema queued up between our locks on the same tables: it has to go first."""


class BusyError(FiredrillError):
    """Another run is working on the same database."""


class ToolError(FiredrillError):
    """pg_dump, pg_restore or another of PostgreSQL's programs failed."""


class ServerError(FiredrillError):
    """The server answered a statement with an error."""

    def __init__(self, what: str, *, sqlstate: str = "", state: str = "", todo: str = "") -> None:
        self.sqlstate = sqlstate
        super().__init__(what, state=state, todo=todo)


class MismatchError(FiredrillError):
    """What was restored is not what the manifest says was dumped."""


class InterruptedRun(FiredrillError):
    """A signal, or with `by_signal` false the time limit, ended the run."""

    def __init__(self, what: str, *, by_signal: bool, state: str = "", todo: str = "") -> None:
        self.by_signal = by_signal
        super().__init__(what, state=state, todo=todo)


class RefusedError(FiredrillError):
    """Preflight found reasons not to begin. `findings` has each of them."""

    def __init__(
        self, what: str, findings: Sequence[str], *, state: str = "", todo: str = ""
    ) -> None:
        self.findings = tuple(findings)
        listed = "; ".join(f"({n}) {text.rstrip('.')}" for n, text in enumerate(self.findings, 1))
        super().__init__(f"{what}: {listed}", state=state, todo=todo)
