#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Shows that an image keeps the contract of the official `postgres` image that
# the tests rely on. Usage: verify.sh IMAGE ...   (official ones pass as well)
# shellcheck disable=SC2016 # what is in single quotes is for the container's shell
set -euo pipefail

PASSED=0
FAILED=0
NAME=firedrill-verify-$$
WORK=$(mktemp -d)
# Files that the container's user reads.
chmod 755 "$WORK"

clean_up() {
	docker rm --force --volumes "$NAME" >/dev/null 2>&1 || :
	docker network rm "$NAME" >/dev/null 2>&1 || :
	rm -rf "$WORK"
}
trap clean_up EXIT

# promise TEXT EXPECTED COMMAND...: the command prints exactly that.
promise() {
	local text=$1 expected=$2 got
	shift 2
	got=$("$@" 2>&1) || :
	if [[ $got == "$expected" ]]; then
		PASSED=$((PASSED + 1))
		printf 'ok      %s\n' "$text"
	else
		FAILED=$((FAILED + 1))
		printf 'FAILED  %s: expected "%s", got "%s"\n' "$text" "$expected" "$got"
	fi
}

start() {
	docker rm --force --volumes "$NAME" >/dev/null 2>&1 || :
	docker run --detach --name "$NAME" "$@" >/dev/null
}

# The final server: the first process is the server, and it answers by TCP.
wait_ready() {
	local i
	for ((i = 0; i < 300; i++)); do
		if inside '[ "$(cat /proc/1/comm)" = postgres ] && pg_isready -q -h 127.0.0.1' >/dev/null 2>&1; then
			return
		fi
		sleep 0.2
	done
	docker logs --tail 20 "$NAME" >&2
	return 1
}

inside() { docker exec "$NAME" sh -c "$1"; }
sql() { docker exec "$NAME" psql -X -U 'app user' -d 'My "DB"' -Atc "$1"; }
config() { docker image inspect --format "$1" "$IMAGE"; }
status() { docker container inspect --format '{{.State.ExitCode}}' "$NAME"; }
run() { docker run --rm --network none "$@"; }
last_request() { docker logs "$NAME" 2>&1 | grep -o 'received .* request' | tail -n 1; }

by_network() {
	docker exec --env PGPASSWORD="$1" "$NAME" sh -c \
		'psql -X -h "$(hostname -i)" -U "app user" -d postgres -Atc "SELECT 1"' 2>&1 | grep -cx 1
}

write_inputs() {
	local init=$WORK/init
	rm -rf "$init"
	mkdir -p "$init"
	printf 'p$s"w '\''\\\n' >"$WORK/password"
	echo 'app user' >"$WORK/user"
	echo 'My "DB"' >"$WORK/database"
	echo 'CREATE TABLE log (line text); INSERT INTO log VALUES (current_user)' >"$init/1.sql"
	echo "INSERT INTO log VALUES ('compressed')" | gzip >"$init/2.sql.gz"
	printf '#!/bin/sh\nexec psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "%s"\n' \
		"INSERT INTO log SELECT 'script, listening on ''' || current_setting('listen_addresses') || ''''" >"$init/3.sh"
	chmod 755 "$init/3.sh"
	echo 'ignored' >"$init/4.txt"
}

major() { run "$IMAGE" sh -c 'echo "$PG_MAJOR"'; }

verify_image() {
	promise 'entry point' '[docker-entrypoint.sh]' config '{{.Config.Entrypoint}}'
	promise 'command' '[postgres]' config '{{.Config.Cmd}}'
	local volume=/var/lib/postgresql/data
	(($(major) < 18)) || volume=/var/lib/postgresql
	promise 'volume' "map[$volume:{}]" config '{{.Config.Volumes}}'
	promise 'port' 'map[5432/tcp:{}]' config '{{.Config.ExposedPorts}}'
	promise 'stop signal' SIGINT config '{{.Config.StopSignal}}'
	promise 'other commands run as they are' root run "$IMAGE" id -un
	start --network none "$IMAGE"
	promise 'no password: it does not start' 1 docker wait "$NAME"
	start --network none --env POSTGRES_PASSWORD=a --env POSTGRES_PASSWORD_FILE=/b "$IMAGE"
	promise 'a variable and its file: it does not start' 1 docker wait "$NAME"
}

