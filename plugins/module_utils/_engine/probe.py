# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One HTTP request, made by a child process that may first enter a container's network namespace.

The child has a life of its own so that this process never leaves its namespace, and so that a service which
sends a byte now and then cannot hold the drill: the child is killed when its time is over.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import http.client
import json
import os
import select
import signal
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import NoReturn

LIMIT_BYTES = 1 << 20
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_GRACE_S = 1.0
#: In JSON a byte may take six characters.
_PIPE_LIMIT_BYTES = 8 * LIMIT_BYTES
#: A namespace without IPv6, for one; the service may still listen on the next address.
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Request:
    """What to ask of whom. `addresses` are tried in turn while nothing listens; `host` goes into the request."""

    addresses: tuple[str, ...]
    port: int
    host: str = "localhost"
    tls: bool = False
    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Answer:
    """What came back. `status` 0 means that there was no answer; `problem` then says why, in words without
    anything that was sent, and `kind` is `refused`, `broken`, `timeout`, `other`, or `unasked`."""

    status: int = 0
    body: str = field(default="", repr=False)
    content_type: str = ""
    too_long: bool = False
    kind: str = ""
    problem: str = ""


def ask(request: Request, timeout_s: float, namespace: int = -1) -> Answer:
    """Makes the request in a child process and waits `timeout_s` seconds at most, plus one for the child itself.

    :param namespace: a descriptor of /proc/<pid>/ns/net to ask from inside of; -1 for the host's own.
    """
    reader, writer = os.pipe()
    # No signal handler of ours may run in the child, not even between fork(2) and the child's first line.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _live_as_child(request, timeout_s, namespace, writer, parent)
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(reader)
        os.close(writer)
        return Answer(kind="unasked", problem=f"no process can be started: {error.strerror}")
    try:
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        told = _read(reader, time.monotonic() + timeout_s + _GRACE_S)
    finally:
        os.close(reader)
        with contextlib.suppress(ChildProcessError):
            # As long as it is not reaped, the number is its own.
            if os.waitpid(child, os.WNOHANG)[0] == 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    if told is None:
        return Answer(kind="timeout", problem="the answer did not end in time")
    try:
        return Answer(**json.loads(told))
    except (ValueError, TypeError):
        return Answer(kind="unasked", problem="the process that asks ended without a word")


def _read(reader: int, deadline: float) -> bytes | None:
    """Everything up to the end of the pipe; None when it did not end before the deadline."""
    parts: list[bytes] = []
    count = 0
    waiter = select.poll()
    waiter.register(reader, select.POLLIN | select.POLLHUP)
    while count <= _PIPE_LIMIT_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not waiter.poll(left * 1000):
            return None
        part = os.read(reader, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
        count += len(part)
    return b""


def _live_as_child(
    request: Request, timeout_s: float, namespace: int, writer: int, parent: int
) -> NoReturn:
    """The child's whole life. Nothing of the parent's clean-up may run in it, so it ends by _exit(2)."""
    try:
        # A child that outlives a killed parent would keep the lock of the database.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Should the parent be interrupted just where it would kill the child.
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 2 * _GRACE_S)
        if os.getppid() == parent:
            _tell(writer, _enter_and_ask(request, timeout_s, namespace))
    except BaseException:  # noqa: BLE001 - its text may hold what was sent; the parent sees the empty pipe
        pass
    finally:
        os._exit(0)


def _tell(writer: int, answer: Answer) -> None:
    data = memoryview(json.dumps(asdict(answer)).encode())
    while data:
        data = data[os.write(writer, data) :]


def _enter_and_ask(request: Request, timeout_s: float, namespace: int) -> Answer:
    # os.setns() exists from Python 3.12 on only.
    if namespace >= 0 and _libc.setns(namespace, _CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        return Answer(kind="unasked", problem=f"the service's network cannot be entered: {reason}")
    try:
        return _exchange(request, timeout_s)
    except ssl.SSLCertVerificationError as error:
        return Answer(
            kind="other", problem=f"its certificate is not trusted: {error.verify_message}"
        )
    except ssl.SSLError as error:
        return Answer(kind="other", problem=f"TLS failed: {error.reason or 'no reason given'}")
    except socket.timeout:
        return Answer(kind="timeout", problem="no answer in time")
    except socket.gaierror as error:
        return Answer(kind="other", problem=f"the host's name has no address: {error.strerror}")
    except ConnectionError:
        # http.client.RemoteDisconnected is one, too.
        return Answer(kind="broken", problem="the connection was closed before there was an answer")
    except http.client.HTTPException as error:
        return Answer(kind="other", problem=f"this is no HTTP answer ({type(error).__name__})")
    except OSError as error:
        return Answer(
            kind="other", problem=f"it cannot be reached: {error.strerror or 'no reason given'}"
        )
    except ValueError:
        # The library's message quotes the header.
        return Answer(
            kind="unasked", problem="the request has a character that HTTP does not allow"
        )


def _exchange(request: Request, timeout_s: float) -> Answer:
    link = _connect(request.addresses, request.port, timeout_s)
    if link is None:
        return Answer(
            kind="refused",
            problem=f"nothing listens on port {request.port} (tried {', '.join(request.addresses)})",
        )
    connection: http.client.HTTPConnection
    if request.tls:
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(request.host, request.port, context=context)
        link = context.wrap_socket(link, server_hostname=request.host)
    else:
        connection = http.client.HTTPConnection(request.host, request.port)
    # A connection that is there already is used: no other address, no proxy, and no redirect is followed.
    connection.sock = link
    connection.request(request.method, request.path, body=request.body, headers=request.headers)
    response = connection.getresponse()
    content = response.read(LIMIT_BYTES + 1)
    return Answer(
        status=response.status,
        body=content[:LIMIT_BYTES].decode("utf-8-sig", errors="replace"),
        content_type=(response.getheader("Content-Type") or "").partition(";")[0].strip(),
        too_long=len(content) > LIMIT_BYTES,
    )


def _connect(addresses: Iterable[str], port: int, timeout_s: float) -> socket.socket | None:
    """A connection to the first address where something listens; None when nothing does on any."""
    refused = False
    trouble: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=timeout_s)
        except ConnectionRefusedError:
            refused = True
        except OSError as error:
            if error.errno not in _NO_ROUTE:
                raise
            trouble = error
    if trouble and not refused:
        raise trouble
    return None
