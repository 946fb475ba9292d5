# Tasks for contributors; CONTRIBUTING.md explains them. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST = -m pytest -q -n auto --dist worksteal
# The floors stand once, in pyproject.toml.
FLOORS = $(shell grep -oE '"(torch|torchvision)>=[0-9.]+"' pyproject.toml | tr -d '"' | sed 's/>=\(.*\)/==\1.0/')

.PHONY: help check tests tests-fast floor newest boards clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/complete: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[all,dev]'
	touch $@

check: $(VENV)/complete ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

tests: $(VENV)/complete ## all tests
	$(BIN)/python $(PYTEST)

tests-fast: $(VENV)/complete ## the fast tests
	$(BIN)/python $(PYTEST) -m "not slow"

boards: $(VENV)/complete ## do all tables follow from their records?
	$(BIN)/harness leaderboard check

floor: ## all tests on the oldest torch and torchvision that pyproject.toml allows
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/pip install -q -e '.[all,dev]' $(foreach floor,$(FLOORS),'$(floor)')
	.venv-floor/bin/python $(PYTEST)

newest: ## all tests on the newest of everything
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install -q --upgrade --upgrade-strategy eager -e '.[all,dev]'
	.venv-newest/bin/python $(PYTEST)

# Only what is in the checkout: VENV may name an environment that serves for more.
clean: ## remove environments and caches of this checkout
	rm -rf .venv .venv-floor .venv-newest .mypy_cache .ruff_cache .pytest_cache dist
