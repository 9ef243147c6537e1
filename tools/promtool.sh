#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs promtool. Where it is not installed, it is taken out of Debian's package: to install that would start a server.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kept=$here/.cache/promtool

if command -v promtool >/dev/null; then exec promtool "$@"; fi
if [ ! -x "$kept" ]; then
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    # apt gives up root for what it downloads.
    chmod 755 "$tmp"
    (cd "$tmp" && apt-get -qq download prometheus 2>download.log) || {
        cat "$tmp/download.log" >&2
        echo "promtool: Debian's package prometheus cannot be downloaded; install it" >&2
        exit 1
    }
    dpkg-deb --fsys-tarfile "$tmp"/prometheus_*.deb | tar -x -C "$tmp" ./usr/bin/promtool
    mkdir -p "${kept%/*}"
    mv "$tmp/usr/bin/promtool" "$kept"
fi
exec "$kept" "$@"
