# `make` lists the targets. All that is needed beforehand is make and Python 3.11 or newer, with its `venv`.

VENV := .venv
BIN := $(VENV)/bin
# The Python that makes the virtual environment: the newest on PATH that is good enough (`make demo PYTHON=...`).
PYTHON ?= $(shell for candidate in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$candidate; break; }; done)
# Compiles the lock files; a contributor's own installation, since nothing else needs it.
UV ?= uv
# Tests to run: `make test TESTS="tests/rpc -k upload"`. Workers: 0 runs them in one process, which debuggers like.
TESTS ?=
WORKERS ?= 2

PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links $(UPGRADE)

# Settings of a person's own pip that would install elsewhere, or something else than the lock says. Where pip
# finds its packages (PIP_INDEX_URL and the like) stays theirs.
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_NO_BINARY PIP_NO_DEPS PIP_REQUIRE_HASHES PIP_CONSTRAINT
unexport PIP_REQUIREMENT PIP_DRY_RUN PIP_PYTHON PYTHONHOME

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install dev demo test campaign attacks fuzz lint protos lock bench bench-full bench-workers bench-replicas tools clean

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: install ## Start both services, issue a certificate, run an integration with it, revoke it
	@$(BIN)/python tools/demo.py

test: dev ## Run the tests (TESTS= narrows, WORKERS= sets the processes)
	@$(PYTEST) -n $(WORKERS) --dist worksteal $(TESTS)

campaign: dev ## Run the tests that take long
	@$(PYTEST) -n $(WORKERS) -m "campaign and not attack" --timeout 900 $(TESTS)

attacks: dev ## Attack a pair of services, and measure legitimate callers beside it
	@$(PYTEST) -n 0 -m attack --timeout 900 $(TESTS)

fuzz: dev ## Run the property tests with many more examples
	@HYPOTHESIS_PROFILE=fuzz $(PYTEST) -n $(WORKERS) --dist worksteal -m hypothesis --timeout 900 $(TESTS)

lint: dev ## Check style, types, the protos, and that the generated code is theirs
	@echo "ruff check"; $(BIN)/ruff check --quiet
	@echo "ruff format"; $(BIN)/ruff format --check --quiet || { $(BIN)/ruff format --diff; exit 1; }
	@echo "mypy"; $(BIN)/mypy
	@echo "generated code"; $(BIN)/python tools/protos.py --check
	@echo "buf lint"; $(BIN)/python tools/protos.py --descriptors $(VENV)/protos.binpb
	@# Without --path, buf would hold Google's protos in the descriptor set to our rules too.
	@$(BIN)/buf lint $(VENV)/protos.binpb --config buf.yaml --path handclasp

protos: dev ## Generate the Python code of protos/
	@$(BIN)/python tools/protos.py

bench: dev ## Measure, beside a bare gRPC echo, and what revocation takes
	@$(BIN)/python -m tests.benchmarks

bench-full: dev ## The same, with a million certificates stored
	@$(BIN)/python -m tests.benchmarks --full

bench-workers: dev ## Measure two workers of the certificate service beside one, on PostgreSQL
	@$(BIN)/python -m tests.benchmarks --workers

bench-replicas: dev ## Measure three certificate services on one PostgreSQL
	@$(BIN)/python -m tests.benchmarks --replicas

install: $(VENV)/.runtime ## Make .venv with what running needs

dev: $(VENV)/.dev ## Make .venv with what testing and developing need, too

tools: $(VENV)/.made ## Install grpcurl into .venv, if Go is there; a test uses it
	@command -v go >/dev/null || { echo "No Go on PATH: grpcurl cannot be built here." >&2; exit 1; }
	GOBIN="$(CURDIR)/$(BIN)" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3

lock: ## Compile the lock files with uv (UPGRADE=--upgrade takes newer versions)
	@command -v $(UV) >/dev/null || { echo "The lock files are compiled by uv: pip install uv" >&2; exit 1; }
	$(COMPILE) pyproject.toml --extra postgresql --group build --output-file requirements/runtime.lock
	$(COMPILE) pyproject.toml --extra postgresql --group dev --constraint requirements/runtime.lock \
		--output-file requirements/dev.lock

clean: ## Remove .venv and what tools left behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv on PATH. Install one (on Debian and Ubuntu:" \
		"python3 and python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

# The stamps say which lock is installed, so that nothing happens twice and a changed lock is installed again.
# Two steps, because pip refuses to install the project itself when every package needs a hash.
$(VENV)/.runtime: $(VENV)/.made requirements/runtime.lock pyproject.toml
	@echo "Installing requirements/runtime.lock into $(VENV); the first time takes a minute"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/runtime.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# dev.lock holds the whole of runtime.lock.
$(VENV)/.dev: $(VENV)/.made requirements/dev.lock pyproject.toml
	@echo "Installing requirements/dev.lock into $(VENV); the first time takes a minute or two"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.runtime
