#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Prints the images of the demo, for the shell:  eval "$(demo/images.sh)"
#
# The database: a postgres image that is here, else one built before, else one
# that can be pulled, else one built from Debian's packages. The application's
# is always built.
# A variable that is set already is kept.
set -euo pipefail
shopt -s inherit_errexit

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
OFFICIAL=(postgres:17 postgres:16 postgres:15)

say() { printf 'demo: %s\n' "$*" >&2; }

is_here() { docker image inspect "$1" >/dev/null 2>&1; }

# Asking for the manifest shows within seconds whether the registry answers.
pull() {
	timeout 15 docker manifest inspect "$1" >/dev/null 2>&1 || return 1
	say "pulling $1"
	timeout 900 docker pull --quiet "$1" >/dev/null 2>&1
}

build() { "$HERE/../tests/images/build.sh" "$1" >&2; }

postgres_image() {
	local image
	for image in "${OFFICIAL[@]}"; do
		if is_here "$image"; then
			echo "$image"
			return
		fi
	done
	if ! is_here firedrill-test/postgres:17 && pull "${OFFICIAL[0]}"; then
		echo "${OFFICIAL[0]}"
		return
	fi
	build 17
	echo firedrill-test/postgres:17
}

app_image() {
	build app
	echo firedrill-test/app:1
}

docker version >/dev/null 2>&1 || {
	say "the Docker engine does not answer: is it running, and may this user talk to it?"
	exit 1
}
if [[ -z ${FIREDRILL_DEMO_POSTGRES_IMAGE:-} ]]; then
	FIREDRILL_DEMO_POSTGRES_IMAGE=$(postgres_image)
fi
if [[ -z ${FIREDRILL_DEMO_APP_IMAGE:-} ]]; then
	FIREDRILL_DEMO_APP_IMAGE=$(app_image)
fi
printf 'export FIREDRILL_DEMO_POSTGRES_IMAGE=%q\n' "$FIREDRILL_DEMO_POSTGRES_IMAGE"
printf 'export FIREDRILL_DEMO_APP_IMAGE=%q\n' "$FIREDRILL_DEMO_APP_IMAGE"
