#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Builds the images of the tests and of the demo from Debian's packages, where
# no image can be pulled. Usage: build.sh [TARGET ...]   (default: all but 13 and 18)
#
#   13            firedrill-test/postgres:13   bullseye   like the official postgres:13
#   15            firedrill-test/postgres:15   bookworm   like the official postgres:15
#   17            firedrill-test/postgres:17   trixie     like the official postgres:17
#   18            firedrill-test/postgres:18   forky      like the official postgres:18
#   app           firedrill-test/app:1         trixie     python3 and psycopg2
#   pi-trixie     firedrill-test/pi:trixie     trixie     a host: systemd, sshd, the user pi;
#   pi-bookworm   firedrill-test/pi:bookworm   bookworm   tests/pi.sh starts it
#
# An image that was built from the same inputs is kept. Needs root and Docker;
# installs mmdebstrap where it is missing. FIREDRILL_DEBIAN_MIRROR names a
# mirror; without it Debian's own is used.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LABEL=firedrill.inputs
DEFAULT=(15 17 app pi-trixie pi-bookworm)
# The oldest and the newest server: forky still moves, so the everyday tests do not depend on it.
ALL=(13 18 "${DEFAULT[@]}")

say() { printf 'images: %s\n' "$*"; }

die() {
	say "$*" >&2
	exit 1
}

image_of() {
	case $1 in
	app) echo firedrill-test/app:1 ;;
	pi-*) echo "firedrill-test/pi:${1#pi-}" ;;
	*) echo "firedrill-test/postgres:$1" ;;
	esac
}

# The release of Debian that has this major version.
suite_of() {
	case $1 in
	13) echo bullseye ;;
	15) echo bookworm ;;
	17) echo trixie ;;
	18) echo forky ;;
	esac
}

# Where the data lies: from 18 on a volume holds the data of more than one major version.
data_of() {
	if (($1 < 18)); then
		echo /var/lib/postgresql/data /var/lib/postgresql/data
	else
		echo "/var/lib/postgresql/$1/docker" /var/lib/postgresql
	fi
}

# What went into an image: whoever changes one kind does not build the others anew.
inputs_hash() {
	local kind=postgres files=("$HERE/docker-entrypoint.sh")
	case $1 in
	app) kind=app files=() ;;
	pi-*) kind=pi files=("$HERE/pi-boot.sh") ;;
	esac
	{
		printf '%s %s\n' "$1" "${FIREDRILL_DEBIAN_MIRROR:-}"
		declare -f build bootstrap "bootstrap_$kind" "import_$kind" tag_with_stop_signal
		[[ $kind != postgres ]] || echo "$(suite_of "$1") $(data_of "$1")"
		cat "${files[@]}" </dev/null
	} | sha256sum | cut -d' ' -f1
}

is_built() {
	[[ $(docker image inspect --format "{{index .Config.Labels \"$LABEL\"}}" "$(image_of "$1")" 2>/dev/null) == "$2" ]]
}

install_mmdebstrap() {
	command -v mmdebstrap >/dev/null && return
	say "installing mmdebstrap"
	apt-get install -qq -y --no-install-recommends mmdebstrap debian-archive-keyring >/dev/null ||
		die "mmdebstrap is missing and could not be installed: apt-get install mmdebstrap"
}

# bootstrap TAR SUITE PACKAGES [mmdebstrap options]: no manual pages, no
# documents, no translations; LLVM only serves the server's JIT, which turns
# itself off when the library is not there.
bootstrap() {
	local tar=$1 suite=$2 packages=$3 log=$WORK/mmdebstrap.log
	shift 3
	mmdebstrap --mode=root --variant=minbase --include="$packages" \
		--aptopt='Acquire::Retries "3"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/bitcode/*' \
		--dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/llvmjit*' \
		--dpkgopt='path-exclude=/usr/lib/*/libLLVM*' \
		--dpkgopt='path-exclude=/usr/lib/llvm-*' \
		--dpkgopt='path-exclude=/usr/lib/*/libz3.so*' \
		"$@" "$suite" "$tar" ${FIREDRILL_DEBIAN_MIRROR:+"$FIREDRILL_DEBIAN_MIRROR"} \
		>"$log" 2>&1 || {
		tail -n 25 "$log" >&2
		die "mmdebstrap failed (its last lines are above)"
	}
}

