#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Test hosts: containers with systemd, sshd, the user pi, and room for a Docker
# engine of their own. What a blank Raspberry Pi has, and no more.
#
#   tests/pi.sh up NAME trixie|bookworm [IMAGE...]
#                                    starts a blank host and waits until it can be used. The images
#                                    are at hand there as soon as it has an engine, as if pulled
#   tests/pi.sh load NAME IMAGE...   copies images of this machine's engine into the host's
#   tests/pi.sh reboot NAME          shuts it down and boots it
#   tests/pi.sh off NAME, on NAME    shuts it down; boots it
#   tests/pi.sh power-cut NAME       as if the plug was pulled; `on` boots it again
#   tests/pi.sh ssh NAME [COMMAND]   ssh -F .../ssh_config NAME does the same
#   tests/pi.sh down [NAME...]       destroys them; without a name all, the network and the keys
#
# Hosts of one FIREDRILL_PI_DIR (default: .cache/pi in the checkout) are one
# fleet: a network, a key, and an ssh_config that knows each host by its name.
# Needs a Docker engine on this machine, 20.10 or later.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DIR=$(realpath -m "${FIREDRILL_PI_DIR:-$HERE/../.cache/pi}")
# Several checkouts may test at once.
FLEET=fdpi-$(printf %s "$DIR" | sha256sum | cut -c1-8)
BOOT_S=${FIREDRILL_PI_BOOT_S:-180}
IMAGES_AT=/usr/share/test-images.tar
LABELS=(--label firedrill.test=1 --label "firedrill.fleet=$FLEET")

die() {
	printf 'pi: %s\n' "$*" >&2
	exit 1
}

usage() {
	sed -n '3,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
	exit 2
}

container() { echo "$FLEET-$1"; }
volume() { echo "$FLEET-$1-docker"; }

inside() {
	local name=$1
	shift
	docker exec "$(container "$name")" "$@"
}

prepare_fleet() {
	mkdir -p "$DIR/hosts"
	chmod 700 "$DIR"
	exec 9>"$DIR/lock"
	flock 9
	[[ -e $DIR/key ]] || ssh-keygen -q -t ed25519 -N '' -C firedrill-test -f "$DIR/key"
	[[ -n $(docker network ls -q --filter "name=^$FLEET\$") ]] ||
		docker network create "${LABELS[@]}" "$FLEET" >/dev/null
	printf 'Include "%s/hosts/*.conf"\n' "$DIR" >"$DIR/ssh_config"
	exec 9>&-
}

# store IMAGE...: a file with these images; prints its path. One for all hosts that want the same.
store() {
	local file
	file=$DIR/images-$(docker image inspect --format '{{.Id}}' "$@" | sha256sum | cut -c1-8).tar
	exec 9>"$DIR/lock"
	flock 9
	[[ -e $file ]] || { docker save --output "$file.new" "$@" && mv "$file.new" "$file"; }
	exec 9>&-
	echo "$file"
}

# One engine's files cannot lie on another engine's layers: hence the volume.
# Some machines do not have SYS_RESOURCE to give.
start() {
	local -a images=()
	[[ -z ${3:-} ]] || images=(--volume "$3:$IMAGES_AT:ro")
	docker volume create "${LABELS[@]}" "$(volume "$1")" >/dev/null
	docker run --detach "${LABELS[@]}" --name "$(container "$1")" --hostname "$1" --network "$FLEET" \
		--cgroupns private --cap-add ALL --cap-drop SYS_RESOURCE \
		--security-opt seccomp=unconfined --security-opt apparmor=unconfined \
		--tmpfs /run:mode=755 --tmpfs /run/lock:mode=1777 --tmpfs /tmp:exec,mode=1777 \
		--volume "$(volume "$1"):/var/lib/docker" "${images[@]}" "firedrill-test/pi:$2" >/dev/null
}

# Stands for the registry, which a test host may not reach: whoever starts the
# engine gets it back with the images in it.
offer_images() {
	docker exec -i "$(container "$1")" sh -c \
		'mkdir -p "${0%/*}" && cat >"$0" && systemctl daemon-reload' /etc/systemd/system/docker.service.d/test-images.conf <<-END
			[Service]
			ExecStartPost=/bin/sh -c 'docker image inspect ${*:2} >/dev/null 2>&1 || docker load --quiet --input $IMAGES_AT'
			TimeoutStartSec=300
		END
}

