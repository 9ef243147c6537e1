# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One restore while it holds the lock: what was asked for, what came up, and the steps that both methods take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .access import Access
from .dump import BackupRequest, backup_with
from .errors import ConfigError, RefusedError
from .evidence import collect
from .journal import Entry, Journal
from .keyring import Key
from .load import check_evidence, finish, load, require_equal, run_scripts
from .model import Comparison, DatabaseProperties, Encryption, SqlScript, Target
from .neighbours import encrypted_before
from .preflight import Plan
from .recipients import Recipients, prepare
from .roles import create_roles
from .server import Session
from .targets import Offsite
from .vault import Vault


@dataclass(frozen=True)
class RestoreRequest:
    """What to restore, from where and how; `jobs` 0 means one for each processor."""

    target: Target
    directory: Path
    source: str = "latest"
    method: str = "swap"
    stop_services: tuple[str, ...] = ()
    jobs: int = 0
    no_owner: bool = False
    no_privileges: bool = False
    post_sql: tuple[SqlScript, ...] = ()
    keep_previous: bool = True
    safety_dump: bool = True
    verify: bool = True
    force: bool = False
    restore_superusers: bool = False
    #: The cluster was just initialised; a database that holds data all the same is kept, whatever else is asked for.
    fresh_cluster: bool = False
    timeout_s: float = 0
    check: bool = False
    offsite: Offsite = field(default_factory=Offsite)
    #: Opens an encrypted set: a private key as it is, or its file.
    identity: str = field(default="", repr=False)
    identity_file: Path | None = None
    #: For the safety dump.
    encryption: Encryption | None = None

    @property
    def wants_safety_dump(self) -> bool:
        """Whether what is live, if anything is, goes for good, and is dumped before."""
        return self.safety_dump and (self.method == "replace" or not self.keep_previous)


class Restoration:
    """What the phases of one restore hand on to each other."""

    def __init__(self, access: Access, request: RestoreRequest, key: Key) -> None:
        self.access = access
        self.request = request
        self.run = access.run
        self.database = request.target.database
        self.vault = Vault(request.directory)
        self.journal = Journal(request.directory, access.container.name, self.database)
        self.key = key
        #: Opens the safety dump of this run, which its own recipients alone could not.
        self.safety_key = key
        self._recipients: Recipients | None = None
        #: Whether a failure now leaves nothing that a later run would have to put in order.
        self.tidy = True
        self.notes: list[str] = []
        self.details: dict[str, Any] = {}
        #: Rows for each table after the restore, where the set does not say them.
        self.rows_after: dict[str, int] | None = None

    def prepare_safety_dump(self) -> None:
        """Looks, while nothing is stopped, whether a safety dump can be as secret as the sets that it will lie among.

        :raises ConfigError: they are encrypted and no public key was given, or one that cannot be used.
        :raises HostError: the program is missing.
        """
        wanted = self.request.encryption
        if wanted:
            self._recipients = prepare(self.run, wanted, own_key=True)
            self.safety_key = self._recipients.own_key or self.key
        elif encrypted_before(self.vault.sets(self.database)):
            raise ConfigError(
                "The sets here are encrypted, and no public key was given for the safety dump",
                state="Nothing was changed",
                todo="Name the settings (--config), or `encrypt_with` and `recipients`; or leave the safety dump out "
                "(--no-safety-dump, `safety_dump: false`)",
            )

    def dump_for_safety(self, entry: Entry) -> Entry:
        """Makes a set of the live database, and tells the journal its name; it was prepared.

        :raises FiredrillError: there is none; the live database was not touched.
        """
        request, run = self.request, self.run
        with run.phase("safety dump"):
            phases = dict(run.phases)
            report = backup_with(
                self.access,
                BackupRequest(
                    request.target,
                    request.directory,
                    purpose="safety",
                    encryption=request.encryption,
                ),
                self._recipients,
            )
            run.phases.clear()
            run.phases.update(phases)
        run.state = (
            f"The live database was not touched and the application was not stopped (a safety dump of it is "
            f"{report.set_name})"
        )
        self.details["safety_set"] = report.set_name
        return self.journal.write(entry, safety_set=report.set_name)

    def create_roles(self, session: Session, plan: Plan) -> None:
        """Creates the roles that are missing, and alters those of a fresh cluster; what it left out is noted."""
        if plan.missing_roles or plan.altered_roles:
            with self.run.phase("roles"):
                self.notes += create_roles(
                    session,
                    plan.missing_roles,
                    superusers=self.request.restore_superusers,
                    passwords=True,
                    altered=plan.altered_roles,
                    joining=plan.joining_roles,
                )

    def fill(self, name: str, plan: Plan, properties: DatabaseProperties) -> Comparison:
        """Loads, verifies, plays the operator's SQL, then gives the database its properties and statistics.

        :param name: a database that is empty and that nobody else writes to.
        :raises FiredrillError: it is not complete, or not equal to the set.
        """
        request, run, access = self.request, self.run, self.access
        with run.phase("load"):
            load(
                access,
                plan.recovery_set,
                name,
                jobs=request.jobs,
                no_owner=request.no_owner,
                no_privileges=request.no_privileges,
            )
        comparison = Comparison(0, (), ("nothing: there is no manifest, or `verify` is off",))
        if plan.manifest and request.verify:
            with run.phase("verify"):
                comparison = check_evidence(access, name, plan.manifest)
                require_equal(comparison, plan.recovery_set.name)
        if plan.scripts:
            with run.phase("post_sql"):
                run_scripts(access, name, plan.scripts)
        if plan.scripts or not comparison.compared:
            # The set does not say what is there now.
            with run.phase("count"):
                self.rows_after = collect(access.server, name, "counts").counts()
        with run.phase("analyze"):
            finish(access, name, properties)
        return comparison


def known_properties(plan: Plan) -> DatabaseProperties:
    """What the database is to be like.

    :raises RefusedError: nothing tells.
    """
    if plan.properties is None:
        raise RefusedError(
            "The restore was refused",
            ["there is no live database and no manifest that says what it was like"],
            state="Nothing was changed",
            todo="Create the database by hand (CREATE DATABASE), then run this again",
        )
    return plan.properties
