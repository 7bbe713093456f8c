# Everything that is run by hand or by CI. `make help` lists it.
#
# `make demo` and `make test` set up what they need by themselves, from a machine with cargo, a C compiler, make,
# python3 and pip. What they fetch goes into .corallite/; the second run finds it there.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-rust test-python build build-debug lint doc readme bench bench-weights bench-links bench-objects fault-long fuzz setup cmake \
        python clean-setup

CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
PRIVATE := $(CURDIR)/.corallite
RELEASE_BIN := $(TARGET)/release/corallite
DEBUG_BIN := $(TARGET)/debug/corallite
TEST_PYTHON := $(PRIVATE)/bin/python

# A cmake that scripts/setup-cmake had to fetch is found here.
export PATH := $(PRIVATE)/tools:$(PATH)

# How long the long runs are; override on the command line.
FAULT_CUTS ?= 200000
FUZZ_SECONDS ?= 60
BENCH_ARGS ?=
BENCH_WEIGHTS_ARGS ?=
BENCH_LINKS_ARGS ?= --dir bench-links-data
BENCH_OBJECTS_ARGS ?= --dir bench-objects-data
PYTEST_ARGS ?=
DEMO_ARGS ?=

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## Real model weights in, listed, verified and out again byte for byte; then a kill -9
	@scripts/setup-python --optional
	@"$$(scripts/setup-python --which)" scripts/demo --bin "$(RELEASE_BIN)" $(DEMO_ARGS)

test: test-rust test-python ## All tests: Rust, its documentation, and against h5py and coral

test-rust: cmake python
	CORALLITE_TEST_PYTHON="$(TEST_PYTHON)" $(CARGO) test --workspace --locked

test-python: build-debug python
	$(CARGO) build --locked --package corallite-weights --example delta
	CORALLITE_BIN="$(DEBUG_BIN)" "$(TEST_PYTHON)" -m pytest -c tests/python/pytest.ini $(PYTEST_ARGS) tests/python

build: cmake ## The release binary, target/release/corallite
	$(CARGO) build --release --locked --package corallite-cli
	@echo "built $(RELEASE_BIN)"

build-debug: cmake
	$(CARGO) build --workspace --locked

lint: cmake ## Format, clippy and documentation, as CI checks them
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

doc: cmake ## The Rust documentation, target/doc
	$(CARGO) doc --workspace --no-deps --locked

readme: build-debug python ## Run the shell blocks of README.md
	"$(TEST_PYTHON)" scripts/check-readme --bin "$(DEBUG_BIN)" --python "$(PRIVATE)/bin"

bench: cmake python ## Against safetensors, h5py and coral, in one run (BENCH_ARGS="--rounds 7 --dir /some/disk")
	$(CARGO) build --release --locked --workspace --bins --examples
	"$(TEST_PYTHON)" scripts/bench-peers --target "$(TARGET)" $(BENCH_ARGS)

bench-weights: cmake python ## The weight codec against ZipNN, BitX, zstd, h5py and coral (BENCH_WEIGHTS_ARGS="--finetune FILE")
	@scripts/setup-weight-peers
	@$(CARGO) build --release --locked --package corallite-cli
	@$(CARGO) build --release --locked --package corallite-weights --example codec
	@"$(TEST_PYTHON)" scripts/bench-weights --target "$(TARGET)" $(BENCH_WEIGHTS_ARGS)

bench-links: cmake ## The links engine against LMDB, redb and fjall (BENCH_LINKS_ARGS="--dir /some/disk/bench")
	cd benches/links && $(CARGO) run --release --locked -- compare $(BENCH_LINKS_ARGS)

bench-objects: cmake ## Objects and files against SQLite, redb and the file system (BENCH_OBJECTS_ARGS="--dir /some/disk/bench")
	cd benches/objects && $(CARGO) run --release --locked -- compare $(BENCH_OBJECTS_ARGS)

fault-long: cmake ## The long simulated-disk run (FAULT_CUTS=200000 cut points)
	CORALLITE_FAULT_CUTS=$(FAULT_CUTS) $(CARGO) test --release --locked --package corallite-file \
	    --features simulated-disk -- --ignored --nocapture

fuzz: cmake ## Each fuzz target for FUZZ_SECONDS=60
	scripts/fuzz $(FUZZ_SECONDS)

setup: cmake python ## Only the set-up: cmake and the private Python

cmake:
	@scripts/setup-cmake

python:
	@scripts/setup-python

clean-setup: ## Throw away what the set-up fetched
	rm -rf "$(PRIVATE)"
