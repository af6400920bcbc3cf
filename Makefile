# Short names for what the project does. `make test` and `make demo` need Python 3.11 or later and make, nothing else.

BIN := .venv/bin
INSTALLED := .venv/.installed
IS_NEW_ENOUGH := -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p $(IS_NEW_ENOUGH) 2>/dev/null && echo $$p && break; done)

JOBS ?= 3     # unit tests at once: many wait for something
SEEDS ?= 100  # worlds of `make sim`
FIRST ?= 1    # the first of them
MINUTES ?= 30  # of `make faults-long`
E2E_JOBS ?= 3 # clusters at once: each is several daemons, which mostly wait
MUTATION_JOBS ?= 2 # mistakes at once: each runs a room's tests

# Every daemon and command that a test starts would compile its modules again: half of what a start costs.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## say what there is
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/' | expand -t 14

# The environment is made, or brought up to date, whenever pyproject.toml is newer than the last install.
$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "ravel needs Python 3.11 or later with venv; none was found, name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(BIN)/python $(IS_NEW_ENOUGH) 2>/dev/null || { echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv --clear .venv; }
	@echo "installing into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.PHONY: check fmt lint types contracts test unit sim sim-bugs mutation e2e faults faults-long demo bench protos completions pictures clean

check: lint types contracts ## lint, types and import contracts: seconds

fmt: $(INSTALLED) ## format, and mend what lint can mend
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

lint: $(INSTALLED) ## ruff
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types: $(INSTALLED) ## mypy --strict
	@$(BIN)/mypy

contracts: $(INSTALLED) ## who imports whom
	@$(BIN)/python -m pytest -q tests/arch

test: lint types unit e2e ## lint, types and all tests

unit: $(INSTALLED) ## all tests that start no daemons
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "not e2e and not faults"

sim: $(INSTALLED) ## whole clusters on virtual time, each from one seed: make sim SEEDS=1000 (FIRST=7 SEEDS=1 repeats seed 7)
	@$(BIN)/python -m tests.simulation.run --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS)
	@$(BIN)/python -m tests.simulation.run --moves --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS)
	@$(BIN)/python -m tests.simulation.run --disasters --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS)

sim-bugs: $(INSTALLED) ## plant every known kind of bug, and see that the simulator finds it
	@$(BIN)/python -m tests.simulation.run --bugs --jobs $(JOBS)

mutation: $(INSTALLED) ## make hand-chosen mistakes in copies of the source; the tests must notice: make mutation ROOM=server
	@$(BIN)/python -m tests.mutation.run --jobs $(MUTATION_JOBS) $(if $(ROOM),--room $(ROOM))

e2e: $(INSTALLED) ## real daemons, real sockets, real kills
	@$(BIN)/python -m pytest -q -n $(E2E_JOBS) --dist worksteal -m e2e

faults-long: $(INSTALLED) ## faults of all kinds mixed at random, restored and copied directories among them: make faults-long MINUTES=30
	@$(BIN)/python -m tests.faults.mixed --minutes $(MINUTES) --first $(FIRST)

faults: $(INSTALLED) ## kills, stops, cuts, bad disks: every fault on real daemons, each with a checked history; a table at the end
	@$(BIN)/python -m pytest -q -n $(E2E_JOBS) --dist worksteal tests/faults

demo: $(INSTALLED) ## three daemons, a killed leader; then clusters with an admin, one more under writers: nothing lost, one minute
	@$(BIN)/python tests/e2e/demo.py

bench: $(INSTALLED) ## micro-benchmarks and the whole put path
	@set -e; for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python -m "tests.benchmarks.$$(basename $$bench .py)"; done

protos: $(INSTALLED) ## make the stubs again from the .proto files
	@$(BIN)/python tests/protos/generate.py

completions: $(INSTALLED) ## make the shell completions again, and the table that answers Tab
	@$(BIN)/python -m tests.ravelctl.completion.tab_table >ravelctl/completion/tab_table.new && mv ravelctl/completion/tab_table.new ravelctl/completion/tab_table.py
	@$(BIN)/ravelctl completion bash >completions/ravelctl.bash
	@$(BIN)/ravelctl completion zsh >completions/_ravelctl
	@$(BIN)/ravelctl completion fish >completions/ravelctl.fish

pictures: $(INSTALLED) ## make the pictures of docs/top.md again, from the recorded session of a real cluster
	@$(BIN)/python -m tests.ravelctl.dashboard.pictures

clean: ## caches and builds; .venv stays
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
