#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# First program of a test host (tests/pi.sh): makes the container enough of a
# machine for systemd and for a Docker engine inside, and becomes systemd.
# Nothing here reaches the machine outside: each mount is the container's own.
set -eu

# The container's own control groups; Docker mounts them read-only.
while read -r _ at _; do
	case $at in
	/sys/fs/cgroup*) mount -o remount,bind,rw "$at" ;;
	esac
done </proc/self/mounts

# The settings of its own network: an engine has to set some. The rest of
# /proc/sys is the machine's and stays read-only.
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw /proc/sys/net

# A boot of its own: otherwise a program would see after a power cut that the
# machine outside is up as it was.
cat /proc/sys/kernel/random/uuid >/run/boot-id
mount --bind /run/boot-id /proc/sys/kernel/random/boot_id

# The keys of this host, once.
ssh-keygen -qA

# A systemd from 256 on takes the old hierarchy of control groups only when told to.
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
	set -- SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 systemd.unified_cgroup_hierarchy=0 \
		systemd.legacy_systemd_cgroup_controller=1 "$@"
fi
exec /sbin/init "$@"
