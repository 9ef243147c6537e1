# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file of settings on the host: the databases by name, and what the engine is asked for from each."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .alarms import Alarms
from .drill import DrillRequest
from .dump import BackupRequest
from .durable import read_text
from .errors import ConfigError, HostError
from .model import Encryption, HttpCheck, Target
from .offsite import CopyRequest
from .recipients import encryption_of
from .restoration import RestoreRequest
from .retention import Policy
from .schedule import Schedule
from .schema import FILE, SCHEDULE
from .targets import Offsite, OffsiteTarget, folder_of
from .verify import VerifyRequest

try:
    import yaml

    HAS_YAML = True
except ImportError:
    HAS_YAML = False

DEFAULT_PATH = Path("/etc/firedrill/config.yml")
#: Beside the settings.
SCHEDULE_NAME = "schedule.yml"


@dataclass(frozen=True)
class Section:
    """The settings of one database. Passwords and bodies are read from their files when a request is made."""

    name: str
    directory: Path
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    offsite: Offsite = field(default_factory=Offsite)

    @property
    def database(self) -> str:
        return str(self.settings.get("database", self.name))

    @property
    def place(self) -> str:
        """The directory by the only name that is its own: several may lead to it, by links or `..`."""
        return os.path.realpath(self.directory)

    def target(self, *, password: bool = True) -> Target:
        """:raises HostError: the file with the password cannot be read."""
        values = self._picked(Target)
        if password and "login_password_file" in self.settings:
            values["login_password"] = _secret(self.settings["login_password_file"])
        return Target(**{**values, "database": self.database})

    def backup(self, **changes: Any) -> BackupRequest:
        """What to dump; `changes` outrank the settings, here and below."""
        values = {**self._common(BackupRequest), "encryption": self._encryption()}
        return BackupRequest(**{**values, **changes})

    def restore(self, **changes: Any) -> RestoreRequest:
        """What to restore.

        :raises HostError: a file of public keys for its safety dump cannot be read.
        """
        request = RestoreRequest(**{**self._common(RestoreRequest), **changes})
        if not request.wants_safety_dump:
            # Public keys that are gone must not be in the way of a restore that needs none.
            return request
        return dataclasses.replace(request, encryption=self._encryption())

    def verify(self, **changes: Any) -> VerifyRequest:
        """Which set to read; no server is asked, so no password is needed."""
        return VerifyRequest(**{**self._common(VerifyRequest, password=False), **changes})

    def drill(self, **changes: Any) -> DrillRequest:
        """What to drill. Requests are only made with `live`, and have their bodies only then.

        :raises HostError: the file with a request's body cannot be read.
        """
        values = self._common(DrillRequest)
        asked = bool(changes.get("live"))
        values["http_checks"] = tuple(
            _http_check(found, asked=asked) for found in self.settings.get("http_checks", ())
        )
        return DrillRequest(**{**values, **changes})

    def copy(self, **changes: Any) -> CopyRequest:
        """What to bring to the offsite targets."""
        return CopyRequest(
            **{
                **self._picked(CopyRequest),
                "directory": self.directory,
                "database": self.database,
                "offsite": self.offsite,
                **changes,
            }
        )

    def ping_url(self, job: str) -> str:
        """Where the runs of a job, `backup` or `drill`, are told; "" for nowhere.

        :raises HostError: the file with the URL cannot be read.
        """
        key = "ping_url" if job == "backup" else f"{job}_ping_url"
        if f"{key}_file" in self.settings:
            return _secret(self.settings[f"{key}_file"]).strip()
        return str(self.settings.get(key, ""))

    def _common(self, request: Any, *, password: bool = True) -> dict[str, Any]:
        """What a request takes from the settings, all but the public keys: not each that may need them does."""
        values = self._picked(request)
        values.pop("encryption", None)
        target = self.target(password=password)
        common = {**values, "target": target, "directory": self.directory}
        if "offsite" in _names(request):
            common["offsite"] = self.offsite
        return common

    def _encryption(self) -> Encryption | None:
        """:raises ConfigError: a file of public keys holds what is none.
        :raises HostError: it cannot be read.
        """
        found = self.settings.get("encryption")
        return encryption_of(**_renamed(found)) if found else None

    def _picked(self, kind: Any) -> dict[str, Any]:
        """The settings that a request has under the same name."""
        return {key: value for key, value in self.settings.items() if key in _names(kind)}


