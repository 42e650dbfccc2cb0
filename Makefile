# Everything a checkout of pgcheckout can do. `make` alone lists it.
# Needs python3 >= 3.11 with venv, and the network the first time.

PYTHON ?= python3
PG ?= 18
VENV := .venv
BIN := $(VENV)/bin

export PG
.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench migration freeze types example parts clean

help: ## list the targets
	@awk -F ' *:.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## run the shop, the bridge and a Postgres on this machine (ONCE=1: one purchase, then stop)
	@$(BIN)/pgcheckout demo $(if $(ONCE),--once)

test: $(VENV)/.dev ## run the tests (PG=15, 17 or 18; ARGS="tests/sql -x" goes to pytest)
	@$(BIN)/pytest $(ARGS)

lint: $(VENV)/.dev ## check style, types, SQL and migrations
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/sqlfluff lint --disable-progress-bar sql supabase
	@$(BIN)/squawk supabase/migrations/*.sql
	@$(BIN)/python -m tests.support.parse_plpgsql

docs: $(VENV)/.dev ## build the documentation as a site in dist/docs/site, and check its links
	@$(BIN)/python -m tests.support.site

bench: $(VENV)/.dev ## measure the functions against a floor (QUICK=1: a glance; ARGS="--clients 8 --write")
	@$(BIN)/python -m tests.bench.run $(if $(QUICK),--quick) $(ARGS)

migration: $(VENV)/.dev ## start a migration from what sql/ has and the migrations lack (name=verb_object)
	@$(BIN)/python -m tests.support.author_migration $(name)

freeze: $(VENV)/.dev ## list new migrations in SHA256SUMS, when they ship: from then on they never change
	@$(BIN)/python -m tests.support.shipped

types: $(VENV)/.dev ## write supabase/database.types.ts from the migrations (needs make parts)
	@$(BIN)/python -m tests.support.app_types

example: $(VENV)/.dev ## run the example app on a Supabase look-alike (needs make parts)
	@$(BIN)/python -m tests.support.example

parts: ## install the optional real parts that some tests run against (as root: with apt)
	@sh tests/support/install_parts.sh

clean: ## remove what make and the tools have put here
	rm -rf $(VENV) .parts dist .pytest_cache .mypy_cache .ruff_cache .hypothesis supabase/.temp
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define install
	@echo "Installing $(1) into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable "$(1)" \
		|| { echo "pip could not install. Remedy: let this machine reach a Python package index, then run make again" >&2; exit 1; }
endef

# The stamps are renewed when pyproject.toml changes; a fresh stamp needs no network.
$(VENV)/.demo: pyproject.toml | $(BIN)/pip
	$(call install,.[demo])
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(call install,.[dev])
	@touch $(VENV)/.demo $@

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing. Remedy: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11. Remedy: make PYTHON=/path/to/a/newer/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) has no venv module. Remedy: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