verify_server() {
	write_inputs
	docker network inspect "$NAME" >/dev/null 2>&1 || docker network create --internal "$NAME" >/dev/null
	start --network "$NAME" --volume "$WORK:/inputs:ro" --volume "$WORK/init:/docker-entrypoint-initdb.d:ro" \
		--env POSTGRES_PASSWORD_FILE=/inputs/password --env POSTGRES_USER_FILE=/inputs/user \
		--env POSTGRES_DB_FILE=/inputs/database --env POSTGRES_INITDB_ARGS='--data-checksums' \
		"$IMAGE" -c max_connections=50
	wait_ready
	promise 'init directory, by a server without network' \
		$'app user\ncompressed\nscript, listening on \'\'' sql 'SELECT * FROM log'
	promise 'arguments reach the server' 50 sql 'SHOW max_connections'
	promise 'arguments reach initdb' on sql 'SHOW data_checksums'
	promise 'it listens everywhere' '*' sql 'SHOW listen_addresses'
	promise 'encoding and locale' 'UTF8 en_US.utf8' \
		sql "SELECT pg_encoding_to_char(encoding) || ' ' || datcollate FROM pg_database WHERE datname = current_database()"
	promise 'ICU is there' t sql "SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'"
	promise 'contrib is there' 3 \
		sql "SELECT count(*) FROM pg_available_extensions WHERE name IN ('pgcrypto', 'hstore', 'postgres_fdw')"
	promise 'pg_hba: the network asks, the inside does not' \
		"all trust,all trust,all trust,replication trust,replication trust,replication trust,all $(sql 'SHOW password_encryption')" \
		sql "SELECT string_agg(database[1] || ' ' || auth_method, ',' ORDER BY line_number) FROM pg_hba_file_rules"
	promise 'the right password by network' 1 by_network "$(cat "$WORK/password")"
	promise 'a wrong password by network' 0 by_network wrong
	promise 'no root' "$(inside 'id -u postgres')" inside 'stat -c %u /proc/1'
	promise 'data directory' 700 inside 'stat -c %a "$PGDATA"'
	promise 'socket' /var/run/postgresql sql 'SHOW unix_socket_directories'
	sql 'CREATE TABLE kept AS SELECT 42 AS x' >/dev/null
	docker stop --time 30 "$NAME" >/dev/null
	promise 'docker stop ends it in order' 0 status
	promise 'docker stop is a fast shutdown' 'received fast shutdown request' last_request
	docker start "$NAME" >/dev/null
	wait_ready
	promise 'a restart keeps the data' 42 sql 'SELECT x FROM kept'
	promise 'a restart plays nothing again' 3 sql 'SELECT count(*) FROM log'
}

verify_variants() {
	local user
	user=$(run --entrypoint id "$IMAGE" -u postgres)
	start --network none --user "$user" --env POSTGRES_HOST_AUTH_METHOD=trust "$IMAGE"
	wait_ready
	promise 'started as its own user, everybody trusted' 'host all all all trust' inside 'tail -n 1 "$PGDATA/pg_hba.conf"'
	echo 'SELECT 1/0' >"$WORK/init/1.sql"
	start --network none --env POSTGRES_PASSWORD=x --volume "$WORK/init:/docker-entrypoint-initdb.d:ro" "$IMAGE"
	promise 'a failing init script ends it' 3 docker wait "$NAME"
	start --network none --env POSTGRES_PASSWORD=x --read-only \
		--tmpfs /var/run/postgresql --tmpfs /var/lib/postgresql/data "$IMAGE"
	wait_ready
	promise 'a read-only root and data in memory' 1 docker exec "$NAME" psql -U postgres -Atc 'SELECT 1'
}

for IMAGE; do
	printf '%s\n' "$IMAGE"
	verify_image
	verify_server
	verify_variants
done
printf '%s passed, %s failed\n' "$PASSED" "$FAILED"
((FAILED == 0 && PASSED > 0))
