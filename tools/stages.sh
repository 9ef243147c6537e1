#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# tools/stages.sh TARGET...   makes one target after the other, stops at the first that fails, and says at the end how
# long each one took. FIREDRILL_TEST_IMAGES and the like go on to them by the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

took=()
summary() {
    status=$?
    printf '\n%-14s %8s\n' stage seconds
    [ "${#took[@]}" = 0 ] || printf '%s\n' "${took[@]}"
    printf '%-14s %8d\n' total "$SECONDS"
    if [ "$status" = 0 ]; then
        echo "All stages passed."
    else
        echo "FAILED in stage $stage."
    fi
    exit "$status"
}
trap summary EXIT

for stage in "$@"; do
    printf '\n==== %s\n' "$stage"
    start=$SECONDS
    status=0
    "${MAKE:-make}" --no-print-directory "$stage" || status=$?
    note=
    [ "$status" = 0 ] || note='  failed'
    took+=("$(printf '%-14s %8d%s' "$stage" $((SECONDS - start)) "$note")")
    [ "$status" = 0 ] || exit "$status"
done
