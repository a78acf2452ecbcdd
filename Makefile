# The commands of a working day; `make help` lists them.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# Ray decides by itself whether it wants a token unless it is told; a value set by the caller wins.
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help .venv demo test test-all lint bench completeness clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z.-]+:.*##' Makefile | sed -E 's/^([a-z.-]+):.*## (.*)/  \1\t\2/' | expand -t 16

.venv: $(INSTALLED)  ## create the virtual environment, or bring it up to date with pyproject.toml

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## generate interactions, train, erase and compare, on a local Ray cluster
	$(BIN)/python -m benchmarks.demo

test: $(INSTALLED)  ## all tests but the large ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not large"

test-all: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED)  ## style, formatting, types and the walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## the paper's protocol on BookCrossing
	$(BIN)/python -m benchmarks.bookcrossing

completeness: $(INSTALLED)  ## what makes unlearning complete, with three seeds: takes hours, needs the ratings
	$(BIN)/python -m benchmarks.completeness

clean:  ## remove what builds and runs left behind, but not the virtual environment
	rm -rf build dist demo-output *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
