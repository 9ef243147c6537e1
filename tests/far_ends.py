# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Far ends for copies: a server of S3's protocol, an SSH server, and ways between that can be cut or lag."""

from __future__ import annotations

import http.client
import http.server
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from ports import LOCAL, answers, free_port
from servers import await_that

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import (
    RcloneTarget,
    RsyncTarget,
)


@contextmanager
def running(
    command: list[str], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A server for as long as the block lasts."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    try:
        await_that(
            lambda: process.poll() is not None or answers(port), f"{command[0]} listens", 120
        )
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.kill()
        process.wait()


# -- S3 --------------------------------------------------------------------------------------------


@dataclass
class S3:
    """A running server of S3's protocol; each test makes a bucket of its own."""

    port: int

    def bucket(self) -> str:
        name = f"b-{uuid.uuid4().hex[:12]}"
        self.ask("PUT", f"/{name}")
        return name

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        # The account is told by the header; no signature is looked at.
        credential = "Credential=test/20260101/us-east-1/s3/aws4_request"
        request = urllib.request.Request(
            f"http://{LOCAL}:{self.port}{path}",
            data=body if method in ("PUT", "POST") else None,
            method=method,
            headers={
                "Content-Type": "text/plain",
                "Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def target(
        self, home: Path, name: str, bucket: str, port: int = 0, **more: str
    ) -> RcloneTarget:
        settings = {
            "type": "s3",
            "provider": "Other",
            "access_key_id": "test",
            "secret_access_key": "not-a-secret",
            "region": "us-east-1",
            "endpoint": f"http://{LOCAL}:{port or self.port}",
            **more,
        }
        return RcloneTarget(name, f"far:{bucket}", rclone_config(home / f"{name}.conf", settings))


def rclone_config(path: Path, settings: dict[str, str], more: str = "") -> Path:
    lines = [f"{key} = {value}" for key, value in settings.items()]
    path.write_text("\n".join(["[far]", *lines, more, ""]))
    path.chmod(0o600)
    return path


@contextmanager
def s3_server(home: Path) -> Iterator[S3]:
    port = free_port()
    moto = str(Path(sys.executable).with_name("moto_server"))
    with running([moto, "-H", LOCAL, "-p", str(port)], port, home / "s3.log"):
        yield S3(port)


# -- WebDAV ----------------------------------------------------------------------------------------


def obscured(secret: str) -> str:
    """A password as rclone wants it in its settings."""
    command = ["rclone", "obscure", "-"]
    done = subprocess.run(command, input=secret, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextmanager
def webdav_server(home: Path, secret: str) -> Iterator[Callable[[str], RcloneTarget]]:
    """A server of files in `home`; it gives the target of one who believes that to be the password."""
    port = free_port()
    (home / "dav").mkdir()
    command = ["rclone", "serve", "webdav", str(home / "dav"), "--addr", f"{LOCAL}:{port}"]
    # Where they cannot be seen; rclone takes every option from there too.
    login = {"RCLONE_USER": "shop", "RCLONE_PASS": secret}

    def target(password: str) -> RcloneTarget:
        settings = {
            "type": "webdav",
            "url": f"http://{LOCAL}:{port}",
            "vendor": "other",
            "user": "shop",
            "pass": obscured(password),
        }
        path = rclone_config(home / f"{uuid.uuid4().hex}.conf", settings)
        return RcloneTarget("dav", "far:", path)

    with running(command, port, home / "dav.log", login):
        yield target


# -- SSH -------------------------------------------------------------------------------------------


@dataclass
class Ssh:
    """A running SSH server with SFTP and a shell, in which one key logs in."""

    port: int
    home: Path

    @property
    def key(self) -> Path:
        return self.home / "id"

    def known_hosts(self, port: int) -> Path:
        """The server's key, under another port where there is something between."""
        path = self.home / f"known_{port}"
        host_key = (self.home / "host.pub").read_text().split()[:2]
        path.write_text(f"[{LOCAL}]:{port} {' '.join(host_key)}\n")
        return path

    def sftp(self, name: str, path: Path, port: int = 0, key: Path | None = None) -> RcloneTarget:
        port = port or self.port
        settings = {
            "type": "sftp",
            "host": LOCAL,
            "port": str(port),
            "user": "root",
            "key_file": str(key or self.key),
            "known_hosts_file": str(self.known_hosts(port)),
            "md5sum_command": "md5sum",
            "sha1sum_command": "sha1sum",
        }
        config = rclone_config(self.home / f"{uuid.uuid4().hex}.conf", settings)
        return RcloneTarget(name, f"far:{path}", config)

    def rsync(
        self,
        name: str,
        path: Path,
        port: int = 0,
        key: Path | None = None,
        known_hosts: Path | None = None,
    ) -> RsyncTarget:
        port = port or self.port
        return RsyncTarget(
            name,
            host=LOCAL,
            port=port,
            path=str(path),
            identity_file=key or self.key,
            known_hosts_file=known_hosts or self.known_hosts(port),
        )


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@contextmanager
def ssh_server(home: Path) -> Iterator[Ssh]:
    port = free_port()
    server = Ssh(port, home)
    make_key(server.key)
    make_key(home / "host")
    # Debian's sshd wants it, and its service makes it.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    settings = {
        "Port": port,
        "ListenAddress": LOCAL,
        "HostKey": home / "host",
        "AuthorizedKeysFile": home / "id.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "MaxStartups": "100",
        "Subsystem": "sftp internal-sftp",
        # What the shell of whoever runs the tests reads at its start is none of the far end's.
        "SetEnv": f"HOME={home}",
    }
    config = home / "sshd_config"
    config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or "sshd"
    with running([sshd, "-D", "-e", "-f", str(config)], port, home / "ssh.log"):
        yield server


# -- what lies between -----------------------------------------------------------------------------


@dataclass
class Wire:
    """A TCP connection between, which ends or stands still after so many bytes to the far end."""

    to: int
    port: int = 0
    #: None: everything passes. 0: nobody is let in.
    limit: int | None = None
    #: At the limit nothing moves any more, instead of an end of the connection.
    stall: bool = False
    passed: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Wire:
        self._socket = socket.create_server((LOCAL, 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *unused_error: object) -> None:
        self._over.set()
        self._socket.close()

    def repair(self) -> None:
        self.limit, self.passed = None, 0

    def _accept(self) -> None:
        while True:
            try:
                near, unused_address = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._pump, args=(near,), daemon=True).start()

    def _pump(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection((LOCAL, self.to)) as far:
            while not self._over.is_set():
                readable, unused_w, unused_x = select.select([near, far], [], [], 0.2)
                for one in readable:
                    if one is near and self.limit is not None and self.passed >= self.limit:
                        self.reached.set()
                        if self.stall:
                            self._over.wait()
                        return
                    data = one.recv(16384)
                    if not data:
                        return
                    self.passed += len(data) if one is near else 0
                    (far if one is near else near).sendall(data)


class LaggingBucket:
    """An HTTP proxy before an S3 server that, once frozen, answers each listing as it was before."""

    def __init__(self, s3: S3) -> None:
        self.frozen = False
        self.old_answers = 0
        known: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}
        lagging = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                is_listing = self.command == "GET" and "delimiter=" in self.path
                if is_listing and lagging.frozen and self.path in known:
                    lagging.old_answers += 1
                    self._send(*known[self.path])
                    return
                length = int(self.headers.get("Content-Length") or 0)
                connection = http.client.HTTPConnection(LOCAL, s3.port, timeout=60)
                connection.request(
                    self.command,
                    self.path,
                    self.rfile.read(length) if length else None,
                    dict(self.headers),
                )
                answer = connection.getresponse()
                found = (answer.status, answer.getheaders(), answer.read())
                if is_listing:
                    known[self.path] = found
                self._send(*found)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

            def _send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in (
                        "connection",
                        "content-length",
                        "transfer-encoding",
                    ) or (self.command == "HEAD" and name.lower() == "content-length"):
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *unused_arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((LOCAL, 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> LaggingBucket:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *unused_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
