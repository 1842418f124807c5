# Two commands to begin with: make demo, make test.

PYTHON_TOOLS := .venv/bin/python
PYTEST := .venv/bin/python -m pytest
TYPED := gpumand benchmarks scripts/test.py scripts/reliability.py scripts/man.py scripts/completions.py tests/conftest.py tests/leftovers.py tests/e2e
E2E ?= optional
GPU_PYTHON ?= .venv/bin/python
export GPUMAND_E2E := $(E2E)

.PHONY: help setup demo run test check lint types docs unit integration e2e reliability gpu deb bench lock clean

help: ## show this list
	@sed -n 's/^\([a-z0-9]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name what; do \
		printf '  make %-12s %s\n' "$$name" "$$what"; done

setup: ## make .venv with everything, in locked versions; quick when nothing changed
	@scripts/setup

demo: setup ## see gpumand lend VRAM, evict and reclaim, without a GPU
	@$(PYTHON_TOOLS) -m gpumand.demo

run: setup ## the same set-up, left running to play with
	@$(PYTHON_TOOLS) -m gpumand.demo --run

test: ## everything that can run here, and a line for all that cannot; E2E=required: a skipped e2e fails
	@scripts/setup --tests
	@$(PYTHON_TOOLS) scripts/test.py

check: setup lint types ## ruff and mypy

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

types: setup
	@.venv/bin/mypy $(TYPED)

docs: setup ## the documentation, in build/docs; what leads nowhere fails it
	@.venv/bin/sphinx-build --quiet --fail-on-warning --keep-going -d build/doctrees docs build/docs

unit: setup ## circle 1: plain values in, plain values out
	@$(PYTEST) tests/unit

integration: ## circle 2: real processes on a private bus
	@scripts/setup --tests
	@$(PYTEST) tests/integration

e2e: ## circle 3: real units on a booted systemd (root on Debian)
	@scripts/setup --tests
	@$(PYTEST) tests/e2e

reliability: ## 200 kills in a row, measured, and the figures of docs/reliability.md written anew
	@scripts/setup --tests
	@GPUMAND_E2E=required $(PYTEST) tests/e2e/test_kills.py
	@$(PYTHON_TOOLS) scripts/reliability.py

gpu: setup ## circle 4: a real driver; GPU_PYTHON=/path names a Python that has PyTorch
	@PYTHON=$(GPU_PYTHON) tests/gpu/run.sh

deb: ## the Debian package, in build/deb
	@scripts/build-deb

bench: setup ## how fast it is
	@$(PYTHON_TOOLS) -m benchmarks.speed

lock: ## write requirements.lock anew from the bounds in pyproject.toml
	@scripts/lock

clean: ## remove what was built; .venv stays
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
