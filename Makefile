# Every target makes its own environment in .venv from the locked dependencies; make and Python 3.11+ suffice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The piece of the five-model fleet that the demo replays: 25 minutes of a weekday morning, 5 of them warm-up.
DEMO := --fleet servegen --start 32400 --duration 1500 --compare all
# Every extra but `gpu`: `make demo` and `make snapshot` run without one, and the dev group has its bindings.
EXTRAS := driver controller keda simulator
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	pyproject.toml $(EXTRAS:%=--extra %)

.DEFAULT_GOAL := help
.PHONY: help demo snapshot criu test lint bench lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.installed ## replay a real fleet under every policy; writes out/demo.html
	$(BIN)/forethaw simulate $(DEMO) --report out/demo.html --json out/demo.json --csv out/demo.csv

snapshot: $(VENV)/.installed criu ## checkpoint a sample server, kill it, restore it (needs root, no GPU)
	PATH="$(CURDIR)/$(BIN):$$PATH" FORETHAW_CRIU="$(CURDIR)/.criu" examples/snapshot_demo.sh

criu: ## install CRIU 4.2, with its libraries, into .criu
	restore_driver/criu/install.sh .criu

test: $(VENV)/.installed-dev ## run the tests
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-dev ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(VENV)/.installed-dev ## replay speed beside SimPy, cost of a decision and of a forecast, start of a command
	$(BIN)/python -m benchmarks.replay_speed && $(BIN)/python -m benchmarks.pass_cost && \
		$(BIN)/python -m benchmarks.forecast_cost && \
		$(BIN)/python -m benchmarks.command_start

lock: ## resolve pyproject.toml anew into the lock files (needs uv)
	$(COMPILE) -o requirements.lock
	$(COMPILE) --group dev -o requirements-dev.lock

clean: ## remove the environment and what the demo wrote
	rm -rf $(VENV) out

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Forethaw needs Python 3.11, 3.12 or 3.13 and $(PYTHON) is none of them. Name one: make PYTHON=python3.12 ..."; exit 1; }
	@# Debian's venv without ensurepip fails halfway; what it leaves would pass for an environment on the next run.
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: $(VENV)/bin/python requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python requirements-dev.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.installed
