# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The integrity check of a set without a restore: manifest, SHA-256, the whole archive, every table in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .access import access_by_image, access_to
from .containers import Containers
from .dump import missing_tables
from .errors import SetError, TargetError
from .fetch import Located, locate
from .filenames import method_of
from .keyring import Key, identity_of, open_key
from .manifest import Manifest
from .model import Report, Target, human_bytes, human_seconds
from .programs import Programs, major_of, outdated
from .recovery_set import RecoverySet
from .run import Progress, Run
from .sealed import check_globals, unseal
from .targets import Offsite
from .vault import Vault
from .witness import read_archive


@dataclass(frozen=True)
class VerifyRequest:
    """Which set to read. Of the target only the image counts; without a container it is the manifest's."""

    target: Target
    directory: Path
    source: str = "latest"
    timeout_s: float = 0
    offsite: Offsite = field(default_factory=Offsite)
    #: Opens an encrypted set: a private key as it is, or its file.
    identity: str = field(default="", repr=False)
    identity_file: Path | None = None


def verify(
    request: VerifyRequest, progress: Progress | None = None, *, found: RecoverySet | None = None
) -> Report:
    """Reads a set to its last byte; nothing is restored, no server is asked, nothing is changed.

    :param found: the set, for a caller that has looked it up already.

    Verdicts: `intact`; `backup_bad`; `partial` (it reads, but has no manifest to hold it against; or it is encrypted,
    and without its private key only sizes and SHA-256 were checked);
    `not_tested` (the image's programs are too old for it). Only a drill says `pass`. The report's message gives the reason.

    :raises SetError: there is no such set.
    :raises LockedError: the private key that was given does not open it.
    :raises FiredrillError: it could not be checked here: no engine, no image, a file that may not be read.
    """
    identity = identity_of(request.identity, request.identity_file)
    with (
        Run("verify", timeout_s=request.timeout_s, progress=progress) as run,
        open_key(run, identity) as key,
    ):
        vault = Vault(request.directory)
        located = (
            Located(found)
            if found
            else locate(run, vault, request.source, request.target, request.offsite)
        )
        warnings = list(located.warnings)
        if located.is_far and key.method:
            # Whether it opens the set is told before all of it comes down.
            located.opened(key, warnings)
        with located.here(warnings) as recovery_set:
            return _Verification(run, request, recovery_set, key, warnings).report()


class _Verification:
    def __init__(
        self,
        run: Run,
        request: VerifyRequest,
        found: RecoverySet,
        key: Key,
        warnings: list[str],
    ) -> None:
        self._key = key
        self._run = run
        self._request = request
        self._set = found
        self._container = request.target.container
        self._named = bool(request.target.container or request.target.service)
        self._warnings = warnings

    def report(self) -> Report:
        try:
            verdict, msg = self._judge()
        except SetError as error:
            verdict, msg = "backup_bad", str(error)
        manifest = self._set.manifest
        return Report(
            action="verify",
            changed=False,
            msg=msg,
            database=manifest.database if manifest else self._request.target.database,
            container=self._container,
            set_name=self._set.name,
            verdict=verdict,
            phases=dict(self._run.phases),
            warnings=self._warnings,
            details={
                "path": str(self._set.path),
                "recipients": list(manifest.encryption.recipients)
                if manifest and manifest.encryption
                else [],
                "keys": list(self._set.opened_by),
            },
        )

    def _judge(self) -> tuple[str, str]:
        manifest = self._set.manifest
        if manifest is None and self._set.path.with_name(f"{self._set.name}.json").exists():
            raise SetError(
                f"{self._set.path} cannot be trusted: {self._set.problem}", todo="Use another set"
            )
        if manifest:
            with self._run.phase("sha256"):
                self._set.check_files()
        if method := method_of(self._set.path.name):
            if not self._key.method:
                return "partial", (
                    f"{self._set.path}: "
                    + ("sizes and checksums are right" if manifest else self._set.problem)
                    + f". It is encrypted with {method}, and {self._key.nothing.lacking}: whether it can be opened, "
                    "reads to its end and holds every table was not checked"
                )
            with self._run.phase("unseal"):
                self._set = unseal(self._set, self._key)
            manifest = self._set.manifest
        programs, version = self._programs(manifest)
        self._warnings += filter(None, [outdated(version)])
        try:
            with self._run.phase("read"):
                contents = read_archive(programs, self._set)
                check_globals(self._set)
        except SetError as error:
            if manifest and major_of(version) < manifest.source.major:
                return "not_tested", (
                    f"{self._set.path} is of PostgreSQL {manifest.source.major}, pg_restore in the image is "
                    f"{version}: {error.what}"
                )
            raise SetError(f"{self._set.path}: {error.what}", todo="Use another set") from error
        size = human_bytes(self._set.path.stat().st_size)
        if manifest is None:
            return "partial", (
                f"{self._set.path} reads to its end ({size}, {len(contents.relations)} tables), but {self._set.problem}: "
                "whether that is all of it, nobody can tell"
            )
        lost = missing_tables(
            manifest.evidence, contents, excluding=bool(manifest.excluded_table_data)
        )
        if lost:
            raise SetError(
                f"{self._set.path} lacks what its manifest names: {', '.join(lost[:5])}"
                + (f" and {len(lost) - 5} more" if len(lost) > 5 else ""),
                todo="Use another set",
            )
        spent = human_seconds(sum(self._run.phases.values()))
        return "intact", (
            f"{self._set.path}: {size} {'opened and ' if self._set.key else ''}read in {spent}, checksums right, no table missing "
            f"(of {len(manifest.evidence.tables)}); only a drill shows that it restores"
        )

    def _programs(self, manifest: Manifest | None) -> tuple[Programs, str]:
        """The programs of the container's image, else of the image that made the dump; and their version."""
        target = self._request.target
        containers = Containers()
        containers.sweep()
        try:
            if not self._named:
                raise TargetError("No container was named whose pg_restore could read the set")
            container = containers.find(
                name=target.container, project=target.project, service=target.service
            )
        except TargetError as error:
            if manifest is None:
                raise
            return self._stand_in(manifest, error)
        self._container = container.name
        programs = access_to(self._run, containers, container, target).programs
        return programs, programs.version()

    def _stand_in(self, manifest: Manifest, refusal: TargetError) -> tuple[Programs, str]:
        """A set can be read on the day on which its server is down, or on another host."""
        programs = access_by_image(
            self._run, self._request.target, manifest.source, refusal
        ).programs
        version = programs.version()
        if self._named:
            self._warnings.append(
                f"{refusal.what}: read with the image that made the dump ({manifest.source.image})"
            )
        return programs, version
