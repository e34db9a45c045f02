# make run: set up, then `dvc repro`. make test: set up, then the whole suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test lint types setup check clean

run: setup
	dvc repro
	@echo "The report: data/report/report.html   The dataset: data/export"

# A process a core, and each on one thread: two that share cores are slower than one after the other.
test: setup
	OMP_NUM_THREADS=1 python -m pytest -n logical --dist loadfile

lint: setup
	ruff check .
	ruff format --check .

types: setup
	mypy

setup: check $(STAMP)

$(STAMP): requirements.lock
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --requirement requirements.lock
	@touch $@

# What pip can't install is named here, before anything is downloaded.
check:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "$(PYTHON): Python 3.11 or newer is needed: apt install python3 (or make PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON): its venv module is missing: apt install python3-venv" >&2; exit 1; }
	@command -v git >/dev/null || { echo "git is missing, and DVC needs it: apt install git" >&2; exit 1; }

clean:
	rm -rf $(VENV)
