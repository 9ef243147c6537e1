# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A remote of rclone as a store: what fails there is not taken for what is not there, and any directory here will do."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from far_ends import LOCAL, rclone_config

from ansible_collections.firedrill.postgres.plugins.module_utils._engine.errors import OffsiteError
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.remotes import store_of
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.run import Run
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.stores import Store
from ansible_collections.firedrill.postgres.plugins.module_utils._engine.targets import RcloneTarget

pytestmark = pytest.mark.integration

_EMPTY = """<?xml version="1.0"?><d:multistatus xmlns:d="DAV:"><d:response><d:href>/shop/</d:href><d:propstat><d:prop>
<d:resourcetype><d:collection/></d:resourcetype></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
</d:multistatus>"""


@pytest.fixture
def run() -> Iterator[Run]:
    with Run("look") as run:
        yield run


@pytest.fixture
def store(run: Run, tmp_path: Path) -> Store:
    config = rclone_config(tmp_path / "far.conf", {"type": "local"})
    return store_of(RcloneTarget("disk", f"far:{tmp_path / 'far'}", config), "shop", run)


class _Failing(BaseHTTPRequestHandler):
    """A directory whose listing lags behind, and files that the server fails to look up."""

    def do_PROPFIND(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_directory = not self.path.endswith(".dump")
        body = _EMPTY.encode() if is_directory else b"try later"
        self.send_response(207 if is_directory else 503)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *unused_args: object) -> None:
        pass


def test_a_file_that_the_far_end_fails_to_look_up_is_not_taken_for_one_that_is_gone(
    run: Run, tmp_path: Path
) -> None:
    server = ThreadingHTTPServer((LOCAL, 0), _Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"type": "webdav", "url": f"http://{LOCAL}:{server.server_port}", "vendor": "other"}
    config = rclone_config(tmp_path / "far.conf", settings)
    store = store_of(RcloneTarget("dav", "far:", config), "shop", run)
    try:
        assert store.listing() == {}
        with pytest.raises(OffsiteError, match=r"x\.dump could not be looked up: .*503"):
            store.size("x.dump")
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_that_is_not_there_is_told_so(store: Store, tmp_path: Path) -> None:
    assert store.size("x.dump") is None
    store.delete("x.dump")
    (tmp_path / "far" / "shop" / "x.dump").mkdir(parents=True)
    assert store.size("x.dump") is None
    assert store.listing() == {}
    with pytest.raises(OffsiteError, match=r"y\.dump could not be downloaded: object not found"):
        store.get("y.dump", tmp_path / "y.dump")


@pytest.mark.parametrize("name", ["b\udcfcro", "büro", 'a "b"', "a:b", "a,b=c", "a[1]", " a "])
def test_a_directory_here_may_have_any_name(store: Store, tmp_path: Path, name: str) -> None:
    here = tmp_path / "here" / name
    here.mkdir(parents=True)
    (here / "x.dump").write_bytes(b"rows")
    store.put(here / "x.dump")
    assert store.listing() == {"x.dump": 4}
    store.get("x.dump", here / "y.dump")
    assert (here / "y.dump").read_bytes() == b"rows"
    assert os.listdir(tmp_path / "here") == [name]


def test_what_is_there_is_replaced_whatever_its_time_and_size(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.dump"
    for content in (b"rows", b"cows"):
        path.write_bytes(content)
        os.utime(path, (1, 1))
        store.put(path)
        assert (tmp_path / "far" / "shop" / "x.dump").read_bytes() == content


def test_a_store_that_was_closed_can_be_asked_again(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.dump"
    path.write_bytes(b"rows")
    store.put(path)
    store.close()
    assert store.size("x.dump") == 4
