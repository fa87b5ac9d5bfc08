# `make repro` and `make test` work on a bare machine with Python 3.11 or newer: each makes .venv and installs the pins.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(BIN):$(PATH)

.PHONY: install repro test faults lint types bench docs notebook fuzz audit lock clean

install: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)

repro: $(READY)
	dvc repro

test: $(READY)
	python -m pytest -q -n auto --dist loadgroup --max-worker-restart=0

# Ten times the trials of `make test`: every stage killed again and again, 48 full disks; four minutes on two cores.
faults: $(READY)
	BULKPROBE_FAULT_TRIALS=120 python -m pytest -q -n auto --dist loadgroup --max-worker-restart=0 tests/faults

lint: $(READY)
	ruff check .
	ruff format --check .
	codespell

types: $(READY)
	mypy

bench: $(READY)
	for file in benchmarks/*.py; do python $$file --quick || exit 1; done

docs: $(READY)
	mkdocs build --strict

# Runs the example again and stores what it shows.
notebook: $(READY)
	python tests/notebook_runner.py docs/example.ipynb

# Some thousand damaged files for each reader, other ones every time; `make test` runs a few that are always the same.
EXAMPLES ?= 1000
fuzz: $(READY)
	BULKPROBE_FUZZ_EXAMPLES=$(EXAMPLES) python -m pytest -q -n auto -o faulthandler_exit_on_timeout=false tests/fuzz

audit: $(READY)
	python .ci/audit.py

# Pin what pyproject.toml allows today. Hashes are left out on purpose: torch has one version and several builds.
lock:
	rm -rf .lockenv && $(PYTHON) -m venv .lockenv
	.lockenv/bin/python -m pip install --quiet torch==2.13.0
	.lockenv/bin/python -m pip install --quiet '.[dev]'
	.lockenv/bin/python -m pip freeze --exclude bulkprobe | sed 's/^\(torch==[0-9.]*\)+.*/\1/' | grep -v '^nvidia-\|^triton' > requirements.lock
	rm -rf .lockenv

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