def _names(kind: Any) -> set[str]:
    return {entry.name for entry in dataclasses.fields(kind)}


@dataclass(frozen=True)
class Config:
    """The whole file: the databases by name, in the file's order, and how long their sets are kept."""

    path: Path
    sections: dict[str, Section]
    policy: Policy
    targets: tuple[OffsiteTarget, ...] = ()
    alarms: Alarms = field(default_factory=Alarms)

    def offsite_of(self, directory: Path, database: str) -> Offsite:
        """The targets for the sets of a database in that directory; with the database's own name for one that is
        not in the settings."""
        for section in self.sections.values():
            if (section.place, section.database) == (os.path.realpath(directory), database):
                return section.offsite
        return Offsite(self.targets, folder_of(database))


def load_config(path: Path) -> Config:
    """Reads the settings.

    :raises ConfigError: there are none, or they are wrong: all that is wrong, in one message.
    :raises HostError: the file cannot be read here, or the YAML library is missing.
    """
    content, mode = _read(path)
    config = parse_config(content, path)
    sections = config.sections
    secret = config.alarms.apprise_urls or any(
        _holds_secret(section.settings) for section in sections.values()
    )
    if mode & 0o077 and secret:
        raise ConfigError(
            f"{path} holds a password, a URL of pings or messages, or the body or headers of a request, and others can read it (mode {mode:04o})",
            state="Nothing was changed",
            todo=f"`chmod 600 {path}`, or move them to files of their own (`login_password_file`, `body_file`)",
        )
    return config


def parse_config(content: Any, path: Path) -> Config:
    """Settings from plain data, for a file that may not be there yet.

    :raises ConfigError: they are wrong: all that is wrong, in one message; no text of a value is in it.
    """
    problems: list[str] = []
    found = FILE("", content, problems)
    if isinstance(content, dict) and not problems:
        problems += _missing(found)
    shared = {key: found[key] for key in ("encryption",) if key in found}
    sections = {
        name: Section(
            name,
            settings.get("backup_dir", found.get("backup_dir", Path())),
            {**shared, **settings},
            Offsite(found.get("offsite", ()), folder_of(name)),
        )
        for name, settings in found.get("databases", {}).items()
    }
    if not problems:
        for section in sections.values():
            problems += _contradictions(section)
        problems += _collisions(list(sections.values()))
    _refuse(path, problems)
    policy = Policy(**found.get("retention", {}))
    alarms = Alarms(**found.get("alarms", {}))
    return Config(path, sections, policy, found.get("offsite", ()), alarms)


def load_schedule(config: Path) -> Schedule | None:
    """The schedule beside the settings; None when this host has none of its own.

    :raises ConfigError: it is wrong.
    :raises HostError: it cannot be read.
    """
    path = config.with_name(SCHEDULE_NAME)
    if not path.exists():
        return None
    problems: list[str] = []
    found = SCHEDULE("", _read(path)[0], problems)
    drill = found.get("drill", {})
    if not problems:
        problems += [f"{key} is missing" for key in ("backup",) if key not in found]
        problems += [
            f"drill.{key} is missing" for key in ("day", "time") if drill and key not in drill
        ]
    _refuse(path, problems)
    if not drill:
        return Schedule(found["backup"], drill_day=0)
    return Schedule(found["backup"], drill["time"], drill["day"])


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        listed = "; ".join(f"({number}) {problem}" for number, problem in enumerate(problems, 1))
        raise ConfigError(
            f"{path} cannot be used: {listed}", state="Nothing was changed", todo="Correct the file"
        )


