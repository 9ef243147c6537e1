# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's worker: it writes all the time, and outlives its database.

Each round is one transaction: a visit, a payment and an update of the job.
"""

import os
import signal
import sys
import time
from pathlib import Path

import psycopg2

DATABASE_URL = os.environ["DATABASE_URL"]
PAUSE_S = float(os.environ.get("PAUSE_S", "0.2"))
# Its time of change is that of the last commit: the health check looks at it.
HEARTBEAT = Path(os.environ.get("HEARTBEAT", "/tmp/heartbeat"))
ACCOUNTS = 3

ROUND = """
WITH job AS (
  UPDATE public.jobs
     SET status = CASE WHEN status = 'in_progress' THEN 'done'::public.job_status ELSE 'in_progress' END
   WHERE id = (SELECT id FROM public.jobs ORDER BY random() LIMIT 1)
  RETURNING id, account_id, assigned_to
)
INSERT INTO public.visits (account_id, job_id, technician_id, minutes, notes)
SELECT account_id, id, assigned_to, 30, 'by the worker' FROM job;

INSERT INTO public.payments (account_id, invoice_id, amount)
SELECT account_id, id, 1.00 FROM public.invoices ORDER BY random() LIMIT 1;
"""


def write(connection, number):
    """One round, in the name of one account; committed when this returns."""
    account = str(1 + number % ACCOUNTS)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('app.current_account_id', %s, true)", (account,))
        cursor.execute(ROUND)
    connection.commit()
    HEARTBEAT.touch()


def work():
    """Connect and write until something breaks."""
    connection = psycopg2.connect(DATABASE_URL, connect_timeout=3)
    try:
        print("worker: connected", flush=True)
        number = 0
        while True:
            write(connection, number)
            number += 1
            time.sleep(PAUSE_S)
    finally:
        connection.close()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        try:
            work()
        except psycopg2.Error as error:
            print(f"worker: {error}".strip(), flush=True)
            time.sleep(0.5)


if __name__ == "__main__":
    main()
