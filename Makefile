# To get started: make demo, make test.

PYTHON_TOOLS := .venv/bin/python
PYTEST := .venv/bin/python -m pytest
TYPED := gpumand benchmarks tests scripts/test.py scripts/reliability.py scripts/man.py scripts/completions.py scripts/check_language.py
E2E ?= optional
GPU_PYTHON ?= .venv/bin/python
export GPUMAND_E2E := $(E2E)

.PHONY: help setup demo fleet-demo run test check lint types docs pictures unit integration e2e real reliability clients page fleet-test ubuntu gpu deb bench lock clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name what; do \
		printf '  make %-12s %s\n' "$$name" "$$what"; done

setup: ## create .venv with all dependencies in locked versions
	@scripts/setup $(if $(filter setup,$(MAKECMDGOALS)),--report)

demo: setup ## show leases, evictions and waiting requests, without a GPU; more: .venv/bin/gpumanctl demo --help
	@.venv/bin/gpumanctl demo

fleet-demo: setup ## show three hosts on this machine, one of which is killed
	@$(PYTHON_TOOLS) -m gpumand.demo.fleet

run: setup ## start the services of the demo and leave them running
	@.venv/bin/gpumanctl demo --run

test: ## run all checks and tests that can run here and list the skipped ones; E2E=required fails on skipped e2e tests
	@scripts/setup --tests
	@$(PYTHON_TOOLS) scripts/test.py

check: setup lint types ## run ruff and mypy

lint: setup # pytest collects every test here: a test file that imports a name that is gone is found in seconds
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@$(PYTHON_TOOLS) scripts/check_language.py
	@found=$$($(PYTEST) tests --collect-only -qqq) || { echo "$$found" | tail -n 60; exit 1; }

types: setup
	@.venv/bin/mypy $(TYPED)

docs: setup ## build the documentation in build/docs; broken links are errors
	@.venv/bin/sphinx-build --quiet --fail-on-warning --keep-going -d build/doctrees docs build/docs

pictures: setup ## draw the pictures of the README: docs/top.svg, and docs/gateway.png, which needs chromium
	@$(PYTHON_TOOLS) scripts/screenshot.py
	@$(PYTHON_TOOLS) scripts/page_screenshot.py

unit: setup ## run the unit tests
	@$(PYTEST) tests/unit

integration: ## run the integration tests: real processes on a private bus
	@scripts/setup --tests
	@$(PYTEST) tests/integration

e2e: ## run the end-to-end tests: real units on a booted systemd, as root on Debian
	@scripts/setup --tests
	@$(PYTEST) tests/e2e

real: ## run the tests with real servers: Debian's packages of llama.cpp and whisper.cpp, as root on Debian
	@scripts/setup --tests
	@$(PYTEST) tests/real

reliability: ## kill the daemon 200 times, and update the measurements in docs/reliability.md
	@scripts/setup --tests
	@GPUMAND_E2E=required $(PYTEST) tests/e2e/test_kills.py
	@$(PYTHON_TOOLS) scripts/reliability.py

clients: ## run the client libraries of OpenAI, Anthropic and Ollama through a load of 40 s
	@scripts/setup --tests
	@GPUMAND_FULL_LENGTH=1 $(PYTEST) tests/integration/gateway/test_gateway_clients.py

fleet-test: ## cut, kill and suspend hosts of a fleet in network namespaces, as root; GPUMAND_FULL_LENGTH=1 for 20 cuts and 200 kills
	@scripts/setup --tests
	@$(PYTEST) tests/fleet

ubuntu: ## install, use, upgrade and remove the packages on two releases of Ubuntu and on Debian 13 too
	@scripts/setup --tests
	@GPUMAND_E2E=required GPUMAND_UBUNTU=1 $(PYTEST) tests/e2e/test_release.py tests/e2e/test_new_user.py

gpu: setup ## run the tests with a real driver; GPU_PYTHON=/path selects a Python with PyTorch
	@PYTHON=$(GPU_PYTHON) tests/gpu/run.sh

deb: ## build the Debian package in build/deb
	@scripts/build-deb

page: ## keep a page of ComfyUI open for ten minutes: it neither holds nor wakes the service
	@scripts/setup --tests
	@GPUMAND_FULL_LENGTH=1 $(PYTEST) tests/integration/gateway/test_gateway_open_page.py

jobs: ## let jobs of ComfyUI work for a minute, also over restarts of the gateway: nothing interrupts them
	@scripts/setup --tests
	@GPUMAND_FULL_LENGTH=1 $(PYTEST) tests/integration/gateway/test_gateway_jobs.py

# Bytecode is written, as on a host: a daemon that compiles all modules at each start takes more time and memory.
bench: setup ## measure the performance; fails if a goal is missed by more than docs/performance.md says
	@unset PYTHONDONTWRITEBYTECODE; status=0; for part in speed gateway fleet; do \
		$(PYTHON_TOOLS) -m benchmarks.$$part || status=1; done; exit $$status

lock: ## update requirements.lock within the bounds in pyproject.toml
	@scripts/lock

clean: ## remove build products; .venv stays
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
