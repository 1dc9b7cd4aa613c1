# Each target works by itself in a fresh clone; it needs make and Python 3.11 or newer with its venv module.
#
#   make demo     installs into .venv and runs the control scenario
#   make test     installs, with the dev extra, and runs the tests
#   make check    what has to pass before a commit: format, lint, types, tests
#   make clean    removes .venv and all caches; runs/ and docs/ are left alone
#
# Another interpreter: make demo PYTHON=python3.12; on more than two cores: make test TEST_PROCESSES=4

PYTHON ?= python3
TEST_PROCESSES ?= 2
BIN := .venv/bin

.PHONY: demo test check clean
.NOTPARALLEL:

demo: .venv/.installed
	$(BIN)/semcom run control

test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES)

check: .venv/.installed-all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES)

# Editable, so that a changed source file needs no new installation and a run notes its commit.
.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch .venv/.installed $@

# TensorFlow is for the tests of DICHASUS files; without it they are skipped.
.venv/.installed-all: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev,tensorflow]"
	touch .venv/.installed .venv/.installed-dev $@

# A venv without pip (Debian without python3-venv) would look finished the next time.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

clean:
	rm -rf .venv build semcom.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
