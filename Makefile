# The two commands are `make demo` and `make test`; `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench chaos fuzz soak lock clean runtime dev outside peers servers
SHELL := /bin/sh
# Programs started here may keep compiled modules: without them each start compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE

ARGS ?=
WORKERS ?= 2
BIN := .venv/bin
PYTEST := $(BIN)/pytest

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: runtime ## trade recorded or synthetic candles on a paper exchange; ARGS="--speed 600 --for 60"
	@$(BIN)/qmtl demo $(ARGS)

test: dev outside servers check ## install everything, run the checks and every test
	$(PYTEST) -n $(WORKERS) --dist loadfile $(ARGS)
	@if [ -s .servers/skipped.txt ]; then echo "programs not available:"; cat .servers/skipped.txt; fi

check: dev ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo

bench: dev servers peers ## every figure we claim, with the peers beside it; writes bench/results/
	@set -e; for file in $$(grep -l '__main__' bench/*.py); do \
	  echo "== $$file"; $(BIN)/python -m bench.$$(basename $$file .py) $(ARGS); done

chaos: dev servers ## the fault campaigns at full count: kill points, lost acknowledgements
	QMTL_CAMPAIGN=chaos $(PYTEST) -m chaos --timeout 3600 $(ARGS)

fuzz: dev servers ## the property tests at 20,000 cases each, fresh seed
	QMTL_CAMPAIGN=fuzz HYPOTHESIS_PROFILE=fuzz $(PYTEST) -m fuzz --timeout 3600 $(ARGS)

soak: dev servers ## long runs: a simulated day, a million messages, memory
	QMTL_CAMPAIGN=soak $(PYTEST) -m soak --timeout 7200 $(ARGS)

lock: ## rewrite the lock files from pyproject.toml; ARGS="package …" moves those packages
	sh scripts/lock.sh $(ARGS)

clean: ## remove environments, caches and downloaded programs
	rm -rf .venv .venvs .uv .servers .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

runtime:
	@sh scripts/environment.sh runtime

dev:
	@sh scripts/environment.sh dev

outside:
	@sh scripts/environment.sh outside

peers:
	@sh scripts/environment.sh peers

servers:
	@sh scripts/servers.sh
