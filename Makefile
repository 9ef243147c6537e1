# SPDX-License-Identifier: GPL-3.0-or-later
#
# Every target sets up what it needs: on a fresh Debian, Ubuntu or Raspberry Pi OS, `make demo` and `make test` are
# enough. System packages and everything that talks to containers run as root, or with sudo.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The images of the integration tests; firedrill-test/postgres:13 and :18 can be built too, and official ones do as well:
# FIREDRILL_TEST_IMAGES="postgres:17 postgres:16-alpine"
FIREDRILL_TEST_IMAGES ?= firedrill-test/postgres:15 firedrill-test/postgres:17
export FIREDRILL_TEST_IMAGES

# More than there are processors: much of a test is to wait for a server.
WORKERS ?= 3

# In the order of their names: pytest-xdist would begin with the files of many tests, and end with one worker at the
# slow files of few.
BY_FILE := --dist loadfile --no-loadscope-reorder

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Nothing that tests and tools write into the tree may end up in a commit, or belong to root.
export PYTHONDONTWRITEBYTECODE := 1
# The engine reads /proc/<pid>/root of the database's container: that takes root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")

STAGES := lint types unit sanity ansible-lint docs-lint package integration molecule demo-test

.PHONY: help
help:
	@echo "make demo         set up, start a small stack, back up, lose data, restore, drill"
	@echo "make demo-fire    the whole loop on hosts of its own: encrypted copies, the host destroyed, recovered"
	@echo "make demo-clean   remove what the demo made"
	@echo "make test         set up and run the tests"
	@echo "make molecule-all those with whole hosts: one for each role, two from blank to recovered, and demo-fire"
	@echo "make check        lint, types, unit tests and one pass on PostgreSQL 17: a few minutes"
	@echo "make bench        compare with plain pg_dump and pg_restore; prints a table"
	@echo "make setup        only the set-up: system packages, .venv, Docker engine"
	@echo "make images       build the images of the tests and the demo"
	@echo "make format       format the Python files"
	@echo "make clean        remove .venv, caches and build products"
	@echo "One stage of the tests: make $(STAGES)" | fold -s -w 100

# -- set-up

.PHONY: setup runtime dev engine images
setup: dev engine

runtime:
	@tools/setup.sh runtime

dev:
	@tools/setup.sh dev

engine: runtime
	@tools/docker-engine.sh

images: engine
	$(ROOT) tests/images/build.sh

# -- to see it work

.PHONY: demo demo-fire demo-clean bench
demo: engine
	@$(ROOT) demo/demo.sh

demo-fire: dev engine
	@FIREDRILL_TEST_IMAGES=firedrill-test/postgres:17 $(ROOT) tools/test-images.sh
	@$(ROOT) demo/fire.sh

demo-clean: engine
	@$(ROOT) demo/demo.sh clean

bench: dev engine
	@FIREDRILL_TEST_IMAGES=firedrill-test/postgres:17 $(ROOT) tools/test-images.sh
	@$(ROOT) $(BIN)/python benchmarks/bench.py

# -- tests

.PHONY: test check
test: dev engine
	@tools/stages.sh $(STAGES)

check: dev engine
	@FIREDRILL_TEST_IMAGES=firedrill-test/postgres:17 tools/stages.sh lint types unit-quick integration-quick

.PHONY: lint types unit unit-quick sanity ansible-lint docs-lint package
lint: dev
	ruff check .
	ruff format --check .
	git ls-files -co --exclude-standard -- '*.sh' .ci/run | xargs -r shellcheck

# The checkout is checked as the package that Ansible sees; the paths are shown as they are known.
types: dev
	mypy | sed 's#^\.ansible/collections/ansible_collections/firedrill/postgres/##'

unit: dev
	pytest -q -p no:cacheprovider -n auto tests/unit

unit-quick: dev
	pytest -q -p no:cacheprovider -n auto -m 'not slow' tests/unit

sanity: dev
	tools/sanity.sh

ansible-lint: dev
	ansible-lint --offline --profile production

docs-lint: dev
	antsibull-docs lint-collection-docs --plugin-docs .
	tools/prometheus.sh promtool check rules monitoring/alerts.yml
	tools/prometheus.sh promtool test rules monitoring/alerts_test.yml

package: dev
	tools/collection.sh check

.PHONY: integration integration-quick molecule pi demo-test
integration: dev engine
	$(ROOT) tools/test-images.sh
	$(ROOT) $(BIN)/pytest -q -p no:cacheprovider -n $(WORKERS) $(BY_FILE) --durations 10 -ra tests/integration

integration-quick: dev engine
	$(ROOT) tools/test-images.sh
	$(ROOT) $(BIN)/pytest -q -p no:cacheprovider -n $(WORKERS) $(BY_FILE) -m 'not slow' tests/integration

molecule: dev engine
	FIREDRILL_TEST_IMAGES=firedrill-test/postgres:17 $(ROOT) tools/test-images.sh
	$(ROOT) $(BIN)/molecule test

# Two hosts from blank to recovered; some of it waits for the clock.
pi: dev engine
	$(ROOT) tools/test-images.sh
	$(ROOT) $(BIN)/molecule test -s pi

# `pi` mostly waits for the clock, so the others run beside it: one after the other, each has hosts with engines of
# their own.
.PHONY: molecule-all host-stages
molecule-all: dev images
	@MAKEFLAGS= tools/beside.sh pi host-stages

host-stages:
	@MAKEFLAGS= tools/stages.sh role-docker_host role-engine role-schedule role-app_stack demo-fire

role-%: dev engine
	FIREDRILL_TEST_IMAGES=firedrill-test/postgres:17 $(ROOT) tools/test-images.sh
	$(ROOT) $(BIN)/molecule test -s $*

# From nothing and to nothing, whatever happens in between.
demo-test: engine
	@status=0; $(ROOT) demo/demo.sh || status=$$?; $(ROOT) demo/demo.sh clean; exit $$status

# -- upkeep

.PHONY: format clean
format: dev
	ruff check --fix .
	ruff format .

clean:
	rm -rf .venv .ansible .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache tests/output firedrill-postgres-*.tar.gz
	find . -name __pycache__ -prune -exec rm -rf {} +
