# make demo    the road of a tick, shown with the two real commands (INPUT=path: with a file of your own)
# make test    every test; ARGS='-k outbox' chooses
# make lint    ruff, types, floors
# make bench   the benchmarks; ARGS are passed on
# Each makes its Python environment in .venv first, where that is missing or out of date.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench format constraints clean

BIN := .venv/bin
READY := .venv/.ready
export INPUT

help:
	@sed -n 's/^# make /make /p' Makefile

$(READY): constraints.txt pyproject.toml .ci/venv
	.ci/venv .venv
	touch $@

demo: $(READY)
	$(BIN)/python bench/demo.py $${INPUT:+"$$INPUT"}

test: $(READY)
	$(BIN)/python -m pytest -n logical --dist loadgroup $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python bench/run.py $(ARGS)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Renews the pinned set: newest versions that pyproject.toml allows, for Linux and Windows, with the hashes of
# all their files. Names, versions, hashes and markers only: where packages come from is each machine's affair.
constraints:
	export PATH="$$PWD/$(BIN):$$PATH"
	command -v uv >/dev/null || { echo "uv is missing; hint: python3 -m pip install uv" >&2; exit 69; }
	uv pip compile --universal --python-version 3.11 --upgrade --extra dev --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet \
	  --output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv build ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
