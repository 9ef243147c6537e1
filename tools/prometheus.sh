#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs a program of Prometheus: tools/prometheus.sh promtool|prometheus-node-exporter ARGUMENTS. Where it is not
# installed, it is taken out of Debian's package: to install that would start a server.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=$1
shift
case $program in promtool) package=prometheus ;; *) package=$program ;; esac
kept=$here/.cache/$program

if command -v "$program" >/dev/null; then exec "$program" "$@"; fi
if [ ! -x "$kept" ]; then
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    # apt gives up root for what it downloads.
    chmod 755 "$tmp"
    (cd "$tmp" && apt-get -qq download "$package" 2>download.log) || {
        cat "$tmp/download.log" >&2
        echo "$program: Debian's package $package cannot be downloaded; install it" >&2
        exit 1
    }
    dpkg-deb --fsys-tarfile "$tmp/$package"_*.deb | tar -x -C "$tmp" "./usr/bin/$program"
    mkdir -p "${kept%/*}"
    mv "$tmp/usr/bin/$program" "$kept"
fi
exec "$kept" "$@"
