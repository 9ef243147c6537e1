#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The demo's stack (compose.yml).   Usage: stack.sh up | down | status
#
#   up      start it, by Compose where there is one, and wait until it is healthy
#   down    remove its containers, volume and networks, and nothing else
#   status  show it; the exit status is 0 when everything is healthy
#
# FIREDRILL_DEMO_WAIT_S: how long `up` waits (240). FIREDRILL_DEMO_COMPOSE=none
# does without Compose.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PROJECT=ai-fsm
SERVICES=(db web worker)
WAIT_S=${FIREDRILL_DEMO_WAIT_S:-240}
# What makes a thing the demo's, and not that of a real stack of this name.
OURS=(--filter "label=com.docker.compose.project=$PROJECT" --filter label=firedrill.demo=1)

say() { printf 'demo: %s\n' "$*"; }

die() {
	say "$*" >&2
	exit 1
}

container_of() {
	case $1 in
	db) echo ai-fsm-db ;;
	*) echo "$PROJECT-$1-1" ;;
	esac
}

# look KIND NAME FORMAT: a line about a thing, or "absent".
look() {
	local line
	if line=$(docker "$1" inspect --format "$3" "$2" 2>/dev/null); then
		printf '%s\n' "$line"
	else
		echo absent
	fi
}

state_of() {
	look container "$1" '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}'
}

# -- before anything is touched

# read_settings: the variables of .env, unless the environment has them.
read_settings() {
	local name value
	[[ -f $HERE/.env ]] || return 0
	while IFS='=' read -r name value; do
		if [[ $name == FIREDRILL_DEMO_* && -z ${!name:-} && -n $value ]]; then
			export "$name=$value"
		fi
	done <"$HERE/.env"
}

refuse_if_foreign() {
	local labels=.Labels label
	[[ $1 == container ]] && labels=.Config.Labels
	label=$(look "$1" "$2" "{{index $labels \"firedrill.demo\"}}")
	[[ $label == 1 || $label == absent ]] ||
		die "the $1 $2 is there and is not the demo's: nothing was changed"
}

# A real stack of this name may run here: it is left alone.
refuse_foreign_stack() {
	local service id
	for service in "${SERVICES[@]}"; do
		refuse_if_foreign container "$(container_of "$service")"
	done
	for id in $(docker ps -aq --filter "label=com.docker.compose.project=$PROJECT"); do
		refuse_if_foreign container "$id"
	done
	refuse_if_foreign volume "${PROJECT}_db-data"
	refuse_if_foreign network "${PROJECT}_backend"
	refuse_if_foreign network "${PROJECT}_frontend"
}

# -- up, by Compose

# The old docker-compose (1.x) cannot read the file.
find_compose() {
	COMPOSE=()
	if [[ ${FIREDRILL_DEMO_COMPOSE:-} == none ]]; then
		return
	elif docker compose version >/dev/null 2>&1; then
		COMPOSE=(docker compose)
	elif [[ $(docker-compose version --short 2>/dev/null) =~ ^v?([2-9]|[1-9][0-9]) ]]; then
		COMPOSE=(docker-compose)
	fi
}

up_by_compose() {
	"${COMPOSE[@]}" --project-name "$PROJECT" --file "$HERE/compose.yml" up --detach --no-color 2>&1 ||
		explain_failure "Compose could not start the stack"
}

# -- up, by plain docker: the same names and labels as by Compose. Compose does
# not see a container without a config-hash; any other value than its own means
# that its next `up` makes the container anew, on the same volume.

make_network() {
	local name=$1
	shift
	docker network inspect "${PROJECT}_$name" >/dev/null 2>&1 ||
		docker network create --label "com.docker.compose.project=$PROJECT" \
			--label "com.docker.compose.network=$name" --label firedrill.demo=1 \
			"$@" "${PROJECT}_$name" >/dev/null
}

make_volume() {
	docker volume inspect "${PROJECT}_$1" >/dev/null 2>&1 ||
		docker volume create --label "com.docker.compose.project=$PROJECT" \
			--label "com.docker.compose.volume=$1" --label firedrill.demo=1 "${PROJECT}_$1" >/dev/null
}

# make_container SERVICE IMAGE DEPENDS-ON [docker create options] -- [command]
make_container() {
	local service=$1 image=$2 depends_on=$3 name
	local -a options=()
	name=$(container_of "$service")
	shift 3
	while [[ $1 != -- ]]; do
		options+=("$1")
		shift
	done
	shift
	[[ $(look container "$name" '{{.Config.Image}}') != "$image" ]] || return 0
	docker rm --force "$name" >/dev/null 2>&1 || :
	docker create --name "$name" --restart unless-stopped \
		--network "${PROJECT}_backend" --network-alias "$service" \
		--label "com.docker.compose.project=$PROJECT" \
		--label "com.docker.compose.project.working_dir=$HERE" \
		--label "com.docker.compose.project.config_files=$HERE/compose.yml" \
		--label "com.docker.compose.service=$service" \
		--label com.docker.compose.container-number=1 \
		--label com.docker.compose.oneoff=False \
		--label com.docker.compose.config-hash=none \
		--label "com.docker.compose.depends_on=$depends_on" \
		--label "com.docker.compose.image=$(docker image inspect --format '{{.Id}}' "$image")" \
		--label firedrill.demo=1 \
		"${options[@]}" "$image" "$@" >/dev/null
}

