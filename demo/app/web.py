# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's web service: a health endpoint and a login.

It opens a connection for each request, so nothing that happens to the database
needs a restart here.
"""

import json
import os
import secrets
import signal
import sys
from contextlib import closing
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

DATABASE_URL = os.environ["DATABASE_URL"]
PORT = int(os.environ.get("PORT", "3000"))
MAX_BODY = 64 * 1024


def query(sql, parameters=()):
    """Run one statement on a connection of its own and return its rows."""
    connection = psycopg2.connect(DATABASE_URL, connect_timeout=3)
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def health():
    """Is the database there, with the table that nobody can log in without?"""
    try:
        query("SELECT 1 FROM public.users LIMIT 1")
        database = "ok"
    except psycopg2.Error as error:
        print(f"web: health: {error}".strip(), flush=True)
        database = "error"
    body = {
        "status": database,
        "service": "web",
        "checks": {"db": database},
        "ts": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    return (200 if database == "ok" else 503), body


def login(body):
    """Check an e-mail address and a password against the table of users."""
    try:
        request = json.loads(body)
        email, password = request["email"], request["password"]
    except (ValueError, TypeError, KeyError):
        return 400, {"error": "expected JSON with email and password"}
    if not (isinstance(email, str) and isinstance(password, str)) or "\0" in email + password:
        return 400, {"error": "expected JSON with email and password"}
    try:
        found = query("SELECT id, email, role FROM public.login(%s, %s)", (email, password))
    except psycopg2.Error as error:
        print(f"web: login: {error}".strip(), flush=True)
        return 503, {"error": "the database is not available"}
    if not found:
        return 401, {"error": "wrong email or password"}
    user_id, email, role = found[0]
    return 200, {
        "user": {"id": user_id, "email": email, "role": role},
        "token": secrets.token_urlsafe(24),
    }


class Handler(BaseHTTPRequestHandler):
    """Two routes, JSON in and out."""

    timeout = 30

    def do_GET(self):
        if self.path == "/api/health":
            self.answer(*health())
        else:
            self.answer(404, {"error": "not found"})

    def do_POST(self):
        length = self.headers.get("Content-Length", "0")
        if self.path != "/api/v1/auth/login":
            self.answer(404, {"error": "not found"})
        elif not length.isdecimal() or int(length) > MAX_BODY:
            self.answer(413, {"error": "too long"})
        else:
            self.answer(*login(self.rfile.read(int(length))))

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        """Health checks every few seconds would drown everything else."""


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("0.0.0.0", PORT), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    print(f"web: listening on port {PORT}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
