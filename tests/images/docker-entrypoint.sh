#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Entry point of the test images. It keeps the contract of the official
# `postgres` image (variables, init directory, pg_hba, signals), so that the
# same tests run on either. Written from that contract, not from its text.
set -Eeuo pipefail
shopt -s nullglob

INIT_DIR=/docker-entrypoint-initdb.d

say() { printf '%s: %s\n' "$0" "$*"; }

die() {
	printf 'Error: %s\n' "$*" >&2
	exit 1
}

# load_setting NAME [DEFAULT]: NAME, or the content of the file NAME_FILE.
load_setting() {
	local name=$1 default=${2:-} file_name=${1}_FILE
	if [[ -n ${!name:-} && -n ${!file_name:-} ]]; then
		die "both $name and $file_name are set (but are exclusive)"
	fi
	local value=${!name:-$default}
	if [[ -n ${!file_name:-} ]]; then
		value=$(<"${!file_name}")
	fi
	export "$name=$value"
	unset "$file_name"
}

load_settings() {
	load_setting POSTGRES_PASSWORD
	load_setting POSTGRES_USER postgres
	load_setting POSTGRES_DB "$POSTGRES_USER"
	load_setting POSTGRES_INITDB_ARGS
	: "${POSTGRES_HOST_AUTH_METHOD:=}"
}

# Directories that volumes and bind mounts may have brought with other owners.
prepare_directories() {
	mkdir -p "$PGDATA" /var/run/postgresql
	chmod 00700 "$PGDATA" || :
	chmod 03775 /var/run/postgresql || :
	if [[ -n ${POSTGRES_INITDB_WALDIR:-} ]]; then
		mkdir -p "$POSTGRES_INITDB_WALDIR"
		chmod 700 "$POSTGRES_INITDB_WALDIR"
	fi
	if ((EUID == 0)); then
		find "$PGDATA" ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"} \! -user postgres -exec chown postgres '{}' +
		find /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
	fi
}

require_password() {
	if [[ -z $POSTGRES_PASSWORD && $POSTGRES_HOST_AUTH_METHOD != trust ]]; then
		die "Database is uninitialized and superuser password is not specified." \
			"Set POSTGRES_PASSWORD to a non-empty value, or POSTGRES_HOST_AUTH_METHOD=trust" \
			"to let everybody in without one."
	fi
	if [[ $POSTGRES_HOST_AUTH_METHOD == trust ]]; then
		say "warning: POSTGRES_HOST_AUTH_METHOD is trust: anyone who reaches the port is a superuser" >&2
	fi
}

create_cluster() {
	local -a extra=()
	# The variable is a piece of command line, quotes and all.
	eval "extra=($POSTGRES_INITDB_ARGS)"
	initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
		${POSTGRES_INITDB_WALDIR:+--waldir "$POSTGRES_INITDB_WALDIR"} \
		${extra[@]+"${extra[@]}"}
}

# write_hba [postgres arguments]: the network asks for a password by default.
write_hba() {
	[[ ${1:-} == postgres ]] && shift
	local method=${POSTGRES_HOST_AUTH_METHOD:-$(postgres -C password_encryption "$@")}
	printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

# The server of the initialisation: Unix socket only, nobody else can come in.
start_temporary_server() {
	[[ ${1:-} == postgres ]] && shift
	set -- "$@" -c listen_addresses='' -p "${PGPORT:-5432}"
	NOTIFY_SOCKET='' PGUSER="${PGUSER:-$POSTGRES_USER}" \
		pg_ctl -D "$PGDATA" -o "$(printf '%q ' "$@")" -w start
}

stop_temporary_server() {
	PGUSER="${PGUSER:-$POSTGRES_USER}" pg_ctl -D "$PGDATA" -m fast -w stop
}

run_psql() {
	PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password \
		--username "$POSTGRES_USER" "$@"
}

create_database() {
	local found
	found=$(run_psql --dbname postgres --set db="$POSTGRES_DB" --tuples-only \
		<<<"SELECT 1 FROM pg_database WHERE datname = :'db'")
	if [[ -z $found ]]; then
		run_psql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db"'
	fi
}

play_init_directory() {
	local file
	for file in "$INIT_DIR"/*; do
		case $file in
		*.sh)
			if [[ -x $file ]]; then
				say "running $file"
				"$file"
			else
				say "sourcing $file"
				# shellcheck source=/dev/null
				. "$file"
			fi
			;;
		*.sql)
			say "running $file"
			run_psql --dbname "$POSTGRES_DB" -f "$file"
			echo
			;;
		*.sql.gz)
			say "running $file"
			gunzip -c "$file" | run_psql --dbname "$POSTGRES_DB"
			echo
			;;
		*) say "ignoring $file" ;;
		esac
	done
}

initialise() {
	require_password
	# Fail now, not after initdb, when the directory cannot be read.
	ls "$INIT_DIR"/ >/dev/null
	create_cluster
	write_hba "$@"
	export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
	start_temporary_server "$@"
	create_database
	play_init_directory
	stop_temporary_server
	unset PGPASSWORD
	printf '\nPostgreSQL init process complete; ready for start up.\n\n'
}

only_asks() {
	local argument
	for argument; do
		case $argument in
		-'?' | --help | --describe-config | -V | --version) return 0 ;;
		esac
	done
	return 1
}

main() {
	if [[ ${1:-} == -* ]]; then
		set -- postgres "$@"
	fi
	if [[ ${1:-} == postgres ]] && ! only_asks "$@"; then
		load_settings
		prepare_directories
		if ((EUID == 0)); then
			# exec twice, so that the postmaster is PID 1.
			exec setpriv --reuid=postgres --regid=postgres --init-groups \
				env HOME=/var/lib/postgresql USER=postgres "$0" "$@"
		fi
		if [[ -s $PGDATA/PG_VERSION ]]; then
			printf '\nPostgreSQL Database directory appears to contain a database; Skipping initialization\n\n'
		else
			initialise "$@"
		fi
	fi
	exec "$@"
}

main "$@"
