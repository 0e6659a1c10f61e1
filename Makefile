# `make demo` and `make test` do all set-up themselves, on any machine with git, make and Python 3.10 or newer.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo quick test lint wheel-test docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

# One stamp file: the environment is made again only when pyproject.toml changes.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("convofconv needs Python 3.10 or newer; set PYTHON=...") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing PyTorch and the rest into $(VENV) (several GB, once) ..."
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

demo: $(READY) ## train, fold and compare on real digits; tables and figures go to runs/demo
	$(BIN)/coc demo

quick: $(READY) ## tests of the mathematics and the surgery, under a minute: no process, no compilation, no training
	$(BIN)/python -m pytest -n 2 -m "not slow" tests/core $(ARGS)

test: $(READY) ## all tests
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel-test: $(READY) ## build the wheel and try it in an environment of its own
	BIN=$(abspath $(BIN)) bash .ci/wheel-test

docs: $(READY) ## build the documentation into site/
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean: ## remove the environments and everything built
	rm -rf $(VENV) .venv-wheel build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