# The hooks run before (essential) and after (customize) the packages' own
# scripts; $1 is the new root.
bootstrap_postgres() {
	local tar=$1 major=$2 suite=$3
	# /run is kept for the socket's directory: --user 999 cannot make it.
	# shellcheck disable=SC2016
	bootstrap "$tar" "$suite" "postgresql-$major,locales" \
		--skip=cleanup/run \
		--essential-hook='echo "postgres:x:999:999::/var/lib/postgresql:/bin/bash" >>"$1/etc/passwd"' \
		--essential-hook='echo "postgres:!:1::::::" >>"$1/etc/shadow"' \
		--essential-hook='echo "postgres:x:999:" >>"$1/etc/group"' \
		--essential-hook='mkdir -p "$1/etc/postgresql-common"' \
		--essential-hook='echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
		--customize-hook='chroot "$1" localedef -i en_US -c -f UTF-8 en_US.UTF-8' \
		--customize-hook="sed -i \"s/^#*listen_addresses = .*/listen_addresses = '*'/\" \"\$1/usr/share/postgresql/$major/postgresql.conf.sample\"" \
		--customize-hook="grep -q \"^listen_addresses = '[*]'\" \"\$1/usr/share/postgresql/$major/postgresql.conf.sample\"" \
		--customize-hook='rm -rf "$1/usr/share/i18n" "$1/etc/ssl/private/ssl-cert-snakeoil.key" "$1/etc/ssl/certs/ssl-cert-snakeoil.pem"' \
		--customize-hook='chroot "$1" install -d -o postgres -g postgres -m 1777 /var/lib/postgresql /var/lib/postgresql/data' \
		--customize-hook='chroot "$1" install -d -o postgres -g postgres -m 3777 /var/run/postgresql' \
		--customize-hook='mkdir "$1/docker-entrypoint-initdb.d"' \
		--customize-hook="install -m 755 '$HERE/docker-entrypoint.sh' \"\$1/usr/local/bin/docker-entrypoint.sh\""
}

bootstrap_app() {
	bootstrap "$1" trixie python3,python3-psycopg2
}

# What a fresh Raspberry Pi OS Lite has, as far as it matters here: nothing of
# Docker, and the user pi, who becomes root without a password. Its own keys
# and its own identity a host makes when it first boots.
bootstrap_pi() {
	local tar=$1 suite=$2 packages
	packages=systemd,systemd-sysv,systemd-timesyncd,dbus,openssh-server,sudo,cron,logrotate
	packages+=,python3,python3-apt,ca-certificates,iproute2,iptables,procps,kmod,tzdata
	# shellcheck disable=SC2016
	bootstrap "$tar" "$suite" "$packages" \
		--customize-hook='chroot "$1" useradd --create-home --shell /bin/bash --groups adm,sudo,users pi' \
		--customize-hook='echo "pi ALL=(ALL) NOPASSWD: ALL" >"$1/etc/sudoers.d/010_pi-nopasswd"' \
		--customize-hook='chmod 440 "$1/etc/sudoers.d/010_pi-nopasswd"' \
		--customize-hook='rm -f "$1"/etc/ssh/ssh_host_*' \
		--customize-hook='ln -s /dev/null "$1/etc/systemd/system/systemd-modules-load.service"' \
		--customize-hook="install -m 755 '$HERE/pi-boot.sh' \"\$1/sbin/pi-boot\""
}