up_by_docker() {
	# Health commands run in a shell here: `exec`, for the reason in compose.yml.
	local timings=(--health-interval 2s --health-timeout 5s)
	local app_timings=("${timings[@]}" --health-retries 3 --health-start-period 60s)
	local url='postgresql://fsm_app:fsm-app-demo@db:5432/ai_fsm'
	url+='?keepalives_idle=5&keepalives_interval=2&keepalives_count=3&tcp_user_timeout=8000'

	make_network backend --internal
	make_network frontend
	make_volume db-data
	make_container db "$FIREDRILL_DEMO_POSTGRES_IMAGE" '' \
		--env POSTGRES_USER=postgres --env POSTGRES_DB=ai_fsm --env POSTGRES_PASSWORD \
		--volume "${PROJECT}_db-data:/var/lib/postgresql/data" \
		--volume "$HERE/initdb/001_core_schema.sql:/docker-entrypoint-initdb.d/001_core_schema.sql:ro" \
		--volume "$HERE/initdb/002_seed.sql:/docker-entrypoint-initdb.d/002_seed.sql:ro" \
		--health-cmd 'exec pg_isready -q -h 127.0.0.1 -U postgres -d ai_fsm' \
		"${timings[@]}" --health-retries 5 --health-start-period 120s --
	make_container web "$FIREDRILL_DEMO_APP_IMAGE" db:service_healthy:false \
		--env "DATABASE_URL=$url" --volume "$HERE/app/web.py:/app/web.py:ro" \
		--health-cmd 'exec python3 -c "import urllib.request; urllib.request.urlopen(\"http://127.0.0.1:3000/api/health\", timeout=4)"' \
		"${app_timings[@]}" -- python3 /app/web.py
	make_container worker "$FIREDRILL_DEMO_APP_IMAGE" db:service_healthy:false \
		--env "DATABASE_URL=$url" --volume "$HERE/app/worker.py:/app/worker.py:ro" \
		--health-cmd 'exec python3 -c "import os, time; assert time.time() - os.stat(\"/tmp/heartbeat\").st_mtime < 10"' \
		"${app_timings[@]}" -- python3 /app/worker.py
	is_on_network "$(container_of web)" "${PROJECT}_frontend" ||
		docker network connect --alias web "${PROJECT}_frontend" "$(container_of web)"

	docker start "$(container_of db)" >/dev/null
	wait_healthy db
	docker start "$(container_of web)" "$(container_of worker)" >/dev/null
}

is_on_network() {
	docker container inspect --format '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{"\n"}}{{end}}' "$1" |
		grep -qxF "$2"
}

# -- waiting

wait_healthy() {
	local service name
	for service in "$@"; do
		name=$(container_of "$service")
		until [[ $(state_of "$name") == 'running healthy' ]]; do
			((SECONDS < WAIT_S)) || explain_failure "not healthy after $WAIT_S s"
			# One that ends again and again will not get better by waiting.
			[[ $(look container "$name" '{{.RestartCount}}') != [4-9] ]] ||
				explain_failure "$name does not stay up"
			sleep 0.5
		done
	done
}

explain_failure() {
	local service name
	say "$1:" >&2
	for service in "${SERVICES[@]}"; do
		name=$(container_of "$service")
		say "  $name: $(state_of "$name")" >&2
		if [[ $(state_of "$name") != 'running healthy' ]]; then
			docker logs --tail 8 "$name" 2>&1 | sed 's/^/    /' >&2 || :
		fi
	done
	exit 1
}

# -- the three commands

up() {
	local images
	refuse_foreign_stack
	read_settings
	images=$("$HERE/images.sh")
	eval "$images"
	find_compose
	if ((${#COMPOSE[@]})); then
		up_by_compose
	else
		POSTGRES_PASSWORD=${FIREDRILL_DEMO_POSTGRES_PASSWORD:-postgres-demo} up_by_docker
	fi
	wait_healthy "${SERVICES[@]}"
	say "$PROJECT is up and healthy ($FIREDRILL_DEMO_POSTGRES_IMAGE)"
}

# remove_ours KIND [docker rm options]
remove_ours() {
	local kind=$1 ids
	shift
	case $kind in
	container) ids=$(docker container ls --all --quiet "${OURS[@]}") ;;
	*) ids=$(docker "$kind" ls --quiet "${OURS[@]}") ;;
	esac
	[[ -z $ids ]] || xargs docker "$kind" rm "$@" <<<"$ids" >/dev/null
}

down() {
	remove_ours container --force --volumes
	remove_ours volume
	remove_ours network
	say "$PROJECT is gone"
}

status() {
	local service name state result=0
	for service in "${SERVICES[@]}"; do
		name=$(container_of "$service")
		state=$(state_of "$name")
		printf '%-16s %s\n' "$name" "$state"
		[[ $state == 'running healthy' ]] || result=1
	done
	return "$result"
}

case ${1:-} in
up | down | status) "$1" ;;
*) die "usage: stack.sh up | down | status" ;;
esac
