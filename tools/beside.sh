#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# tools/beside.sh TARGET...   makes all the targets at the same time. What one says is shown whole when it has ended.
# What fails is shown last, and why, as far as Ansible said it, once more at the very end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

logs=$(mktemp --directory)
declare -A made
# Whoever ends this ends what it has begun.
trap 'kill "${!made[@]}" 2>/dev/null || true; rm -rf "$logs"' EXIT

for target in "$@"; do
    "${MAKE:-make}" --no-print-directory "$target" >"$logs/$target" 2>&1 &
    made[$!]=$target
done

failed=()
while [ "${#made[@]}" -gt 0 ]; do
    status=0
    wait -n -p ended "${!made[@]}" || status=$?
    target=${made[$ended]}
    unset "made[$ended]"
    if [ "$status" = 0 ]; then
        printf '\n#### %s\n' "$target"
        cat "$logs/$target"
    else
        failed+=("$target")
    fi
done

[ "${#failed[@]}" -gt 0 ] || exit 0
for target in "${failed[@]}"; do
    printf '\n#### %s failed\n' "$target"
    cat "$logs/$target"
done
for target in "${failed[@]}"; do
    printf '\n#### why %s failed\n' "$target"
    # The last task that failed in the last stage, with its name, and the end; Molecule's frame and colours left out.
    sed -e 's/\x1b\[[0-9;]*m//g' -e 's/^  │ \?//' "$logs/$target" | awk '
        /^==== / { why = "" }
        /^TASK \[/ { task = $0 }
        /^(fatal|failed): \[/ { why = task "\n"; left = 15 }
        left > 0 { why = why $0 "\n"; left-- }
        { last[NR % 8] = $0 }
        END {
            printf "%s", why
            for (i = NR - 7; i <= NR; i++) if (i > 0) print last[i % 8]
        }'
done
exit 1
