# `make` shows what there is.
.DEFAULT_GOAL := help
.PHONY: help run run-all test test-slow test-postgres fuzz soak reliability lint format docs pictures \
	bench bench-full bench-check bench-databases lock vulnerabilities clean
SHELL := /bin/sh
BIN := .venv/bin
RUNTIME := .venv/runtime
STAMP := .venv/ready
SERVERS := .venv/servers
export PATH := $(CURDIR)/$(BIN):$(PATH)
PYTEST_ARGS ?=
SECTIONS ?=
FUZZ_ARGS ?=
POSTGRES_TESTS ?= tests/unit tests/web tests/gateway tests/system
# Three at a time keep two cores busy. tests/schedule.py puts the long ones first.
ABREAST := -n 3 --dist loadfile

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

# Running needs the first only. Lint and tests need the second, tests and `make run-all` the third.
$(RUNTIME): requirements.txt scripts/prepare
	@scripts/prepare
	@touch $@

$(STAMP): $(RUNTIME) requirements-otel.txt requirements-dev.txt
	@scripts/prepare tools
	@touch $@

$(SERVERS): $(STAMP) evoflask/dev/soketi/package-lock.json
	@scripts/prepare servers

run: $(RUNTIME) ## Start everything on this machine: PORT (8080), WEB_HOST (127.0.0.1), EVOFLASK_HOME (var)
	@exec $(BIN)/python -m evoflask.dev --with-parent

run-all: $(SERVERS) ## The same with RabbitMQ, NATS, SQS and Pusher beside it, and a demonstration instance
	@exec $(BIN)/python -m evoflask.dev --with-parent --all

test: $(SERVERS) lint ## Lint, types, floors, and the tests with real servers
	$(BIN)/pytest -m "not slow" $(ABREAST) $(PYTEST_ARGS)

test-slow: $(SERVERS) ## Faults, isolation, many schedules
	$(BIN)/pytest -m "slow and beside" --timeout 1800 $(ABREAST) $(PYTEST_ARGS)
	$(BIN)/pytest -m "slow and not beside" --timeout 1800 $(PYTEST_ARGS)

test-postgres: $(SERVERS) ## The same on PostgreSQL alone, faults too; POSTGRES_TESTS=some of it
	DATABASE=postgres $(BIN)/pytest -m "not slow or beside" --timeout 1800 $(ABREAST) \
		$(POSTGRES_TESTS) $(PYTEST_ARGS)
	DATABASE=postgres $(BIN)/pytest -m "slow and not beside" --timeout 1800 \
		$(POSTGRES_TESTS) $(PYTEST_ARGS) || [ $$? = 5 ] # 5: none of them is to run alone

fuzz: $(SERVERS) ## The API against its own documentation, by schemathesis: FUZZ_ARGS="--examples 100"
	$(BIN)/python -m tests.system.fuzz $(FUZZ_ARGS)

soak: $(SERVERS) ## Half an hour (SOAK_SECONDS) of load and kills: memory, books, a ledger
	$(BIN)/python -m tests.system.soak

reliability: $(SERVERS) ## Break everything on purpose, and write what was seen into docs/reliability.md
	$(BIN)/python -m tests.system.reliability

lint: $(STAMP) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-logo

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(RUNTIME) ## Write what is generated from the code
	$(BIN)/python -m evoflask.settings > docs/settings.md

pictures: $(SERVERS) ## Take the manual's pictures of /rq/ anew
	PICTURES=docs $(BIN)/pytest tests/house/test_failure_desk.py

PEERS := .venv/peers/ready
$(PEERS): $(SERVERS) benchmarks/peers/requirements.txt benchmarks/peers/bullmq/package-lock.json
	@scripts/prepare peers

bench: $(PEERS) ## What an event costs, beside the limits and the peers, in short; SECTIONS="drain accept"
	$(BIN)/python -m benchmarks $(SECTIONS)

bench-full: $(PEERS) ## The same at length, for benchmarks/RESULTS.md: over an hour
	$(BIN)/python -m benchmarks --full $(SECTIONS)

bench-check: $(SERVERS) ## Fail where a ratio fell behind the committed one by a fifth
	$(BIN)/python -m benchmarks --check

bench-databases: $(SERVERS) ## SQLite beside PostgreSQL
	$(BIN)/python -m benchmarks.databases

TOOLS := .venv/tools
$(TOOLS): requirements-tools.txt $(STAMP)
	$(BIN)/python -m venv $(TOOLS)
	$(TOOLS)/bin/pip install -q --disable-pip-version-check -r requirements-tools.txt
	@touch $(TOOLS)

lock: $(TOOLS) ## Write requirements.lock: what requirements.txt brings, with the hashes of all of it
	$(TOOLS)/bin/pip-compile -q --generate-hashes --strip-extras --no-header --no-emit-options \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		-o requirements.lock requirements.txt requirements-otel.txt

vulnerabilities: $(TOOLS) ## Ask the advisory database about everything that is locked
	$(TOOLS)/bin/pip-audit --disable-pip --require-hashes -r requirements.lock

clean: ## Remove the tools and their caches; the embedded data in var stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
