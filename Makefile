# `make demo` and `make test` each do all the set-up on a machine with python3 (3.11 or later), gcc and git.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests run in as many processes, with one thread each.
JOBS ?= $(shell $(PYTHON) -c "import os; print(os.cpu_count())")
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# A worker that dies (of memory, say) ends the run with the name of its test: with a new one in its place, the run hangs.
# A file's tests stay together: pages of docs go on with what their first block made, and some share a pipeline's run.
PARALLEL := -n $(JOBS) --dist loadfile --max-worker-restart 0

.PHONY: help install demo test test-slow trl-1.12 docs lint format

help:
	@echo "make demo       set up, then train and evaluate the tiny pipeline (runs/tiny/report.html)"
	@echo "make test       set up, then run the tests; make test-slow runs the slow ones too"
	@echo "make trl-1.12   the last TRL that has PPO, for benchmarks/ppo_speed.py and a slow test"
	@echo "make docs       the documentation as a site: site/index.html"
	@echo "make lint       check style and types; make format corrects the style"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; this is $$($(PYTHON) --version). Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing. On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/align run recipes/tiny

test: install
	$(PYTEST) -m "not slow" $(PARALLEL)

test-slow: install
	$(PYTEST) $(PARALLEL)

# Beside the environment, not in it: all else is shared, and PYTHONPATH puts it first where it is asked for.
trl-1.12: .trl-1.12/.installed

.trl-1.12/.installed: | $(INSTALLED)
	$(BIN)/python -m pip install --no-deps --upgrade --target $(@D) trl==1.12.0
	touch $@

# The pages of docs/reference are made from the code first; a test says when they are out of date.
docs: $(VENV)/.docs-installed
	$(BIN)/python docs/generate_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "written: site/index.html"

$(VENV)/.docs-installed: $(INSTALLED)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[docs]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
