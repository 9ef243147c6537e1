# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the file of settings may hold: its keys, and the values that the engine makes of them."""

from __future__ import annotations

import contextlib
import re
from datetime import time
from typing import Any, cast

from . import kinds
from .compression import parse_compression
from .dump import EVIDENCE_LEVELS
from .errors import ConfigError
from .filenames import CIPHERS
from .model import Assertion, Freshness, SqlScript
from .restore import METHODS
from .retention import SETTINGS as RETENTION_SETTINGS
from .schedule import LAST_DAY
from .targets import targets_kind

_ANY_MAJOR = 99


def _compression(place: str, value: Any, problems: list[str]) -> str:
    written = kinds.text(place, value, problems)
    try:
        parse_compression(written, _ANY_MAJOR)
    except ConfigError as error:
        problems.append(f"{place}: {error}")
    return written


def _script(place: str, value: Any, problems: list[str]) -> SqlScript:
    shape = kinds.fields({"file": kinds.path, "container_file": kinds.text, "sql": kinds.text})
    found = shape(place, value, problems)
    if len(found) != 1:
        problems.append(f"{place} needs one of file, container_file and sql")
    return SqlScript(**{key: str(entry) for key, entry in found.items()})


def _assertion(place: str, value: Any, problems: list[str]) -> Assertion:
    if isinstance(value, str):
        return Assertion(kinds.text(place, value, problems))
    found = kinds.fields({"sql": kinds.text, "name": kinds.text})(place, value, problems)
    if "sql" not in found:
        problems.append(f"{place}.sql is missing")
    return Assertion(**{"sql": "", **found})


def _freshness(place: str, value: Any, problems: list[str]) -> Freshness:
    found = kinds.fields({"max_age_s": kinds.number(1), "sql": kinds.text})(place, value, problems)
    if "max_age_s" not in found:
        problems.append(f"{place}.max_age_s is missing (in seconds)")
    return Freshness(**{"max_age_s": 0, **found})


_HTTP = kinds.fields(
    {
        "name": kinds.text,
        "url": kinds.text,
        "service": kinds.text,
        "port": kinds.number(1, whole=True),
        "path": kinds.text,
        "method": kinds.text,
        "body": kinds.anything,
        "body_file": kinds.path,
        "headers": kinds.map_of(kinds.text),
        "expect_status": kinds.number(100, whole=True),
        "expect": kinds.text,
        "equals": kinds.anything,
        "timeout_s": kinds.number(0.001),
    }
)


def _http(place: str, value: Any, problems: list[str]) -> dict[str, Any]:
    found = cast("dict[str, Any]", _HTTP(place, value, problems))
    inside = {"service", "port"} & found.keys()
    if ("url" in found) == bool(inside) or len(inside) == 1:
        problems.append(f"{place} needs either url, or service and port")
    if "body" in found and "body_file" in found:
        problems.append(f"{place} has both body and body_file")
    return found


_ENCRYPTION = kinds.fields(
    {
        "with": kinds.choice(tuple(CIPHERS)),
        "recipients": kinds.list_of(kinds.text),
        "recipients_files": kinds.list_of(kinds.path),
    }
)


def _encryption(place: str, value: Any, problems: list[str]) -> dict[str, Any]:
    found = cast("dict[str, Any]", _ENCRYPTION(place, value, problems))
    if "with" not in found:
        problems.append(f"{place}.with is missing ({' or '.join(CIPHERS)})")
    if not (found.get("recipients") or found.get("recipients_files")):
        problems.append(f"{place} names no public key: set recipients or recipients_files")
    return found


def _web(place: str, value: Any, problems: list[str]) -> str:
    written = kinds.text(place, value, problems)
    if written and not re.match(r"https?://[^/\s]+\S*$", written):
        problems.append(f"{place} has to be a URL that begins with https:// or http://")
    return written


#: One database. Keys that a request has under the same name go into it as they are.
DATABASE = kinds.fields(
    {
        "backup_dir": kinds.path,
        # where it is
        "container": kinds.text,
        "project": kinds.text,
        "service": kinds.text,
        "database": kinds.text,
        "user": kinds.text,
        "login_password": kinds.text,
        "login_password_file": kinds.path,
        "login_host": kinds.text,
        "login_port": kinds.number(1, whole=True),
        "timeout_s": kinds.number(0),
        # the dump
        "compress": _compression,
        "evidence": kinds.choice(EVIDENCE_LEVELS),
        "globals": kinds.flag,
        "exclude_table_data": kinds.list_of(kinds.text),
        "min_free_bytes": kinds.number(0, whole=True),
        "encryption": _encryption,
        "identity_file": kinds.path,
        # the restore
        "method": kinds.choice(METHODS),
        "stop_services": kinds.list_of(kinds.text),
        "jobs": kinds.number(0, whole=True),
        "no_owner": kinds.flag,
        "no_privileges": kinds.flag,
        "post_sql": kinds.list_of(_script),
        "keep_previous": kinds.flag,
        "safety_dump": kinds.flag,
        "verify": kinds.flag,
        "restore_superusers": kinds.flag,
        # the drill
        "assertions": kinds.list_of(_assertion),
        "freshness": _freshness,
        "http_checks": kinds.list_of(_http),
        "record_file": kinds.path,
        # who is told
        "ping_url": _web,
        "ping_url_file": kinds.path,
        "drill_ping_url": _web,
        "drill_ping_url_file": kinds.path,
    }
)


def _address(place: str, value: Any, problems: list[str]) -> str:
    written = kinds.text(place, value, problems)
    if written and not re.match(r"[A-Za-z0-9]+://\S+$", written):
        problems.append(f"{place} has to be an address of apprise, as in ntfy://topic")
    return written


#: The whole file.
FILE = kinds.fields(
    {
        "backup_dir": kinds.path,
        "databases": kinds.map_of(DATABASE),
        "encryption": _encryption,
        "offsite": targets_kind,
        "retention": RETENTION_SETTINGS,
        "alarms": kinds.fields(
            {
                "apprise_urls": kinds.list_of(_address),
                "apprise_config": kinds.path,
                "metrics_dir": kinds.path,
            }
        ),
    }
)


def _clock(place: str, value: Any, problems: list[str]) -> time:
    # An unquoted 12:30 is the number 750 in YAML.
    if isinstance(value, str) and re.fullmatch(r"\d\d:\d\d", value):
        with contextlib.suppress(ValueError):
            return time.fromisoformat(value)
    problems.append(f'{place} has to be a time of the day in quotes, as in "02:00"')
    return time()


def _day(place: str, value: Any, problems: list[str]) -> int:
    day = int(kinds.number(1, whole=True)(place, value, problems))
    if day > LAST_DAY:
        problems.append(f"{place} has to be a day that every month has, 1 to {LAST_DAY}")
    return day


#: The file of the schedule.
SCHEDULE = kinds.fields(
    {"backup": _clock, "drill": kinds.fields({"day": _day, "time": _clock})},
)