import_postgres() {
	local major=$2 data volume
	read -r data volume < <(data_of "$major")
	docker import \
		--change "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/$major/bin" \
		--change 'ENV LANG=en_US.utf8' \
		--change "ENV PG_MAJOR=$major" \
		--change "ENV PGDATA=$data" \
		--change "VOLUME $volume" \
		--change 'EXPOSE 5432' \
		--change 'ENTRYPOINT ["docker-entrypoint.sh"]' \
		--change 'CMD ["postgres"]' \
		--change "LABEL $LABEL=$3" "$1"
}

import_app() {
	docker import \
		--change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
		--change 'ENV LANG=C.UTF-8' \
		--change 'ENV PYTHONUNBUFFERED=1' \
		--change 'WORKDIR /app' \
		--change 'USER 1000:1000' \
		--change 'CMD ["python3"]' \
		--change "LABEL $LABEL=$2" "$1"
}

# systemd sees from the variable that it is in a container.
import_pi() {
	docker import \
		--change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
		--change 'ENV container=docker' \
		--change 'CMD ["/sbin/pi-boot"]' \
		--change "LABEL $LABEL=$2" "$1"
}

# tag_with_stop_signal IMAGE-ID SIGNAL NAME: `docker import` of older engines
# does not know STOPSIGNAL; a container's own survives a commit.
tag_with_stop_signal() {
	local old
	old=$(docker image inspect --format '{{.Id}}' "$3" 2>/dev/null || :)
	CONTAINER=$(docker create --stop-signal "$2" "$1")
	docker commit "$CONTAINER" "$3" >/dev/null
	remove_container
	# The one it replaces, unless a container still uses it.
	[[ -z $old ]] || docker rmi "$old" >/dev/null 2>&1 || :
}

remove_container() {
	[[ -z $CONTAINER ]] || docker rm -v "$CONTAINER" >/dev/null
	CONTAINER=
}

clean_up() {
	remove_container
	[[ -z $WORK ]] || rm -rf "$WORK"
}

build() {
	local target=$1 hash=$2 tar=$WORK/root.tar image id
	image=$(image_of "$target")
	install_mmdebstrap
	say "$image: installing Debian's packages (about a minute)"
	case $target in
	app) bootstrap_app "$tar" ;;
	pi-*) bootstrap_pi "$tar" "${target#pi-}" ;;
	*) bootstrap_postgres "$tar" "$target" "$(suite_of "$target")" ;;
	esac
	say "$image: importing"
	case $target in
	app)
		id=$(import_app "$tar" "$hash")
		tag_with_stop_signal "$id" SIGTERM "$image"
		;;
	pi-*)
		id=$(import_pi "$tar" "$hash")
		tag_with_stop_signal "$id" SIGRTMIN+3 "$image"
		;;
	*)
		id=$(import_postgres "$tar" "$target" "$hash")
		tag_with_stop_signal "$id" SIGINT "$image"
		;;
	esac
	rm -f "$tar"
	say "$image: ready, $(docker image inspect --format '{{.Size}}' "$image" | numfmt --to=iec)"
}

main() {
	local target hash
	local -a targets=("$@")
	((${#targets[@]})) || targets=("${DEFAULT[@]}")
	for target in "${targets[@]}"; do
		[[ " ${ALL[*]} " == *" $target "* ]] || die "no such image: $target (there are ${ALL[*]})"
	done
	for target in "${targets[@]}"; do
		hash=$(inputs_hash "$target")
		if is_built "$target" "$hash"; then
			say "$(image_of "$target"): there"
			continue
		fi
		((EUID == 0)) || die "building $(image_of "$target") needs root"
		docker version --format '{{.Server.Version}}' >/dev/null || die "the Docker engine does not answer"
		# Another call may be at it: wait, then look again.
		exec 9>"/run/firedrill-image-$target.lock"
		flock 9
		if is_built "$target" "$hash"; then
			say "$(image_of "$target"): there"
		else
			build "$target" "$hash"
		fi
		exec 9>&-
	done
}

WORK=
CONTAINER=
trap clean_up EXIT
WORK=$(mktemp -d /var/tmp/firedrill-images.XXXXXX)
main "$@"
