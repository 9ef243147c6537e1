# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One rclone that is asked again and again: its remote control (rclone.org/rc), for this process alone."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
from typing import Any

from .errors import OffsiteError
from .host_programs import Tail, end, environment_with, pipe, start
from .targets import RcloneTarget

#: One file after the other, with little memory: the host may have no more than a few hundred megabytes.
_OPTIONS = (
    *("--ask-password=false", "--contimeout=20s", "--timeout=60s", "--low-level-retries=3"),
    *("--transfers=1", "--checkers=1", "--buffer-size=0", "--use-mmap", "--copy-links"),
    *("--s3-upload-concurrency=1", "--s3-no-check-bucket"),
)
#: AWS_CA_BUNDLE ends rclone before it has asked anything; its own option `ca_cert` is for that. Nobody is there to be asked.
ENVIRONMENT = {
    "GOGC": "30",
    "GOMEMLIMIT": "48MiB",
    "AWS_CA_BUNDLE": None,
    "RCLONE_INTERACTIVE": None,
}
#: A file may be on its way for days; after an hour it would be there, and the answer lost.
_SERVER = (
    *("--rc-addr=127.0.0.1:0", "--rc-server-read-timeout=0s", "--rc-server-write-timeout=0s"),
)
#: What it says once it listens.
_LISTENS = re.compile(rb"Serving remote control on http://127\.0\.0\.1:(\d+)/")
_START_S = 60
_END_S = 1
_LONGEST = 400
#: What a user's environment sets for a remote control of his own, and what keeps it from saying that it listens.
_OTHERS = ("RCLONE_RC", "RCLONE_LOG", "RCLONE_SYSLOG", "RCLONE_QUIET", "RCLONE_VERBOSE")
_USER = "firedrill"


def options_of(target: RcloneTarget) -> list[str]:
    """What each rclone for a target is told; the bandwidth limit is for uploads and what checks them."""
    limit = [f"--bwlimit={target.max_bytes_per_s}B"] if target.max_bytes_per_s else []
    return [f"--config={target.config_file}", *_OPTIONS, *limit]


class NotThereError(OffsiteError):
    """The file or directory is not there."""


class RcloneServer:
    """It starts when it is first needed, and again when it ended; close() is for its end.

    Each start of rclone, with a login at the far end, costs a small host a good part of a second. It listens on the loopback
    interface, and a password that only it and this process know keeps others from what it can reach.
    """

    def __init__(self, target: RcloneTarget) -> None:
        self._options = options_of(target)
        self._secret = secrets.token_urlsafe(32)
        others = {name: None for name in os.environ if name.startswith(_OTHERS)}
        login = {"RCLONE_RC_USER": _USER, "RCLONE_RC_PASS": self._secret}
        self._environment = environment_with({**ENVIRONMENT, **others, **login})
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: Tail | None = None

    def begin(self) -> None:
        """Starts it, unless it runs, and does not wait until it listens.

        :raises HostError: rclone is not installed.
        """
        if self._process and self._process.poll() is None:
            return
        self.close()
        self._process = start(
            ["rclone", "rcd", *_SERVER, *self._options],
            environment=self._environment,
            stdin=subprocess.DEVNULL,
        )
        self._messages = Tail(pipe(self._process.stderr), _LISTENS)
        self._messages.start()

    def ask(self, command: str, **parameters: object) -> Any:
        """What it answers to a command.

        :raises NotThereError: the file or directory is not there.
        :raises OffsiteError: with its words.
        :raises HostError: rclone is not installed.
        """
        self.begin()
        listens = self._messages.wait(_START_S) if self._messages else None
        if not listens:
            raise self._ended("rclone did not start")
        login = base64.b64encode(f"{_USER}:{self._secret}".encode()).decode("ascii")
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
        # How long it takes is its matter: it has limits for each step of an upload.
        connection = http.client.HTTPConnection("127.0.0.1", int(listens[1]))
        try:
            connection.request("POST", f"/{command}", json.dumps(parameters), headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._ended("rclone gave no answer") from error
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.OK:
            return told
        words = " ".join(str(told["error"]).split())
        shown = words[:_LONGEST]
        # Of a command that it does not know, being older, it says so with the same status.
        if answer.status == http.HTTPStatus.NOT_FOUND and "not found" in words:
            raise NotThereError(shown)
        raise OffsiteError(shown)

    def close(self) -> None:
        """Ends it; the next that asks starts another one."""
        if self._process:
            end(self._process, self._messages)
            self._process = self._messages = None

    def _ended(self, what: str) -> OffsiteError:
        process, messages = self._process, self._messages
        status = 0
        if process:
            # Its connection ends a moment before it does.
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(_END_S)
        self.close()
        if status < 0:
            what = (
                f"rclone was ended by {signal.Signals(-status).name}: is there too little memory?"
            )
            return OffsiteError(what)
        return OffsiteError(telling(messages.text if messages else "") or what)


def telling(messages: str) -> str:
    """The message of rclone that says most, without its time; "" for none."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    # What it has answered is told already, and may be long ago.
    lines = [line for line in lines if 'rc: "' not in line and not _LISTENS.search(line.encode())]
    found = [line for line in lines if re.search(r"\b(ERROR|CRITICAL|Failed)\b", line)] or lines
    return (
        re.sub(r"^[\d/]+ [\d:]+ ((ERROR|CRITICAL) : (: )?)?", "", found[-1])[:_LONGEST]
        if found
        else ""
    )
