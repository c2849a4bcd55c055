# What a person or CI does here. Needs make and Python 3.11 or newer; everything else is installed
# into .venv, from locks.

VENV := .venv
BIN := $(VENV)/bin
CANDIDATES := python3.11 python3.12 python3.13 python3
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON = $(shell for name in $(CANDIDATES); do \
	$$name -c '$(USABLE)' >/dev/null 2>&1 && { command -v $$name; break; }; done)
INSTALL = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
LOCK = $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--no-emit-index-url --custom-compile-command "make lock"
TEST_PROCESSES_MAX := 4
unexport DJANGO_SETTINGS_MODULE

.DEFAULT_GOAL := help
.PHONY: walk help run test check bench lock format

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp ## start a whole demo market; Ctrl-C stops it
	@exec $(BIN)/python -m config.run

test: $(VENV)/dev.stamp ## run the suite on servers of its own; T=PATH runs a part
	@$(BIN)/python -m pytest -q -n logical --maxprocesses=$(TEST_PROCESSES_MAX) --dist=loadfile $(T)

check: $(VENV)/dev.stamp ## format, lint, types, imports, missing migrations, rules of the source
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	$(BIN)/python -m pytest -q tests/test_tidy.py

bench: $(VENV)/dev.stamp ## measure; B=NAME runs one of the benchmarks
	@$(BIN)/python -m benchmarks $(B)

walk: $(VENV)/dev.stamp ## beside make run: from a cluster to a paid token, step by step
	@$(BIN)/python docs/examples/walkthrough.py $${BASELOAD_VAR:-var}/demo.json

format: $(VENV)/dev.stamp ## put the source into its form
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .

lock: ## resolve requirements*.in into requirements*.txt
	@test -x $(VENV)-lock/bin/uv || { \
		$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv; }
	$(LOCK) requirements.in --output-file requirements.txt
	$(LOCK) requirements-dev.in --output-file requirements-dev.txt

$(VENV)/run.stamp: requirements.txt
	@test -n "$(PYTHON)" || { echo "baseload needs Python 3.11 or newer, with venv" >&2; exit 1; }
	@echo "installing what requirements.txt names into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --requirement requirements.txt
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements-dev.txt
	@echo "installing what requirements-dev.txt names into $(VENV)"
	@$(INSTALL) --requirement requirements.txt --requirement requirements-dev.txt
	@touch $@
