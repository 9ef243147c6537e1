#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The house burns down: a host that encrypts its backups and copies them to two
# other places is destroyed, and a blank one takes its name and its work.
# The hosts are containers with systemd, sshd and an engine of their own
# (tests/pi.sh): `pi`, and `nas` and `friend`, which keep the copies.
#
#   fire.sh         the whole story, from nothing and to nothing
#   fire.sh keep    the same, and the hosts stay
#   fire.sh clean   removes them
set -euo pipefail
shopt -s inherit_errexit

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$HERE/.."
PATH=$PWD/.venv/bin:$PATH
PLACE=$PWD/.cache/fire
export FIREDRILL_PI_DIR=$PLACE/hosts
# Ansible keeps connections open for the next play: those to a host that is gone have to be forgotten with it.
export ANSIBLE_SSH_CONTROL_PATH_DIR=$PLACE/connections
IMAGES=(firedrill-test/postgres:17 firedrill-test/app:1)

die() {
	printf 'fire: %s\n' "$*" >&2
	exit 1
}
title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
on() { tests/pi.sh ssh "$@"; }
play() { ansible-playbook -i "$PLACE/inventory.yml" "$@"; }
address() { sed -n 's/^ *HostName //p' "$FIREDRILL_PI_DIR/hosts/$1.conf"; }

# The rows of each table. The application writes meanwhile, so that after the fire they are those of the backup.
rows() {
	on pi sudo docker exec -i ai-fsm-db psql -Xqx -U postgres -d ai_fsm <demo/rows.sql
}

clean() {
	tests/pi.sh down
	rm -rf "$PLACE"
}

# A place for copies: rsync, and a directory of the account that the host logs in with.
place_for_copies() {
	tests/pi.sh up "$1" trixie
	on "$1" 'sudo apt-get -qq update && sudo apt-get -qq -y --no-install-recommends install rsync >/dev/null &&
		mkdir -p copies/pi' </dev/null
	on "$1" 'cat >>.ssh/authorized_keys' <"$PLACE/copies.key.pub"
}

# What the owner of such a host writes down once, and keeps away from it.
write_inventory() {
	local nas friend key
	nas=$(address nas)
	friend=$(address friend)
	key=$(sed 's/^/          /' "$PLACE/copies.key")
	cat >"$PLACE/inventory.yml" <<-END
		firedrill:
		  hosts:
		    pi:
		  vars:
		    ansible_user: pi
		    ansible_become: true
		    ansible_ssh_common_args: -F '$FIREDRILL_PI_DIR/ssh_config'
		    firedrill_project: ai-fsm
		    firedrill_service: db
		    firedrill_database: ai_fsm
		    firedrill_stop_services: [web, worker]
		    firedrill_app_src: $PWD/demo
		    firedrill_app_files: [compose.yml, initdb, app]
		    firedrill_app_env:
		      FIREDRILL_DEMO_POSTGRES_IMAGE: ${IMAGES[0]}
		      FIREDRILL_DEMO_APP_IMAGE: ${IMAGES[1]}
		    firedrill_http_checks:
		      - {name: health, service: web, port: 3000, path: /api/health, expect: checks.db, equals: ok}
		    firedrill_encryption:
		      with: age
		      recipients: [$(age-keygen -y "$PLACE/backup.key")]
		    firedrill_offsite:
		      nas:
		        type: rsync
		        host: $nas
		        user: pi
		        path: /home/pi/copies/pi
		        known_hosts: $nas $(cut -d' ' -f2- "$FIREDRILL_PI_DIR/hosts/nas.known")
		        identity: |
		$key
		      friend:
		        type: rclone
		        remote: far:copies/pi
		        config: |
		          [far]
		          type = sftp
		          host = $friend
		          user = pi
		          key_pem = $(awk '{printf "%s\\n", $0}' "$PLACE/copies.key")
		          md5sum_command = md5sum
		          sha1sum_command = sha1sum
	END
	# Only who brings something back has the private key.
	printf 'firedrill_identity: |\n%s\n' "$(sed 's/^/  /' "$PLACE/backup.key")" >"$PLACE/key.yml"
}

story() {
	title "1. A blank host, two places for copies, and a key that stays here"
	# What an earlier story left.
	clean
	install -d -m 700 "$PLACE"
	umask 077
	age-keygen -o "$PLACE/backup.key"
	ssh-keygen -q -t ed25519 -N '' -C firedrill-copies -f "$PLACE/copies.key"
	tests/pi.sh up pi trixie "${IMAGES[@]}"
	place_for_copies nas
	place_for_copies friend
	write_inventory

	title "2. From blank to protected: ansible-playbook provision.yml"
	play provision.yml

	title "3. A backup, encrypted, with copies in two places: ansible-playbook backup.yml"
	play backup.yml
	on pi sudo firedrill list
	for host in nas friend; do
		echo "$host:"
		on "$host" find copies -type f | sort
	done
	echo "What a thief can read of it:"
	for host in nas friend; do
		found=$(on "$host" 'grep -rlaE "admin@example.com|invoices|audit_log" copies || [ $? = 1 ]')
		[ -z "$found" ] || die "these files at $host tell of the data: $found"
	done
	echo "    nothing of the data, and no table's name"

	title "4. The fire"
	rows
	tests/pi.sh down pi
	rm -rf "$ANSIBLE_SSH_CONTROL_PATH_DIR"
	tests/pi.sh up pi trixie "${IMAGES[@]}"
	on pi 'command -v docker firedrill' || echo "There is a new host, and nothing is on it."

	title "5. Everything back: ansible-playbook recover.yml -e dump=offsite:latest -e @key.yml"
	play recover.yml -e dump=offsite:latest -e "@$PLACE/key.yml"

	rows
	# What is looked for goes by standard input: a command line is logged there. Files that go meanwhile are no failure.
	found=$(sed -n 's/^AGE-SECRET-KEY-//p' "$PLACE/backup.key" |
		on pi 'sudo grep -rslF --file=- / --exclude-dir=proc --exclude-dir=sys --exclude-dir=netns || [ $? -le 2 ]')
	[ -z "$found" ] || die "the private key lies on the host: $found"
	echo "The private key opened the set in memory, and lies nowhere on the host."

	title "6. The evidence: ansible-playbook drill.yml -e dump=offsite:latest -e @key.yml"
	play drill.yml -e dump=offsite:latest -e "@$PLACE/key.yml"
	on pi sudo firedrill status || true
}

case ${1:-} in
'')
	trap clean EXIT
	story
	;;
keep) story ;;
clean) clean ;;
*)
	echo "usage: demo/fire.sh [keep | clean]" >&2
	exit 2
	;;
esac
