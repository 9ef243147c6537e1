# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The origin of a dump: what its manifest says of the server, the container and the host that it came from."""

from __future__ import annotations

import platform

from .access import Access
from .catalog import cluster_identifier, database_oid
from .errors import ServerError
from .manifest import Source
from .server import Session


def read_source(access: Access, session: Session, size: int) -> Source:
    """Host, container, image, programs and server that a dump of the session's database is made with.

    :param size: of the database, in bytes.
    """
    database = access.target.database
    container = access.container
    return Source(
        host=platform.node(),
        container=container.name,
        project=container.project,
        service=container.service,
        image=container.image,
        image_id=container.image_id,
        image_digest=container.image_digest,
        server_version=str(session.value("SELECT current_setting('server_version')")),
        major=access.server.major,
        pg_dump_version=access.programs.version(),
        system_identifier=cluster_identifier(session),
        database_oid=database_oid(session, database) or 0,
        database_bytes=size,
        preload_libraries=_preload_libraries(session),
        superuser=str(session.value("SELECT rolname FROM pg_roles WHERE oid = 10")),
    )


def _preload_libraries(session: Session) -> str:
    try:
        return str(session.value("SELECT current_setting('shared_preload_libraries')"))
    except ServerError:
        return ""
