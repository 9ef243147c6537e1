#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes sure that a Docker engine answers on this machine; starts one if none does.
#   FIREDRILL_ENGINE_DIR   keep everything of the engine in this directory and leave the firewall alone: to try this
#                          script beside an engine that must not be disturbed
set -euo pipefail

own_dir=${FIREDRILL_ENGINE_DIR:-}
run_dir=${own_dir:-/var/run}
log=${own_dir:-/var/log}/firedrill-dockerd.log
socket=$run_dir/docker.sock
pidfile=$run_dir/docker.pid
containerd_pidfile=$run_dir/docker/containerd/containerd.pid
wait_s=90

say() { printf 'docker-engine: %s\n' "$*"; }
die() {
    printf 'docker-engine: %s\n' "$*" >&2
    exit 1
}

PATH=$PATH:/usr/sbin:/sbin
# Prints the engine's version. Some clients return 0 although nobody answers, and print nothing.
ask() { timeout 20 docker "$@" info --format '{{.ServerVersion}}' 2>/dev/null | grep .; }

if [ -z "$own_dir" ]; then
    if ask >/dev/null; then exit 0; fi
    [ -z "${DOCKER_HOST:-}" ] ||
        die "DOCKER_HOST is $DOCKER_HOST, but no engine answers there. Unset it to use this machine's own engine."
fi

if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "no Docker engine answers $(id -un). Run this as root."
    say "no Docker engine answers $(id -un), going on as root (with sudo)"
    exec sudo "$(realpath "${BASH_SOURCE[0]}")"
fi

command -v dockerd >/dev/null || die "there is no dockerd here. tools/setup.sh installs it (Debian's docker.io)."

# Whoever comes second finds the engine that the first one started.
exec 9>"$run_dir/firedrill-docker-engine.lock"
flock -w "$wait_s" 9 || die "another run has been starting the engine for $wait_s seconds"

answers() { ask --host "unix://$socket" >/dev/null; }

# The process that a pid file names, if it really is that program: after a crash the number may belong to another.
owner() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 1
    case "$pid" in '' | *[!0-9]*) return 1 ;; esac
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 1
    # A process that was killed and that nobody waits for still has its name.
    ! grep -q '^State:[[:space:]]*[ZX]' "/proc/$pid/status" 2>/dev/null || return 1
    echo "$pid"
}

# Waits until the engine answers; $1 is the process to watch, if there is one.
wait_for_answer() {
    local end=$((SECONDS + wait_s))
    while [ "$SECONDS" -lt "$end" ]; do
        if answers; then return 0; fi
        if [ -n "${1:-}" ] && ! kill -0 "$1" 2>/dev/null; then return 1; fi
        sleep 0.5
    done
    return 1
}

started() {
    say "Docker engine $(ask --host "unix://$socket") answers"
    exit 0
}

if answers; then exit 0; fi

if [ -d /run/systemd/system ] && [ -z "$own_dir" ]; then
    say "starting the Docker engine (systemctl start docker)"
    if systemctl start docker && wait_for_answer; then started; fi
    { systemctl --no-pager --lines=0 status docker; journalctl --no-pager -u docker -n 30; } >&2 || true
    die "the Docker engine does not start; its log is above"
fi

if pid=$(owner "$pidfile" dockerd); then
    say "a Docker engine is coming up (process $pid)"
    if wait_for_answer "$pid"; then started; fi
    if kill -0 "$pid" 2>/dev/null; then
        die "dockerd (process $pid) is running, but has not answered for $wait_s seconds. End it, then try again."
    fi
fi

# What an engine left that was killed: the numbers in these files may belong to other programs by now, and dockerd
# would refuse to start, or wait for a containerd that is none.
clear_leftovers() {
    local pid
    owner "$pidfile" dockerd >/dev/null || rm -f "$pidfile"
    # One that outlived its dockerd may hang: a new engine brings its own.
    if pid=$(owner "$containerd_pidfile" containerd); then
        say "ending the containerd of an engine that is gone (process $pid)"
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 20); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.25
        done
        kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$containerd_pidfile"
    # dockerd takes the system's containerd where its socket exists, and waits for ever if nobody listens on it.
    if [ -S /run/containerd/containerd.sock ] && ! grep -q 'run/containerd/containerd.sock$' /proc/net/unix; then
        rm -f /run/containerd/containerd.sock
    fi
}
clear_leftovers

: >>"$log" 2>/dev/null || log=$(mktemp /tmp/firedrill-dockerd.XXXXXX.log)
options=()
if [ -n "$own_dir" ]; then
    options=(--data-root "$own_dir/data" --exec-root "$own_dir/docker" --pidfile "$pidfile" --host "unix://$socket"
        --bridge=none --iptables=false --ip-masq=false)
fi
say "starting a Docker engine in the background; its log: $log"
# Of its own session, so that it outlives the terminal; the lock must not be inherited, or it would never be free again.
setsid dockerd "${options[@]}" >>"$log" 2>&1 </dev/null 9>&- &
engine=$!
if wait_for_answer "$engine"; then started; fi
tail -n 30 "$log" >&2 || true
if kill "$engine" 2>/dev/null; then
    die "the Docker engine did not answer within $wait_s seconds and was ended; the end of its log ($log) is above"
fi
die "the Docker engine ended at once; the end of its log ($log) is above"
