# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Firedrill beside the runbook's own commands, on one database, in one run; prints a Markdown table.

Usage: bench.py [SCALE]   (100, the default, makes a database of about 1.1 GB)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The link that tools/setup.sh makes.
sys.path[:0] = [str(ROOT / ".ansible" / "collections"), str(ROOT / "tests")]

from far_ends import ssh_server  # noqa: E402

IMAGE = os.environ.get("FIREDRILL_BENCH_IMAGE", "firedrill-test/postgres:17")
LABEL = "firedrill.bench=1"
ROUNDS = 7
#: Copies are measured with so many times the data too: what each costs whatever the size weighs less there.
LARGE = 3
LARGE_ROUNDS = 5
PROJECT = f"bench{uuid.uuid4().hex[:6]}"
CONTAINER = f"{PROJECT}-db-1"
APPLICATION = f"{PROJECT}-web-1"
_PRELUDE = f"""
import json, resource, sys
from pathlib import Path, PosixPath
sys.path.insert(0, {str(ROOT / "plugins" / "module_utils")!r})
from _engine.dump import BackupRequest, backup
from _engine.model import Encryption, Target
from _engine.offsite import CopyRequest, copy_sets
from _engine.restore import RestoreRequest, restore
from _engine.retention import Policy
from _engine.targets import Offsite, RcloneTarget, RsyncTarget
target = Target(database=sys.argv[1], container={CONTAINER!r})
directory = Path(sys.argv[2])
"""
_ENDING = """
programs = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({**r.as_dict(), "programs_kib": programs}))
"""


@dataclass
class Ours:
    """One run of the engine in a process of its own: seconds, peak memory of it and of its largest program, its report."""

    seconds: float
    peak_mib: float
    program_mib: float
    report: dict[str, object]

    def phase(self, name: str) -> float:
        phases = self.report["phases"]
        assert isinstance(phases, dict)
        return float(phases.get(name, 0.0))


def docker(*arguments: str, stdin: object = None, stdout: object = subprocess.PIPE) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        stdin=stdin,
        stdout=stdout,
        check=True,
        text=True,  # type: ignore[call-overload]
    )
    return str(done.stdout or "").strip()


def psql(database: str, text: str, *more: str) -> str:
    command = [
        "docker",
        "exec",
        "-i",
        CONTAINER,
        "psql",
        "-XqAt",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        "postgres",
    ]
    done = subprocess.run(
        [*command, "-d", database, *more], input=text, stdout=subprocess.PIPE, check=True, text=True
    )
    return done.stdout.strip()


def timed(action: object) -> float:
    began = time.monotonic()
    action()  # type: ignore[operator]
    return time.monotonic() - began


def engine(code: str, database: str, directory: Path) -> Ours:
    """Runs `code`, which leaves a Report in `r`, and measures the process from outside (wait4(2))."""
    began = time.monotonic()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{_PRELUDE}{code}\n{_ENDING}",
            database,
            str(directory),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    text = process.stdout.read()
    unused_pid, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if status:
        sys.exit(f"the engine ended with wait status {status}")
    report = json.loads(text)
    return Ours(seconds, usage.ru_maxrss / 1024, report["programs_kib"] / 1024, report)


def fill(database: str, scale: int) -> int:
    """Creates a database; returns its size in bytes."""
    psql("postgres", f"CREATE DATABASE {database}")
    psql(database, Path(__file__).with_name("data.sql").read_text(), "-v", f"scale={scale}")
    psql(database, "CHECKPOINT")
    return int(psql("postgres", f"SELECT pg_database_size('{database}')"))


def dump_by_hand(database: str, path: Path, compress: str) -> float:
    def dump() -> None:
        with path.open("wb") as file:
            docker(
                "exec", CONTAINER, "pg_dump", "--username=postgres", "--format=custom", f"--compress={compress}",
                database, stdout=file,
            )  # fmt: skip

    return timed(dump)


def load_by_hand(path: Path, jobs: int) -> float:
    """pg_restore from a file in the container, as fast as it goes with nothing of ours around it."""
    inside = "/tmp/by-hand.dump"
    docker("cp", str(path), f"{CONTAINER}:{inside}")
    docker("exec", CONTAINER, "chmod", "a+r", inside)
    psql("postgres", "CREATE DATABASE by_hand")
    seconds = timed(
        lambda: docker(
            "exec", CONTAINER, "pg_restore", "--username=postgres", "--dbname=by_hand", f"--jobs={jobs}", inside
        )
    )  # fmt: skip
    psql("postgres", "DROP DATABASE by_hand")
    docker("exec", CONTAINER, "rm", inside)
    return seconds


