# The front door. Everything here is a shortcut; HACKING.md has the long forms.
MAKEFLAGS += --no-print-directory
BUILD := build/release
JOBS  := $(shell nproc)

.PHONY: help deps build chat test check asan tsan format clean

help:
	@echo "make chat    build, and talk to the model in the repository"
	@echo "make build   build $(BUILD)/src/cli/tandem"
	@echo "make test    everything CI runs: checks, unit and golden tests, sanitizers, fuzzers"
	@echo "make check   the release build's tests only"
	@echo "make format  lay the code out with clang-format"

deps:
	@tools/install_deps.sh

build: deps
	@cmake --preset release --log-level=WARNING
	@cmake --build $(BUILD) -j $(JOBS)

chat: build
	@$(BUILD)/src/cli/tandem chat

test: deps
	@tools/run_tests.sh

check: build
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

format: deps
	@git ls-files -c -o --exclude-standard '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format -i

clean:
	@rm -rf build
