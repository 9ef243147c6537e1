# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pings to a service that raises the alarm when they stay away, in the manner of Healthchecks."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request

from .errors import HostError

START, SUCCESS, FAIL, LOG = "start", "", "fail", "log"
_TIMEOUT_S = 15.0
_LONGEST_BODY_BYTES = 10_000


def ping(url: str, kind: str, body: str = "") -> None:
    """Sends one ping: START, SUCCESS, FAIL, or LOG, which changes nothing at the far side.

    The kind is a path below the URL, as https://healthchecks.io/docs/http_api/ has it. The URL is a secret: it is in no
    message.

    :raises HostError: it did not arrive.
    """
    data = body.encode("utf-8", "replace")[:_LONGEST_BODY_BYTES]
    try:
        request = urllib.request.Request(_below(url, kind), data=data, method="POST")
        request.add_header("Content-Type", "text/plain; charset=utf-8")
        request.add_header("User-Agent", "firedrill")
        with _OPENER.open(request, timeout=_TIMEOUT_S) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        raise _lost(f"the answer was {error.code}") from None
    except urllib.error.URLError as error:
        reason = error.reason
        words = reason.strerror if isinstance(reason, OSError) else None
        raise _lost(words or type(reason).__name__) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        # The text may hold the URL.
        raise _lost(getattr(error, "strerror", None) or type(error).__name__) from None


def _lost(why: str) -> HostError:
    return HostError(f"The ping did not arrive: {why}", todo="Is the network up, is the URL right?")


def _below(url: str, kind: str) -> str:
    parts = urllib.parse.urlsplit(url)
    path = f"{parts.path.rstrip('/')}/{kind}" if kind else parts.path
    return urllib.parse.urlunsplit(parts._replace(path=path))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A ping that is sent elsewhere, as an unknown one often is, has not arrived."""

    def redirect_request(self, *unused: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
