# Two commands on a fresh machine (Debian or Ubuntu with Python >= 3.11, venv and make):  make repro   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
# One test process per core, at most 4, each with one thread for arithmetic; the tests of a file share a process. If a
# process crashes, the run ends: pytest-xdist waits for ever after it.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder \
	--max-worker-restart=0 --durations=10

.PHONY: repro compare test lint check slow docs format clean help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "segpress needs Python 3.11 or newer to train; this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

repro: $(STAMP)  ## install if need be, run the pipeline, print the result table
	@$(RUN) dvc repro; status=$$?; $(RUN) segpress show || true; exit $$status

compare: $(STAMP)  ## every loss of `compare` in params.yaml on one student (hours; interrupting and starting again continues)
	@$(RUN) segpress compare && $(RUN) dvc repro report

test: $(STAMP)  ## install if need be, run the default tests
	$(TESTS)

slow: $(STAMP)  ## the tests that take minutes: the whole graph, every architecture
	$(TESTS) -m slow

lint: $(STAMP)  ## linter, formatter, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## what a change must pass

docs: $(STAMP)  ## the pages as a site, in build/site; a broken link is an error
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/build.py

format: $(STAMP)  ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove artifacts, the report and the site, keep the environment and the results
	rm -rf artifacts report build
