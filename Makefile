# Everything from a checkout: `make serve` and `make test` set up what they need by themselves.
#
# What has been done is remembered by stamp files in .venv, each newer than what it was made from; so a second run
# starts at once, and a changed Rust source means a rebuild. Python sources are used in place.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=

VENV := .venv
BIN := $(VENV)/bin
# As in pyproject.toml's build-system, which an installation from source uses.
MATURIN := maturin>=1.9,<2

RUST_SOURCES := $(shell find src -name '*.rs') Cargo.toml Cargo.lock $(wildcard .cargo/config.toml build.rs)
PYTHON_PATHS := python tests/python tests/soak tools examples $(wildcard benchmarks)

.PHONY: help
help: ## Show this
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'
	@echo
	@echo '  PORT=$(PORT) HOST=$(HOST) (serve)   ARGS="..." (serve, test, bench)   PYTHON=$(PYTHON) (3.11 or newer)'

.PHONY: build
build: $(VENV)/.built ## Make .venv with a release build of Penstock in it

.PHONY: serve
serve: $(VENV)/.built ## Serve the example application, examples/hello
	exec $(BIN)/penstock serve --app-dir examples/hello --host $(HOST) --port $(PORT) --timeout-graceful-shutdown 2 $(ARGS) app:app

.PHONY: test
test: test-rust test-python ## Run every test

.PHONY: test-rust
test-rust: | need-cargo ## Run the tests of the Rust core, which need no Python
	cargo test --no-default-features

.PHONY: test-python
test-python: $(VENV)/.built $(VENV)/.dev ## Run the Python tests against the release build
	$(BIN)/pytest $(ARGS)

.PHONY: lint
lint: $(VENV)/.built $(VENV)/.dev | need-cargo ## Check style, types and lints; a warning is an error
	$(BIN)/ruff check $(PYTHON_PATHS)
	$(BIN)/ruff format --check $(PYTHON_PATHS)
	$(BIN)/pyright
	cargo fmt --all --check
	cargo check --no-default-features
	cargo clippy --all-targets --no-default-features -- -D warnings
	PYO3_PYTHON=$(CURDIR)/$(BIN)/python cargo clippy --all-targets -- -D warnings

.PHONY: fmt
fmt: $(VENV)/.dev | need-cargo ## Put Python and Rust sources in their form
	$(BIN)/ruff check --fix $(PYTHON_PATHS)
	$(BIN)/ruff format $(PYTHON_PATHS)
	cargo fmt --all

.PHONY: docs
docs: $(VENV)/.built $(VENV)/.dev ## Write the pages that are made from the code
	$(BIN)/python tools/generate_docs.py

.PHONY: soak
soak: $(VENV)/.built ## Pass gigabytes and a million connections; memory and descriptors must stay flat
	$(BIN)/python tests/soak/soak.py $(ARGS)

.PHONY: bench
bench: $(VENV)/.built $(VENV)/.bench ## Measure Penstock beside its peers and write a report
	$(BIN)/python benchmarks/bench.py $(ARGS)

.PHONY: bench-connections
bench-connections: $(VENV)/.built $(VENV)/.bench ## Hold up to a million connections and write docs/performance-connections.md
	$(BIN)/python benchmarks/connections.py all

.PHONY: fuzz
fuzz: | need-cargo ## Fuzz parser, server and core, FUZZ_SECONDS each (see fuzz/README.md)
	FUZZ_SECONDS='$(FUZZ_SECONDS)' FUZZ_TARGETS='$(FUZZ_TARGETS)' fuzz/run

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf target $(VENV) .venv-peers python/penstock/_core*.so .pytest_cache .ruff_cache benchmarks/out
	find python tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment stays the interpreter's that made it, until another one is asked for by name.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.executable))' 2>/dev/null),$\
       $(shell $(BIN)/python -c 'import os, sys; print(os.path.realpath(sys._base_executable))' 2>/dev/null))
$(VENV)/.made: anew
endif
endif
.PHONY: anew
anew:

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON): install Python 3.11 or newer, or say PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: Penstock needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version): say PYTHON=python3.12 or so" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments: install python3-venv (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.maturin: $(VENV)/.made
	$(BIN)/python -m pip install --quiet '$(MATURIN)'
	touch $@

$(VENV)/.built: $(RUST_SOURCES) pyproject.toml $(VENV)/.maturin | need-cargo
	VIRTUAL_ENV=$(CURDIR)/$(VENV) PYO3_PYTHON=$(CURDIR)/$(BIN)/python $(BIN)/maturin develop --release
	touch $@

$(VENV)/.bench: benchmarks/requirements.txt $(VENV)/.made
	$(BIN)/python -m pip install --quiet -r $<
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.made
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

.PHONY: need-cargo
need-cargo:
	@command -v cargo >/dev/null || { echo "make: no cargo: install Rust 1.88 or newer, see https://rustup.rs" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "make: no C linker: install a C compiler (Debian: apt-get install build-essential)" >&2; exit 1; }
