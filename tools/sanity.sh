#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs `ansible-test sanity`; what is given on the command line goes on to it (`tools/sanity.sh --test import`).
# It wants a real directory .../ansible_collections/firedrill/postgres, so it gets a temporary copy.
# What it keeps for the next time, its own virtual environments, is where it always keeps them: ~/.ansible/test.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$here/.venv/bin:$PATH
command -v ansible-test >/dev/null || {
    echo "sanity: run tools/setup.sh dev first" >&2
    exit 1
}

tmp=$(mktemp -d)
shim=
# shellcheck disable=SC2329  # called by the trap
cleanup() {
    rm -rf "$tmp"
    if [ -n "$shim" ]; then rm -rf "$shim" "${shim%/*}/__pycache__"; fi
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# To install pip into its environments ansible-test downloads a script from a host of its own. Where that cannot be
# reached, Python's own copy of pip does the same; so a stand-in is put where the script would be kept.
pip_version=$(python -c 'import re, ansible_test._internal.python_requirements as r, inspect
print(re.search(r"pip=.([0-9.]+)", inspect.getsource(r)).group(1))' 2>/dev/null) || pip_version=24.2
cached=$HOME/.ansible/test/cache/get_pip_${pip_version//./_}.py
if [ ! -e "$cached" ]; then
    shim=$cached
    mkdir -p "$(dirname "$cached")"
    cat >"$cached" <<'PYTHON'
import runpy
import subprocess
import sys

subprocess.check_call([sys.executable, "-m", "ensurepip", "--upgrade"], stdout=subprocess.DEVNULL)
arguments = [a for a in sys.argv[1:] if a not in ("--no-setuptools", "--no-wheel")]
sys.argv = ["pip", "install", "--quiet", *arguments]
runpy.run_module("pip", run_name="__main__")
PYTHON
fi

tree=$tmp/ansible_collections/firedrill/postgres
"$here/tools/copy-tree.sh" "$tree"
cd "$tree"
python_version=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# pip is told nothing about how talkative it should be, so its lines are left out here.
ansible-test sanity --python "$python_version" --color no "$@" 2>&1 |
    { grep --line-buffered -vE \
        '^(Collecting|Processing|Looking in|Requirement already|Installing collected|Successfully|WARNING: Location|Using cached) |^ +(Downloading|Using cached|━)' || true; }
