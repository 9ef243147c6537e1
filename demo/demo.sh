#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The whole story on one machine: a stack with an application, a backup, an
# accident, the restore, a drill, and the evidence.   Usage: demo.sh [clean]
set -euo pipefail
shopt -s inherit_errexit

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$HERE/.."
PATH=$PWD/.venv/bin:$PATH
STATE=demo/.state
DB=ai-fsm-db

title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

sql() { docker exec -i "$DB" psql -XqU postgres -d ai_fsm "$@"; }

rows() { sql -x -f - <demo/rows.sql; }

# The application's answer, asked inside its container: no port is published.
health() {
	docker exec ai-fsm-web-1 python3 -c '
import urllib.request, urllib.error
try:
    answer = urllib.request.urlopen("http://127.0.0.1:3000/api/health", timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print("GET /api/health:", answer.status, answer.read().decode())'
}

clean() {
	demo/stack.sh down
	rm -rf "$STATE"
}

story() {
	title "1. The stack: db, web, worker"
	demo/stack.sh up
	health
	rows

	title "2. A backup: ansible-playbook backup.yml"
	ansible-playbook backup.yml

	title "3. The accident"
	cat demo/accident.sql
	sql -v ON_ERROR_STOP=1 -f - <demo/accident.sql
	echo "What is left:"
	rows
	health || true

	title "4. The restore: ansible-playbook restore.yml -e dump=latest"
	ansible-playbook restore.yml -e dump=latest
	echo "What is there again:"
	rows
	health

	title "5. The drill: ansible-playbook drill.yml"
	ansible-playbook drill.yml

	title "6. The evidence"
	cat "$STATE/DECISION_LOG.md"
	echo
	echo "The stack is still up; 'make demo-clean' removes it."
}

case ${1:-} in
'') story ;;
clean) clean ;;
*)
	echo "usage: demo.sh [clean]" >&2
	exit 2
	;;
esac
