# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How an archive is compressed: what was asked for, and what the server's pg_dump knows."""

from __future__ import annotations

from .errors import ConfigError
from .model import Compression

_METHODS = ("zstd", "gzip", "lz4", "none")
_ZSTD_MAJOR = 16
_AUTO_ZSTD = Compression("zstd", 3)
_AUTO_GZIP = Compression("gzip", 6)


def parse_compression(text: str, major: int) -> Compression:
    """`auto`, a method, or `method:level`, for a server of that major version.

    :raises ConfigError: the server's pg_dump does not know it.
    """
    if text == "auto":
        return _AUTO_ZSTD if major >= _ZSTD_MAJOR else _AUTO_GZIP
    method, colon, level = text.partition(":")
    if method not in _METHODS or (colon and not level.isdigit()):
        raise ConfigError(
            f'"{text}" is no compression',
            todo="Use auto, none, gzip, zstd or lz4, with a level after a colon where wanted (zstd:3)",
        )
    if method in ("zstd", "lz4") and major < _ZSTD_MAJOR:
        raise ConfigError(
            f"pg_dump of PostgreSQL {major} does not know {method}",
            state="Nothing was changed",
            todo="Use `auto` or `gzip:6`",
        )
    return Compression(method, int(level) if colon else -1)
