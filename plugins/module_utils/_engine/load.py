# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Loading an archive into an empty database, the same way for a restore and for a drill."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .access import Access
from .catalog import apply_properties
from .errors import ConfigError, MismatchError, ToolError
from .evidence import collect, compare
from .manifest import Manifest
from .model import Comparison, DatabaseProperties, SqlScript
from .programs import MAGIC
from .recovery_set import RecoverySet
from .relay import read_inside
from .sealed import archive_of

_SHOWN_DIFFERENCES = 10


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def load(
    access: Access,
    recovery_set: RecoverySet,
    name: str,
    *,
    jobs: int,
    no_owner: bool = False,
    no_privileges: bool = False,
) -> None:
    """Loads the dump of a set into the empty database `name`; an encrypted one streams, and is loaded by one job.

    :raises ToolError: pg_restore ended with an error; a hint says what it usually means.
    """
    try:
        with archive_of(recovery_set) as archive:
            access.programs.restore(
                archive,
                name,
                jobs=jobs or processors(),
                no_owner=no_owner,
                no_privileges=no_privileges,
            )
    except ToolError as error:
        raise ToolError(
            error.what, state=error.state, todo=error.todo or _advice(error.what)
        ) from error


def _advice(text: str) -> str:
    if "violates check constraint" in text or ("function" in text and "does not exist" in text):
        return (
            "A constraint, index or generated column uses a function that finds its objects by search_path only: "
            "qualify the names in it, or give it `SET search_path`, in the live database, and dump again"
        )
    if 'role "' in text and "does not exist" in text:
        return "Create the role first, or restore with no_owner and no_privileges"
    return ""


def check_evidence(
    access: Access, name: str, manifest: Manifest, *, connections: int = 2
) -> Comparison:
    """Compares the database `name`, which nobody else writes to, with the evidence of its set."""
    expected = manifest.evidence
    if expected.level == "none":
        return compare(expected, expected)
    found = collect(access.server, name, expected.level, connections)
    return compare(expected, found, byte_order=manifest.source.byte_order)


def require_equal(comparison: Comparison, name: str) -> None:
    """:raises MismatchError: naming the differences."""
    if comparison.equal:
        return
    shown = "; ".join(comparison.differences[:_SHOWN_DIFFERENCES])
    more = len(comparison.differences) - _SHOWN_DIFFERENCES
    raise MismatchError(
        f"What was restored from {name} is not what was dumped: {shown}"
        + (f"; and {more} more" if more > 0 else ""),
        todo="Use another set",
    )


def finish(access: Access, name: str, properties: DatabaseProperties) -> None:
    """Gives the loaded database `name` its properties, and the planner statistics.

    :raises ToolError: naming the properties that the server refused.
    """
    # From inside, so that the comment gets the database's own encoding.
    with access.server.session(name) as inside:
        refused = apply_properties(inside, name, properties)
    if refused:
        raise ToolError(f"Properties of the database could not be set: {'; '.join(refused)}")
    analyze(access, name)


def analyze(access: Access, name: str) -> None:
    """Statistics for the planner: a plain restore leaves none (app-pgrestore.html, Notes)."""
    with access.server.session(name) as session:
        session.execute("ANALYZE")


def read_scripts(access: Access, scripts: Sequence[SqlScript]) -> list[tuple[str, bytes]]:
    """The texts of scripts, read before anything is changed.

    :raises ConfigError: one cannot be read.
    """
    texts = []
    for script in scripts:
        try:
            if script.file:
                text = Path(script.file).read_bytes()
            elif script.container_file:
                text = read_inside(access.container.pid, script.container_file, -1)
            else:
                text = script.sql.encode()
        except OSError as error:
            place = f"in container {access.container.name} " if script.container_file else ""
            raise ConfigError(
                f"post_sql: {script.label} {place}cannot be read: {error.strerror}"
            ) from error
        if text.startswith(MAGIC):
            raise ConfigError(f"post_sql: {script.label} is a dump in custom format, not SQL")
        texts.append((script.label, text))
    return texts


def run_scripts(access: Access, name: str, scripts: Sequence[tuple[str, bytes]]) -> None:
    """Plays scripts in the database `name`, each in one transaction.

    :raises ToolError: at the first error.
    """
    for label, text in scripts:
        try:
            access.programs.run_sql(name, text, label)
        except ToolError as error:
            raise ToolError(
                f"post_sql: {error.what}", todo=f"Correct {label}, then run this again"
            ) from error
