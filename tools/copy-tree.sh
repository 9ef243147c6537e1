#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# tools/copy-tree.sh DIR   copies this checkout to DIR as a commit would hold it: what Git tracks and what it would take
# up, without virtual environments and caches, changes that are not committed yet included.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$1"
# Run with sudo, Git would refuse a checkout that belongs to somebody else.
# A tracked file may be deleted and not committed: what is not there cannot be copied.
git -c safe.directory="$PWD" ls-files -z --cached --others --exclude-standard | sort -zu |
    while IFS= read -r -d '' file; do
        if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
    done | tar -c --null --no-recursion -T - | tar -x -C "$1"
