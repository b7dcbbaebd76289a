# The one task runner. On a fresh machine `make demo` and `make test` do all the set-up, in .venv/.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
WANTED := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3; do \
	if "$$name" -c '$(WANTED)' 2>/dev/null; then echo "$$name"; break; fi; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
AUDIT := $(VENV)/audit
CARGO := cargo
export PATH := $(abspath $(BIN)):$(PATH):$(HOME)/.cargo/bin

MODULE := src/headrace/_native/libheadrace_envoy.so
MODULE_SOURCES := native/Cargo.toml native/Cargo.lock $(wildcard native/*/Cargo.toml native/*/build.rs native/*/src/*.rs native/*/src/*/*.rs)
PYTHON_FILES := src tests benchmarks setup.py

# A compiler that came after the first installation: build the module now.
NOW_BUILDABLE := $(if $(wildcard $(MODULE)),,$(shell PATH="$$PATH:$$HOME/.cargo/bin" command -v $(CARGO)))

.PHONY: help demo test lint native-test bench soak proto goldens docs format lock audit install dev clean build-module

help: ## Show the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: install ## Install, then run the canary example with real requests (about two minutes, ends by itself).
	headrace demo

# A mesh of real processes on a shared machine may meet a deadline too late: a failed test gets one more try, which the
# summary shows as RERUN. `make test RERUNS=0` gives none. Most tests wait for processes: WORKERS of them share the cores,
# a file's tests in one; `make test WORKERS=0` runs them one after another.
RERUNS ?= 1
WORKERS ?= 3

test: dev lint native-test ## Install, then lint, types, import rules, Rust checks and all tests.
	pytest --reruns $(RERUNS) -rsR -n $(WORKERS) --dist loadfile

lint: dev ## Style, types and import rules.
	ruff check $(PYTHON_FILES)
	ruff format --check $(PYTHON_FILES)
	mypy
	lint-imports

native-test: ## Checks of the Rust module.
	@if command -v $(CARGO) >/dev/null; then \
		cd native && $(CARGO) fmt --check \
		&& $(CARGO) clippy --locked --offline --quiet --all-targets -- -D warnings \
		&& $(CARGO) test --locked --offline --quiet \
		&& cd python && $(CARGO) fmt --check \
		&& if $(CARGO) --version | awk '{split($$2, v, "."); exit v[1] == 1 && v[2] < 83}'; then \
			$(CARGO) clippy --quiet -- -D warnings; \
		else echo "SKIPPED: clippy of native/python (it needs Rust 1.83 or newer)"; fi; \
	else echo "SKIPPED: checks of the Rust module (no cargo on this machine; apt-get install cargo rust-clippy rustfmt)"; fi

soak: dev ## Ten minutes at 70 % load with churn; MINUTES=30 for longer.
	python benchmarks/soak.py --minutes $(or $(MINUTES),10)

bench: dev ## Measure everything anew into benchmarks/RESULTS.md (about ten minutes; leave the machine alone meanwhile).
	for name in mesh_overhead mesh_overhead_parts change_latency startup check_many; do python benchmarks/$$name.py --write; done
	python benchmarks/record.py "Answers of the command line" cli_start.py
	python benchmarks/record.py "Push to acknowledgement" xds_push.py
	python benchmarks/record.py "Control plane with 1,000 services and 500 proxies" xds_scale.py

proto: dev ## Generate the code of the agent API from proto/.
	python -m grpc_tools.protoc -I proto --python_out=src --grpc_python_out=src --mypy_out=src --mypy_grpc_out=src \
		proto/headrace/wire/agent_v1.proto

goldens: dev ## Write the expected resources of tests/goldens anew; look at the difference before you commit it.
	UPDATE_GOLDENS=1 pytest tests/goldens

docs: dev ## Write docs/reference/cli.md and coverage.md anew from the commands' own help and the documents' models.
	python tests/unit/house/cli_reference.py docs/reference/cli.md
	python tests/unit/house/coverage_reference.py docs/reference/coverage.md

format: dev ## Format all code.
	ruff check --fix --select I $(PYTHON_FILES)
	ruff format $(PYTHON_FILES)
	if command -v $(CARGO) >/dev/null; then cd native && $(CARGO) fmt; fi

audit: dev ## Known vulnerabilities of what requirements*.lock name (asks the package index's advisories).
	@test -x $(AUDIT)/bin/pip-audit || { $(BIN)/python -m venv $(AUDIT) && \
		$(AUDIT)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-audit.lock; }
	@$(AUDIT)/bin/python .ci/audit.py requirements.lock requirements-dev.lock

lock: dev ## Resolve the dependencies anew into requirements*.lock.
	$(PIP) install --quiet uv
	uv pip compile $(LOCKING) --all-extras pyproject.toml requirements-build.in -o requirements-dev.lock
	uv pip compile $(LOCKING) --extra models -c requirements-dev.lock pyproject.toml requirements-build.in -o requirements.lock
	uv pip compile $(LOCKING) requirements-audit.in -o requirements-audit.lock

LOCKING := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links

install: $(VENV)/.installed ## Install headrace, its models and the native module into .venv.

dev: $(VENV)/.dev

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "headrace needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)," >&2; \
		echo "or name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml setup.py requirements.lock $(MODULE_SOURCES) $(if $(NOW_BUILDABLE),build-module) | $(BIN)/python
	@command -v $(CARGO) >/dev/null || echo "no cargo on this machine: installing without the native module"
	@echo "installing into $(VENV) (a minute or two the first time)"
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.installed
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

build-module:

clean: ## Remove everything that was built, .venv too.
	rm -rf $(VENV) build dist native/target native/python/target src/headrace/_native/*.so src/*.egg-info .*_cache .hypothesis
