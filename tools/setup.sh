#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Sets up what the project needs on Debian, Ubuntu or Raspberry Pi OS, and does only what is missing.
#   tools/setup.sh runtime   to run the playbooks, the command and the demo
#   tools/setup.sh dev       the same, and what the tests need
# Packages of the system are installed as root or with sudo; everything else stays below this directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

case "${1:-}" in
runtime) requirements=(requirements.txt) ;;
dev) requirements=(requirements.txt requirements-dev.txt) ;;
*) die "usage: tools/setup.sh runtime|dev" ;;
esac
mode=$1

# Debian keeps dockerd and iptables where the PATH of an ordinary user does not look.
PATH=$PATH:/usr/sbin:/sbin
# The environment's own Python cannot make the environment anew.
PATH=${PATH//"$PWD/.venv/bin:"/}

has() { command -v "$1" >/dev/null 2>&1; }
engine_answers() { timeout 20 docker info --format '{{.ServerVersion}}' 2>/dev/null | grep -q .; }

# A Python that can make a virtual environment and that the current Ansible accepts. A name on the PATH may be a
# shim with nothing behind it, and Debian's python3 comes without ensurepip: so each one is asked.
find_python() {
    local candidate
    for candidate in python3.14 python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' \
            >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

missing_packages() {
    if ! has dockerd && ! engine_answers; then echo docker.io; fi
    # Only recommended by docker.io, but no network works without it.
    if ! has iptables && ! engine_answers; then echo iptables; fi
    # The images for the demo and the tests are built from Debian's packages where no registry can be reached.
    if ! has mmdebstrap; then echo mmdebstrap; fi
    if [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then echo debian-archive-keyring; fi
    if ! has git; then echo git; fi
    # The tests encrypt with the real programs.
    if [ "$mode" = dev ] && ! has age; then echo age; fi
    if [ "$mode" = dev ] && ! has gpg; then echo gnupg; fi
    if [ "$mode" = dev ]; then
        # Far ends of the tests for offsite copies, and what reaches them.
        if ! has rclone; then echo rclone; fi
        if ! has rsync; then echo rsync; fi
        if ! has sshd; then echo openssh-server; fi
        if ! has ssh; then echo openssh-client; fi
    fi
    if [ ! -x .venv/bin/python ] && ! find_python >/dev/null; then echo python3-venv; fi
}

# Without a way to install something: only Python is indispensable here, the demo and the tests say what they miss.
cannot_install() {
    case " ${*:2} " in
    *" python3-venv "*) die "$1: ${*:2}" ;;
    *) say "$1: ${*:2} (the demo and the tests need them)" ;;
    esac
}

install_packages() {
    local as_root=() log
    if ! has apt-get; then
        cannot_install "there is no apt-get here, so install by other means" "$@"
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        if ! has sudo; then
            cannot_install "there is no sudo here, so install as root" "$@"
            return
        fi
        as_root=(sudo)
    fi
    say "installing as root${as_root[*]:+ (with sudo)}: $*"
    log=$(mktemp)
    # A foreign repository that fails does not matter if the packages can be had all the same.
    "${as_root[@]}" apt-get -qq -o Acquire::Retries=3 update >"$log" 2>&1 ||
        say "apt-get update had trouble, going on with what it got"
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y \
        --no-install-recommends install "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: $*"
    fi
    rm -f "$log"
}

make_venv() {
    local python stamp want
    # A virtual environment whose Python has gone (an upgrade of the system), or that was copied here, is made anew.
    if [ "$(.venv/bin/python -c 'import sys; print(sys.prefix)' 2>/dev/null)" != "$PWD/.venv" ] ||
        ! head -n 1 .venv/bin/pip 2>/dev/null | grep -qF "$PWD/.venv/"; then
        python=$(find_python) || die "Python 3.11 to 3.14 with venv is needed; found: $(python3 --version 2>&1)"
        say "making .venv with $("$python" --version)"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    stamp=.venv/.installed-$mode
    want=$(cat "${requirements[@]}" | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then return 0; fi
    say "installing ${requirements[*]} into .venv (a few minutes the first time)"
    # One call with all files, so that what the tests need cannot break what the runtime needs.
    .venv/bin/python -m pip --disable-pip-version-check --no-input install -qq \
        "${requirements[@]/#/--requirement=}"
    # The developers' set holds the runtime's.
    sha256sum <requirements.txt >.venv/.installed-runtime
    printf '%s\n' "$want" >"$stamp"
}

# `firedrill.postgres` is this checkout itself; relative, so that the directory may move.
link_collection() {
    local dir=.ansible/collections/ansible_collections/firedrill
    mkdir -p "$dir"
    if [ "$(readlink "$dir/postgres")" != ../../../.. ]; then
        rm -rf "${dir:?}/postgres"
        ln -s ../../../.. "$dir/postgres"
    fi
}

# Two set-ups at once would write into the same environment.
mkdir -p .ansible
exec 9>.ansible/setup.lock
flock 9

mapfile -t packages < <(missing_packages)
if [ "${#packages[@]}" -gt 0 ]; then install_packages "${packages[@]}"; fi
make_venv
link_collection
