# Each command starts from nothing: it makes .venv and installs what it needs on the first call.
# Times are those of two CPU cores, without the installation.
#   make quickstart   fine-tune a real model on this machine: 2 minutes
#   make test         unit tests, forked ranks, the real commands, one Slurm job: 9 minutes
#   make check        look at format, lint, types and layers; changes nothing: half a minute
#   make format       mend what check finds, where ruff can
#   make test-all     make test, all Slurm tests and a sample of the faults: 20 minutes
#   make faults       inject every fault there is a promise for (some: FAULTS="F1 F3"): an hour
#   make mutations    break the product by one line, twelve times, see the tests fail: 15 minutes
#   make fuzz         2,000 mutated inputs and run folders (fewer: MUTATIONS=100): an hour
#   make assets       make the quickstart's models and data
#   make install      make .venv and install into it

PYTHON ?= python3
BIN := .venv/bin
# DeepSpeed compiles an operator with the ninja that it finds: the one that comes with it.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart assets test test-all faults fuzz mutations check format

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

# Three workers keep two cores busy: most tests wait now and then. Long files come first.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(WORKERS)
TESTS := tests/ranks tests/e2e tests/unit

test: assets
	@tests/system_packages.sh
	$(PYTEST) tests/slurm/test_one_life.py $(TESTS)

test-all: assets
	@tests/system_packages.sh
	$(PYTEST) tests/slurm tests/faults $(TESTS)

# Every fault, each in every setting. Writes docs/faults.md.
faults: assets
	@tests/system_packages.sh
	$(BIN)/python -m tests.faults $(FAULTS)

# Run folders, recipes, DeepSpeed configs and command lines, mutated by a fixed seed.
MUTATIONS ?= 2000
fuzz: assets
	$(BIN)/python -m tests.support.mutated_inputs $(MUTATIONS)
	$(BIN)/python -m tests.support.mutated_runs $(MUTATIONS)

mutations: assets
	@tests/system_packages.sh
	$(BIN)/python -m tests.mutations $(PROMISES)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