def _read(path: Path) -> tuple[Any, int]:
    """The file as plain data, and its mode."""
    if not HAS_YAML:
        raise HostError(
            "Python's yaml library is missing on this host",
            todo="Install the package python3-yaml (or `pip install PyYAML`)",
        )
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            written = file.read().decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no configuration file {path}",
            todo="Write it, name another with --config, or name the database with --container, --database "
            "and --backup-dir",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8", todo="Correct the file") from error
    except OSError as error:
        raise HostError(
            f"{path} cannot be read: {error.strerror}", todo="Run this as root"
        ) from error
    try:
        return _parse(written), mode
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        why = getattr(error, "problem", None) or "it cannot be read"
        raise ConfigError(f"{path} is no YAML: {where}{why}", todo="Correct the file") from error


def _parse(written: str) -> Any:
    """YAML as plain data.

    :raises yaml.YAMLError: it is none, or a key is there twice: the library would drop the first in silence.
    """

    class Strict(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen = set()
            for key, unused_value in node.value:
                if key.value in seen and isinstance(key, yaml.ScalarNode):
                    raise yaml.MarkedYAMLError(
                        problem=f'the key "{key.value}" is there twice', problem_mark=key.start_mark
                    )
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            return node

    # A subclass of SafeLoader builds plain data only.
    return yaml.load(written, Loader=Strict)  # noqa: S506


def _missing(found: dict[str, Any]) -> list[str]:
    if not found.get("databases"):
        return ["databases is missing: name at least one"]
    if "backup_dir" not in found and not all(
        "backup_dir" in one for one in found["databases"].values()
    ):
        return ["backup_dir is missing"]
    return []


def _contradictions(section: Section) -> list[str]:
    place, settings = f"databases.{section.name}", section.settings
    found = []
    if ("container" in settings) == bool({"project", "service"} & settings.keys()):
        found.append(f"{place} needs either container, or project and service")
    elif ("project" in settings) != ("service" in settings):
        found.append(f"{place} needs both project and service")
    found += [
        f"{place} has both {key} and {key}_file"
        for key in ("login_password", "ping_url", "drill_ping_url")
        if {key, f"{key}_file"} <= settings.keys()
    ]
    return found


def _collisions(sections: list[Section]) -> list[str]:
    """Two databases of one name in one directory: `latest` of the one could be a dump of the other."""
    found = []
    seen: dict[tuple[str, str], str] = {}
    for section in sections:
        other = seen.setdefault((section.place, section.database), section.name)
        if other != section.name:
            found.append(
                f'databases.{other} and databases.{section.name} both keep sets of a database "{section.database}" '
                f"in {section.directory}: give one of them another backup_dir"
            )
    return found


# -- secrets ---------------------------------------------------------------------------------------


def _holds_secret(settings: dict[str, Any]) -> bool:
    checks = settings.get("http_checks", ())
    plain = {"login_password", "ping_url", "drill_ping_url"}
    return bool(plain & settings.keys()) or any(
        {"body", "headers"} & check.keys() for check in checks
    )


def _secret(path: Path) -> str:
    """What a file holds, without the line break at its end."""
    return read_text(path, "The secret").rstrip("\r\n")


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    """The settings of an encryption under names that Python allows."""
    return {{"with": "method", "recipients_files": "files"}.get(k, k): v for k, v in found.items()}


def _http_check(found: dict[str, Any], *, asked: bool) -> HttpCheck:
    """:param asked: with its secrets; without them it can be reported, not made."""
    hidden = ("body_file",) if asked else ("body_file", "body", "headers")
    values = {key: value for key, value in found.items() if key not in hidden}
    if asked and "body_file" in found:
        written = _secret(found["body_file"])
        try:
            values["body"] = json.loads(written)
        except ValueError:
            # Any other format goes out as it is.
            values["body"] = written
    return HttpCheck(**values)
