# SPDX-License-Identifier: GPL-2.0-or-later
# `make` lists the targets. All of them work on a fresh checkout: each sets up what it needs first.

BIN := .venv/bin
# The scripts that Kamailio loads are checked with the package.
SOURCES := kemi_nsq tests hatch_build.py $(wildcard kamailio/*.py)
LOCK := $(BIN)/pip-compile --quiet --upgrade --strip-extras --all-build-deps --allow-unsafe --generate-hashes \
	--no-emit-options --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

# Tests wait more than they work, so there are more workers than cores; those that share servers stay together.
WORKERS := 4
PARALLEL = --quiet --numprocesses $(WORKERS) --no-loadscope-reorder

# Of a thousand tests of real servers that share two cores, now and then one waits too long for its turn. What failed is
# run once more, alone, after its failure was shown; what fails then, fails.
again = { echo "make: what failed above is run once more, alone" >&2; \
	$(1) --quiet --last-failed --last-failed-no-failures none $(2); }

# Of Debian, those that are supported.
RELEASES := bookworm trixie

# nsqd of `make setup`, after one that the machine has; and the sbin folders, where Debian puts Kamailio.
export PATH := $(PATH):$(CURDIR)/.tools/bin:/usr/sbin:/sbin
# Tests write a great many small files, and some wait for a disk that others keep busy; memory has room for them.
ifneq ($(shell [ "$$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 4000000 ] 2>/dev/null && echo roomy),)
export TMPDIR := /dev/shm
endif
# Another Python's, where one is in use.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV

.NOTPARALLEL:
.PHONY: help setup venv format style lint types walls unit check covered integration acceptance test test-debian13 \
	bench chaos simulate demo docs screens site deb test-deb release lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## install all: Debian packages, nsqd, .venv; does nothing when all is there
	@docker/setup.sh

venv:
	@docker/setup.sh venv

format: venv ## format the code and sort its imports
	$(BIN)/ruff check --quiet --select I --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lint: venv ## look for what ruff finds
	$(BIN)/ruff check $(SOURCES)

types: venv ## check the types
	$(BIN)/mypy $(SOURCES)

walls: venv ## check who imports whom, as pyproject.toml has it
	$(BIN)/lint-imports --no-logo

unit: WORKERS := 2
unit: venv ## tests that need nothing else
	$(BIN)/pytest $(PARALLEL) tests/unit

style: venv
	$(BIN)/ruff format --check $(SOURCES)

check: style lint types walls site unit ## format, lint, types, walls, site and unit tests: before each commit

covered: setup ## unit and integration tests, and whether they execute enough of each module
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL) tests/integration tests/unit || \
	$(call again,$(BIN)/coverage run -m pytest,tests/integration tests/unit)
	$(BIN)/coverage combine --quiet
	$(BIN)/python -m tests.support.coverage_gate

integration: setup ## tests against a real nsqd
	$(BIN)/pytest $(PARALLEL) tests/integration

acceptance: WORKERS := 3
acceptance: setup ## tests of the whole: nsqd, Kamailio and a SIP watcher
	$(BIN)/pytest $(PARALLEL) -m "not alone" tests/acceptance || $(call again,$(BIN)/pytest,-m "not alone" tests/acceptance)
	$(BIN)/pytest --quiet -m alone tests/acceptance

test: setup style lint types walls site simulate covered acceptance ## all of the above, and 1,000 seeds

test-debian13: setup ## make test in a fresh Debian 13, as root: it is made, entered by mounts and removed again
	@docker/test.sh trixie

bench: setup ## measure all against baselines; ARGS="--quick --json FILE publish updates-sqlite ..."
	$(BIN)/python -m tests.bench $(ARGS)

chaos: setup ## kill and freeze each server under load, 10 minutes; ARGS="--seconds 60 --faults nsqd-kill,..."
	$(BIN)/python -m tests.chaos $(ARGS)

simulate: setup ## bad days of many seeds, without threads, sockets or a clock; SEEDS=1000 ARGS="--first 1000 --fault ..."
	PYTHONHASHSEED=0 $(BIN)/python -m tests.simulate $(or $(SEEDS),1000) $(ARGS)

demo: setup ## a call, a mailbox and presence, from NSQ to a lamp; KEEP=1 keeps it running
	KEEP=$(KEEP) $(BIN)/python -m tests.demo

docs: venv ## write docs/reference.md, the checks in docs/doctor.md, the map in docs/how-it-works.md, the list of decisions
	$(BIN)/kemi-nsq reference --write docs/reference.md
	$(BIN)/python -m tests.support.code_map
	$(BIN)/python -m tests.support.decisions
	$(BIN)/python -m tests.support.doctor_page

screens: setup ## write what the commands show in a terminal, beside real servers, into docs/see.md, ask-why.md, dead-letters.md
	$(BIN)/python -m tests.screens

site: venv ## build the documentation as a site, strictly, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

deb: setup ## build the Debian packages into dist/, each in a fresh root of its release
	docker/deb.sh dist $(RELEASES)

test-deb: setup ## try the packages of make deb in fresh roots: a lamp, upgrade, removal, quick start, containers
	docker/test-deb.sh dist $(RELEASES)
	docker/test-quickstart.sh dist $(RELEASES)
	docker/test-image.sh dist

release: venv ## build a release into dist/ and tag it; VERSION=0.1.0; DEBS=no leaves out the Debian packages
	$(BIN)/python -m tests.support.release "$(VERSION)" $(if $(filter no,$(DEBS)),--without-debs)

lock: venv ## renew requirements.lock and requirements-dev.lock with the newest allowed versions
	CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --output-file requirements.lock pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --extra dev --constraint requirements.lock \
		--output-file requirements-dev.lock pyproject.toml

clean: ## remove all that make and its tools made
	rm -rf .venv .venv-* .tools .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find $(wildcard kemi_nsq tests kamailio) -name __pycache__ -prune -exec rm -rf {} +
