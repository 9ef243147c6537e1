#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Waits until the containers of a Compose project do their work, or have done it: what Compose itself would wait for is a
# failure once a service has exited with status 0, as one that migrates a database does.
#
#   await-health.sh SECONDS [SERVICE...]
#
# COMPOSE_PROJECT_NAME and COMPOSE_FILE say which project; it is run in its directory. Ends with status 3 when it is not well in
# time, and prints what is wrong.
set -u
limit=$1
shift
# What is wrong with a container, in words; nothing where it does its work, or has done it.
# shellcheck disable=SC2016
trouble='{{$health := ""}}{{with .State.Health}}{{$health = .Status}}{{end}}{{if eq $health "none"}}{{$health = ""}}{{end}}
	{{- if eq .State.Status "running"}}{{if and (ne $health "") (ne $health "healthy")}}{{slice .Name 1}} is {{$health}}{{end}}
	{{- else if ne .State.Status "exited"}}{{slice .Name 1}} is {{.State.Status}}
	{{- else if ne .State.ExitCode 0}}{{slice .Name 1}} has exited with status {{.State.ExitCode}}{{end}}'
services=${*:-$(docker compose config --services)} || exit

# A clock that nobody sets meanwhile.
now() {
	read -r seconds rest </proc/uptime
	echo "${seconds%.*}"
}

look() {
	for service in $services; do
		docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
			--filter "label=com.docker.compose.service=$service" --filter label=com.docker.compose.oneoff=False || exit
	done
}

end=$(($(now) + limit))
while containers=$(look) || exit; do
	[ -n "$containers" ] || exit 0
	# shellcheck disable=SC2086
	troubles=$(docker inspect --format "$trouble" $containers 2>&1) || troubles="docker inspect: $troubles"
	case $troubles in *[![:space:]]*) ;; *) exit 0 ;; esac
	case $troubles in *" has exited "*) break ;; esac
	[ "$(now)" -lt "$end" ] || break
	sleep 1
done
printf '%s\n' "$troubles"
exit 3
