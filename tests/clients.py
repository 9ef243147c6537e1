# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clients that come back at once when they are thrown out, as an application's pool does.

A program of its own: `clients.py SOCKET-DIRECTORY DATABASE NUMBER`. It prints a line when all are connected, ends
when its standard input does, and prints what the clients met as JSON. One more client asks a question all the
time and remembers for how long nobody answered.
"""

from __future__ import annotations

import collections
import json
import sys
import threading
import time

import psycopg2


class Clients:
    def __init__(self, directory: str, database: str) -> None:
        self.over = threading.Event()
        self.connected = 0
        self.errors: collections.Counter[str] = collections.Counter()
        self.longest_gap_s = 0.0
        self._address = {"host": directory, "user": "postgres", "dbname": database}
        self._guard = threading.Lock()

    def _ask(self, connection: psycopg2.extensions.connection, statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    def stay(self) -> None:
        """Holds a connection, and takes another one at once when it is lost."""
        while not self.over.is_set():
            try:
                connection = psycopg2.connect(**self._address, application_name="staying")
                with self._guard:
                    self.connected += 1
                while not self.over.is_set():
                    self._ask(connection, "SELECT pg_sleep(0.2)")
                connection.close()
            except psycopg2.Error as error:
                with self._guard:
                    self.errors[str(error).strip().splitlines()[0]] += 1
                time.sleep(0.005)

    def watch(self) -> None:
        """Measures the longest time without an answer."""
        last = time.monotonic()
        while not self.over.is_set():
            try:
                connection = psycopg2.connect(**self._address)
                self._ask(connection, "SELECT count(*) FROM users")
                connection.close()
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - last)
                last = now
            except psycopg2.Error:
                pass
            time.sleep(0.02)


def main(directory: str, database: str, number: str) -> None:
    clients = Clients(directory, database)
    threads = [threading.Thread(target=clients.watch)]
    threads += [threading.Thread(target=clients.stay) for unused in range(int(number))]
    for thread in threads:
        thread.start()
    while clients.connected < int(number):
        time.sleep(0.02)
    print("connected", flush=True)
    sys.stdin.read()
    clients.over.set()
    for thread in threads:
        thread.join()
    seen = {"connected": clients.connected, "longest_gap_s": clients.longest_gap_s}
    print(json.dumps({**seen, "errors": dict(clients.errors)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
