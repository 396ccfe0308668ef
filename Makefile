# One target per daily action. `make run` and `make test` are all a new machine needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test test-long test-search check format bench clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check,gurobi]'
	touch $@

env: $(READY)  ## create the environment with pinned dependencies

run: $(READY)  ## train, attack, certify, verify, measure and report on the embedded data set
	PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/quickstart.sh

test: $(READY)  ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not long"

test-long: $(READY)  ## the long tests as well
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

test-search: $(READY)  ## the property tests on examples drawn anew
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not long" --hypothesis-profile=search

check: $(READY)  ## style and types
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/mypy

format: $(READY)  ## rewrite the code in the house style
	$(BIN)/ruff check --fix src tests benchmarks scripts
	$(BIN)/ruff format src tests benchmarks scripts

CHECKPOINT ?= runs/kw_mnist/seed-0
bench: $(READY)  ## the benchmarks, on a network of yours (CHECKPOINT=...)
	$(BIN)/python benchmarks/certify_throughput.py --checkpoint $(CHECKPOINT)

clean:  ## remove the environment and caches (not the runs)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
