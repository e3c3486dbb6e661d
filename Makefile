# Each target stands on its own: it needs CPython 3.11 or newer with pip, and makes .venv if it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCRIPTS := product widths batches scaling setup_cost dense \
	eigen spectrum_end_to_end digits_eigen linear \
	optim solver_overhead recycling regressions optim_real train_digits \
	trace density curvature_peers vocabulary
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test test-slow lint types docs bench clean

demo: $(VENV)/.demo-installed ## Hessian of a network trained on real data: figures, a plot, their cost
	$(BIN)/python docs/examples/digits.py

test: lint types docs ## everything that must hold before a change goes in
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/.test-installed ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.test-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.test-installed
	$(BIN)/mypy

docs: $(VENV)/.test-installed ## the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.bench-installed ## time the library beside its peers: tables, then pytest-benchmark
	set -e; for script in $(SCRIPTS); do $(BIN)/python -m benchmarks.$$script; done
	$(BIN)/python -m pytest benchmarks/bench_*.py --benchmark-enable

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .benchmarks *.egg-info

# What is installed follows pyproject.toml and constraints.txt: the stamp is older than they are after a change.
$(VENV)/.%-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[$*]"
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