# A host has a new address after every boot, but the same key.
introduce() {
	local name=$1 address
	address=$(docker inspect --format "{{(index .NetworkSettings.Networks \"$FLEET\").IPAddress}}" "$(container "$name")")
	[[ -n $address ]] || die "$name has no address: $(docker logs --tail 5 "$(container "$name")" 2>&1)"
	printf '%s %s\n' "$name" "$(inside "$name" cat /etc/ssh/ssh_host_ed25519_key.pub)" >"$DIR/hosts/$name.known"
	# A connection to a host that went away must not hang.
	cat >"$DIR/hosts/$name.conf" <<-END
		Host $name
		  HostName $address
		  HostKeyAlias $name
		  HostKeyAlgorithms ssh-ed25519
		  User pi
		  IdentityFile "$DIR/key"
		  IdentitiesOnly yes
		  UserKnownHostsFile "$DIR/hosts/$name.known"
		  StrictHostKeyChecking yes
		  ConnectTimeout 10
		  ServerAliveInterval 5
		  ServerAliveCountMax 6
	END
}

# The boot is over when nothing is left to be started; a unit that failed is an error.
wait_for_boot() {
	local name=$1 state='' end=$((SECONDS + BOOT_S))
	until [[ $state == running || $state == degraded ]]; do
		((SECONDS < end)) || die "$name has not booted within $BOOT_S seconds (${state:-no answer}): $(
			inside "$name" systemctl --no-pager list-jobs 2>&1
			docker logs --tail 20 "$(container "$name")" 2>&1
		)"
		sleep 0.3
		state=$(inside "$name" timeout "$((end - SECONDS + 1))" systemctl is-system-running --wait 2>/dev/null) || :
	done
	[[ $state == running ]] || die "$name has booted, but not everything started: $(
		inside "$name" systemctl --failed --no-legend --plain
		inside "$name" journalctl --no-pager --boot --priority=warning --lines=30
	)"
	introduce "$name"
	until over_ssh "$name" true 2>/dev/null; do
		((SECONDS < end)) || die "$name does not answer over SSH: $(over_ssh "$name" true 2>&1)"
		sleep 0.5
	done
}

over_ssh() {
	ssh -F "$DIR/ssh_config" "$@" 9>&-
}

up() {
	local name=$1 suite=$2 archive=
	shift 2
	[[ $name =~ ^[a-z][a-z0-9-]*$ ]] || die "$name is no name for a host"
	[[ $suite == trixie || $suite == bookworm ]] || die "there is no host of $suite (trixie or bookworm)"
	[[ -z $(docker ps -aq --filter "name=^$(container "$name")\$") ]] || die "$name is there already"
	"$HERE/images/build.sh" "pi-$suite" >&2
	prepare_fleet
	((!$#)) || archive=$(store "$@")
	start "$name" "$suite" "$archive"
	# What the imager of a Raspberry Pi writes to the card.
	inside "$name" install -d -o pi -g pi -m 700 /home/pi/.ssh
	docker exec -i "$(container "$name")" install -o pi -g pi -m 600 /dev/stdin /home/pi/.ssh/authorized_keys <"$DIR/key.pub"
	wait_for_boot "$name"
	((!$#)) || offer_images "$name" "$@"
}

load() {
	local name=$1
	shift
	docker save "$@" | docker exec -i "$(container "$name")" docker load
}

on() {
	docker start "$(container "$1")" >/dev/null
	wait_for_boot "$1"
}

off() { docker stop --time "$BOOT_S" "$(container "$1")" >/dev/null; }

down() {
	local name
	local -a names=("$@")
	if ((${#names[@]} == 0)); then
		mapfile -t names < <(docker ps -a --filter "label=firedrill.fleet=$FLEET" --format '{{.Names}}' | sed "s/^$FLEET-//")
	fi
	for name in "${names[@]}"; do
		docker rm --force --volumes "$(container "$name")" >/dev/null 2>&1 || :
		docker volume rm --force "$(volume "$name")" >/dev/null
		rm -f "$DIR/hosts/$name".{conf,known}
	done
	(($#)) && return
	docker volume ls -q --filter "label=firedrill.fleet=$FLEET" | xargs -r docker volume rm >/dev/null
	docker network ls -q --filter "label=firedrill.fleet=$FLEET" | xargs -r docker network rm >/dev/null
	rm -rf "$DIR"/{hosts,key,key.pub,ssh_config,lock} "$DIR"/images-*.tar*
	rmdir --ignore-fail-on-non-empty "$DIR" 2>/dev/null || :
}

(($#)) || usage
command=$1
shift
case $command:$# in
up:[2-9]) up "$@" ;;
load:[2-9]) load "$@" ;;
reboot:1) off "$1" && on "$1" ;;
on:1 | off:1) "$command" "$1" ;;
power-cut:1) docker kill "$(container "$1")" >/dev/null ;;
ssh:[1-9]*) over_ssh "$@" ;;
down:*) down "$@" ;;
*) usage ;;
esac
