# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all modules share: the options that name the database, the requirements, the notes."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  container:
    description:
      - Name or ID of the running container of the PostgreSQL server.
      - Exactly one of O(container) and O(project) has to be set.
    type: str
  project:
    description:
      - Docker Compose project whose O(service) is the PostgreSQL server.
      - The container is found by its labels; no Compose file and no Compose program is needed.
    type: str
  service:
    description:
      - Docker Compose service of the PostgreSQL server in O(project).
    type: str
  database:
    description:
      - The database.
    type: str
    required: true
  user:
    description:
      - The server's role that does the work. It should be a superuser.
      - The default is E(POSTGRES_USER) of the container, else V(postgres).
    type: str
  login_password:
    description:
      - Password of O(user).
      - Not needed where the server trusts its local socket, as the official images do. The default is
        E(POSTGRES_PASSWORD) of the container, or the contents of the file that E(POSTGRES_PASSWORD_FILE) names.
    type: str
  login_host:
    description:
      - Address of the server as the host sees it.
      - Only needed where the server does not let O(user) in over the local socket of the container, which is used otherwise.
    type: str
  login_port:
    description:
      - Port of the server on O(login_host).
    type: int
    default: 5432
  timeout:
    description:
      - Seconds after which the run ends itself and cleans up; V(0) means never.
    type: int
    default: 0

attributes:
  platform:
    description: Target OS or families that can be operated against.
    support: full
    platforms: linux

requirements:
  - Python 3.9 or newer on the host
  - C(docker) (Debian package C(python3-docker))
  - C(psycopg2) (Debian package C(python3-psycopg2))

notes:
  - The module needs root on the host of the containers (C(become=true)), because it reaches the server by the socket inside the
    container. The server needs no published port and no network.
  - Neither PostgreSQL nor its programs have to be installed on the host. The programs of the container's own image are used.
  - The Docker engine has to be on the host itself. An E(DOCKER_HOST) that names another one is refused.
  - PostgreSQL 13 and newer are supported.
  - Without pipelining (the C(pipelining) setting of Ansible) the options of a module, secrets included, lie in a
    temporary file of the host that only its user can read while the module runs.

author:
  - Firedrill contributors (@firedrill)
"""
