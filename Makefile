# Three commands, each from nothing: they make .venv and install what they need on the first call.
#   make quickstart   fine-tune a real model on this machine
#   make test         all tests
#   make check        format, lint, types, layers
#   make faults       inject every fault there is a promise for; hours

PYTHON ?= python3
BIN := .venv/bin
# DeepSpeed compiles an operator with the ninja that it finds: the one that comes with it.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart assets test faults check format

help:
	@sed -n 's/^#   //p' $(MAKEFILE_LIST)

install: $(INSTALLED)

# torch goes in first and alone: pip's settings then decide which build it is, and everything after
# is resolved against that. The quickstart's packages go in without their dependencies, which would
# be a second inference engine.
$(INSTALLED): pyproject.toml constraints.txt quickstart/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; use: make PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet \
	  "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]' -c constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps \
	  -r quickstart/requirements.txt
	@touch $@

assets: $(INSTALLED)
	$(BIN)/python quickstart/assets.py

quickstart: assets
	$(BIN)/launcher run recipes/quickstart.yaml
	$(BIN)/python quickstart/show.py

# Unit tests share the cores; tests that start processes need both for themselves, one by one.
test: $(INSTALLED)
	@tests/system_packages.sh
	$(BIN)/python -m pytest tests/unit -n 2
	$(BIN)/python -m pytest --ignore tests/unit

# Every fault, each in every setting: takes hours on two cores. Writes docs/faults.md.
faults: assets
	@tests/system_packages.sh
	$(BIN)/python -m tests.faults $(FAULTS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
