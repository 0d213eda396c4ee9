# make demo    the road of a tick, shown with the two real commands (INPUT=path: with a file of your own)
# make test    every test; ARGS='-k outbox' chooses
# make lint    ruff, types, floors
# make bench   the benchmarks; ARGS are passed on
# make install PREFIX=/opt/hometape   the commands into an environment of their own, with what running needs
# Each but the last makes its Python environment in .venv first, where that is missing or out of date.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench install format constraints clean

BIN := .venv/bin
READY := .venv/.ready
export INPUT

help:
	@sed -n 's/^# make /make /p' Makefile

$(READY): constraints.txt pyproject.toml .ci/venv
	.ci/venv .venv
	touch $@

demo: $(READY)
	$(BIN)/python -m bench.demo $${INPUT:+"$$INPUT"}

# Half of the time a test waits for what it started, so three share two cores.
test: $(READY)
	cores=$$($(BIN)/python -c 'import os; print(os.cpu_count() or 1)')
	$(BIN)/python -m pytest -n $$(((cores * 3 + 1) / 2)) --dist loadgroup $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m bench.run $(ARGS)

install:
	@test -n "$(PREFIX)" || { echo "where to? hint: make install PREFIX=/opt/hometape" >&2; exit 64; }
	.ci/venv "$(PREFIX)" run

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Renews the pinned sets, constraints.txt for work on the project and requirements.txt for running it: newest versions
# that pyproject.toml allows, for Linux and Windows, with the hashes of all their files. Names, versions, hashes and markers only: where packages come from is each machine's affair.
constraints:
	export PATH="$$PWD/$(BIN):$$PATH"
	command -v uv >/dev/null || { echo "uv is missing; hint: python3 -m pip install uv" >&2; exit 69; }
	pin() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate "$$@" pyproject.toml; }
	pin --upgrade --extra dev --output-file constraints.txt
	rm -f requirements.txt
	pin --constraints constraints.txt --output-file requirements.txt

clean:
	rm -rf .venv build ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
