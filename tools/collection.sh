#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Builds the collection from this checkout, as it is released.
#   tools/collection.sh build DIR     puts the tarball into DIR
#   tools/collection.sh install DIR   builds it and installs it below DIR, as `ansible-galaxy collection install` does
#   tools/collection.sh check         builds, installs and tries it at a temporary place
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$here/.venv/bin:$PATH

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Not the settings of this checkout: they would show Ansible the checkout instead of what was installed.
unset ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATHS
export ANSIBLE_COLLECTIONS_PATH=$tmp/installed ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_INVENTORY_UNPARSED_WARNING=false

build() {
    "$here/tools/copy-tree.sh" "$tmp/tree"
    mkdir -p "$1"
    # The output is one line; a failure says more on standard error.
    (cd "$tmp/tree" && rm -f ansible.cfg && ansible-galaxy collection build --force --output-path "$1" >/dev/null)
}

install() {
    build "$tmp/dist"
    mkdir -p "$1"
    (cd "$tmp" && ANSIBLE_COLLECTIONS_PATH=$1 \
        ansible-galaxy collection install "$tmp"/dist/*.tar.gz --offline --no-deps --force -p "$1" >/dev/null)
}

fail() {
    printf 'collection: %s\n' "$*" >&2
    exit 1
}

check() {
    local root=$tmp/installed/ansible_collections/firedrill/postgres name file
    install "$tmp/installed"
    cd "$tmp"
    for name in tests tools molecule demo benchmarks .venv .ansible ansible.cfg Makefile; do
        [ ! -e "$root/$name" ] || fail "$name is in the tarball, but no user needs it"
    done
    shopt -s nullglob
    for file in "$here"/plugins/modules/*.py; do
        name=firedrill.postgres.$(basename "$file" .py)
        ansible-doc -t module "$name" >"$tmp/doc" || fail "ansible-doc does not know $name"
        grep -qF "$tmp/installed" "$tmp/doc" || fail "$name was not found in the installed collection, but elsewhere"
    done
    # By name, by path, and the root one-liners beside it.
    for file in "$here"/playbooks/*.yml; do
        name=$(basename "$file" .yml)
        ansible-playbook --syntax-check "firedrill.postgres.$name" >/dev/null
        ansible-playbook --syntax-check "$root/playbooks/$name.yml" >/dev/null
        if [ -e "$here/$name.yml" ]; then ansible-playbook --syntax-check "$root/$name.yml" >/dev/null; fi
    done
    printf 'collection: %s builds, installs and works (%s files)\n' \
        "$(basename "$tmp"/dist/*.tar.gz)" "$(find "$root" -type f | wc -l)"
}

case "${1:-}" in
build | install)
    [ -n "${2:-}" ] || fail "usage: tools/collection.sh $1 DIR"
    mkdir -p "$2"
    "$1" "$(cd "$2" && pwd)"
    ;;
check) check ;;
*) fail "usage: tools/collection.sh build DIR | install DIR | check" ;;
esac