def runbook_restore(database: str, path: Path) -> tuple[float, float]:
    """The runbook's steps 1 to 5; returns seconds of the load, and seconds that the application was stopped."""

    def load() -> None:
        with path.open("rb") as file:
            docker(
                "exec", "-i", CONTAINER, "pg_restore", "--username=postgres", f"--dbname={database}",
                "--no-owner", "--no-acl", stdin=file,
            )  # fmt: skip

    began = time.monotonic()
    docker("stop", APPLICATION)
    psql("postgres", f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    psql("postgres", f"CREATE DATABASE {database} OWNER postgres")
    load_s = timed(load)
    docker("start", APPLICATION)
    return load_s, time.monotonic() - began


def start() -> None:
    docker(
        "run", "-d", "--name", CONTAINER, "--label", LABEL, "--network", "none", "--shm-size", "256m",
        "-e", "POSTGRES_PASSWORD=bench", IMAGE, "-c", "max_wal_size=4GB",
    )  # fmt: skip
    labels = [f"com.docker.compose.project={PROJECT}", "com.docker.compose.service=web", LABEL]
    docker(
        "run", "-d", "--name", APPLICATION, "--network", "none", "--init",
        *(word for label in labels for word in ("--label", label)), "--entrypoint", "sleep", IMAGE, "infinity",
    )  # fmt: skip
    limit = time.monotonic() + 120
    ready = [
        "docker",
        "exec",
        CONTAINER,
        "sh",
        "-c",
        'test "$(head -n1 $PGDATA/postmaster.pid)" = 1 && pg_isready -q',
    ]
    while subprocess.run(ready, check=False, capture_output=True).returncode:
        if time.monotonic() > limit:
            sys.exit("the server did not come up")
        time.sleep(0.2)


def age_recipient() -> str:
    private = subprocess.run(["age-keygen"], check=True, capture_output=True).stdout
    command = ["age-keygen", "-y", "-"]
    done = subprocess.run(command, input=private, check=True, capture_output=True)
    return done.stdout.decode().strip()


def gpg_recipient(directory: Path) -> str:
    home = directory / "gpg"
    home.mkdir(mode=0o700)
    base = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    subprocess.run([*base, "--quick-gen-key", "bench", "default", "-", "never"], check=True)
    done = subprocess.run([*base, "--armor", "--export"], check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    return done.stdout.decode()


def backups(
    directory: Path, database: str, rounds: int, keys: dict[str, str]
) -> dict[str, list[Ours]]:
    """Backups plain, encrypted, and encrypted with a copy at an SSH server on this machine, by turns, each
    round the other way round.

    A copy goes to where those of the rounds before lie, as every night.
    """
    home = directory / f"ssh-{database}"
    home.mkdir(mode=0o700)
    found: dict[str, list[Ours]] = {}

    def note(name: str, code: str) -> None:
        sets = directory / f"sets-{database}-{name}"
        found.setdefault(name, []).append(engine(code, database, sets))

    with ssh_server(home) as ssh:
        places = {}
        for program, start_at in (("rsync", ssh.rsync), ("rclone", ssh.sftp)):
            place = directory / f"far-{database}-{program}"
            place.mkdir()
            places[program] = f"Offsite(({start_at(program, place)!r},), target.database)"
        codes = {"plain": "r = backup(BackupRequest(target, directory))"}
        for method, key in keys.items():
            codes[method] = (
                f"r = backup(BackupRequest(target, directory, encryption=Encryption({method!r}, ({key!r},))))"
            )
        for program, offsite in places.items():
            codes[program] = f"""
{codes["age"]}
r = copy_sets(CopyRequest(directory, target.database, {offsite}))
assert not r.verdict, r
"""
        names = list(codes)
        for number in range(rounds):
            # None is always the first, or always comes after the same other.
            for name in names if number % 2 else reversed(names):
                note(name, codes[name])
    return found


def median(runs: list[Ours]) -> float:
    """Seconds. A machine that others share has slow spells and fast ones: either would decide the extremes."""
    return statistics.median(one.seconds for one in runs)


def peak(runs: list[Ours]) -> float:
    """MiB, of the run that took most."""
    return max(one.peak_mib for one in runs)


def row(what: str, ours: float, theirs: float, unit: str, wanted: str) -> str:
    return f"| {what} | {ours:.2f} {unit} | {theirs:.2f} {unit} | {ours / theirs:.3f}x | {wanted} |"


def program_peak(runs: list[Ours]) -> float:
    """The same of the largest program that was started."""
    return max(one.program_mib for one in runs)


def told(runs: list[Ours]) -> str:
    each = ", ".join(f"{one.seconds:.1f}" for one in runs)
    return f"{median(runs):.1f} s (the median of {each})"


def beside(some: list[Ours], plain: list[Ours]) -> str:
    ratio = median(some) / median(plain)
    return f"{told(some)}, {ratio:.2f}x (wanted: 1.15x)"


def measure(scale: int, directory: Path) -> list[str]:
    size = fill("bench", scale)
    small = fill("quarter", max(1, scale // 4))
    plain, sets = directory / "runbook.dump", directory / "sets-bench-plain"
    jobs = len(os.sched_getaffinity(0))
    dump_s = dump_by_hand("bench", plain, "9")
    without = engine(
        "r = backup(BackupRequest(target, directory, evidence='none'))", "bench", directory / "bare"
    )
    keys = {"age": age_recipient(), "gpg": gpg_recipient(directory)}
    rounds = backups(directory, "bench", ROUNDS, keys)
    # The runbook's dump is made once, so it is held against one of ours that was not chosen.
    whole = rounds["plain"][0]
    quarter = engine(
        "r = backup(BackupRequest(target, directory))", "quarter", directory / "quarter"
    )
    same = directory / "by-hand.dump"
    same_dump_s = dump_by_hand("bench", same, str(whole.report["compress"]))
    same_load_s = load_by_hand(same, jobs)
    psql("bench", "TRUNCATE orders")
    restored = engine(
        f"r = restore(RestoreRequest(target, directory, stop_services=({APPLICATION!r},)))",
        "bench",
        sets,
    )
    load_s, down_s = runbook_restore("bench", plain)
    psql("postgres", "DROP DATABASE bench")
    large_size = fill("large", LARGE * scale)
    large = backups(directory, "large", LARGE_ROUNDS, {"age": keys["age"]})
    mb = 1e6
    rows = whole.report["rows"]
    assert isinstance(rows, dict)
    machine = f"{platform.machine()}, {jobs} processors, kernel {platform.release()}"
    evidence = (
        f"Evidence: {whole.seconds - without.seconds:.1f} s more for the backup ({sum(rows.values())} rows "
        f"fingerprinted beside pg_dump); verifying the whole archive {whole.phase('verify'):.1f} s; comparing "
        f"after the restore {restored.phase('verify'):.1f} s; ANALYZE {restored.phase('analyze'):.1f} s."
    )
    by_hand = (
        f"PostgreSQL's own programs with the same options, and nothing of ours around them: pg_dump {same_dump_s:.1f} s, "
        f"{same_dump_s / dump_s:.3f}x; pg_restore --jobs={jobs} {same_load_s:.1f} s, {same_load_s / load_s:.3f}x."
    )
    memory = (
        f"Peak memory of our process: backup {whole.peak_mib:.1f} MiB, of a database a quarter as large "
        f"({small / mb:.0f} MB) {quarter.peak_mib:.1f} MiB, restore {restored.peak_mib:.1f} MiB "
        "(wanted: under 64)."
    )
    hidden = (
        f"Encrypted, read whole while it passes by, instead of {told(rounds['plain'])}: "
        + "; ".join(
            f"with {name} {beside(rounds[name], rounds['plain'])}, peak memory {peak(rounds[name]):.1f} MiB (wanted: under 100)"
            for name in ("age", "gpg")
        )
        + "."
    )
    away = (
        "Encrypted with age, and copied to an SSH server on this machine, checked there: "
        + "; ".join(
            f"by {name} {beside(rounds[name], rounds['plain'])}, {median(rounds[name]) / dump_s:.2f}x of the runbook's dump alone, peak "
            f"memory {peak(rounds[name]):.1f} MiB and {program_peak(rounds[name]):.1f} MiB of the largest program (wanted: "
            "together under 100)"
            for name in ("rsync", "rclone")
        )
        + "."
    )
    larger = (
        f"The same with a database of {large_size / mb:.0f} MB, instead of {told(large['plain'])}: "
        + "; ".join(
            f"{words} {beside(large[name], large['plain'])}"
            for name, words in (
                ("age", "not copied"),
                ("rsync", "by rsync"),
                ("rclone", "by rclone"),
            )
        )
        + "."
    )
    return [
        f"Database: {size / mb:.0f} MB, server {psql('postgres', 'SHOW server_version')}; host: {machine}",
        "",
        "| | Firedrill | runbook | ratio | wanted |",
        "| --- | ---: | ---: | ---: | ---: |",
        row("pg_dump alone", without.phase("dump"), dump_s, "s", "0.2x"),
        row("backup without evidence, verified", without.seconds, dump_s, "s", "0.2x"),
        row("backup with full evidence, verified", whole.seconds, dump_s, "s", ""),
        row(
            "size of the dump",
            int(str(whole.report["bytes"])) / mb,
            plain.stat().st_size / mb,
            "MB",
            "1.0x",
        ),
        row("loading the dump", restored.phase("load"), load_s, "s", "0.5x"),
        row("restore, verified and analyzed", restored.seconds, down_s, "s", ""),
        row("application stopped", restored.phase("downtime"), down_s, "s", "0.05x"),
        "",
        by_hand,
        "",
        evidence,
        "",
        memory,
        "",
        hidden,
        "",
        away,
        "",
        larger,
    ]


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="firedrill-bench-"))
    try:
        start()
        print("\n".join(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100, directory)))
    finally:
        for name in (CONTAINER, APPLICATION):
            subprocess.run(["docker", "rm", "-f", "-v", name], check=False, capture_output=True)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
