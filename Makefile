# `make demo` and `make test` install what they need into .venv; `make clean` takes it all away.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Most of a test's time is waiting: for a server to start, for a deadline to pass. The clocks and
# processes are real, so what fails beside others is tried once more, alone: both runs are shown, and
# what fails twice is a fault. In the order of the rooms, not of the files' counts of tests: those
# of one long test each would all be left for the end.
JOBS ?= 4

.PHONY: demo test lint bench bench-database soak clean

demo: $(VENV)/.installed
	@$(BIN)/autopay demo $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS) || \
		$(BIN)/pytest --last-failed --last-failed-no-failures none $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench.wire

bench-database: $(VENV)/.installed-dev
	$(BIN)/python -m bench.million $(ARGS)

SEED ?= $(shell date +%s)

# The campaign (`make soak ARGS='--minutes 60'`), its mutants, the model and the simulator at length
# (`SEED=…` for the same again), then memory and descriptors.
soak: $(VENV)/.installed-dev
	$(BIN)/python -m bench.endure $(ARGS)
	$(BIN)/python -m bench.mutants
	$(BIN)/python -m tests.simulator --runs 5000 --seed $(SEED)
	SOAK=1 $(BIN)/pytest tests/model tests/simulator --hypothesis-seed=$(SEED)
	$(BIN)/python -m bench.soak

# As root, PostgreSQL's binaries are copied to /var/cache/autopay where its account can't reach them.
clean:
	@[ "$$(id -u)" != 0 ] || rm -rf /var/cache/autopay
	rm -rf $(VENV) dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "autopay needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing autopay and what it needs into $(VENV) (about half a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing autopay and its test peers into $(VENV) (about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed
