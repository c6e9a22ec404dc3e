# The front door. Everything here is a shortcut; HACKING.md has the long forms.
MAKEFLAGS += --no-print-directory
BUILD := build/release
JOBS  := $(shell nproc)

.PHONY: help deps configure build chat serve test check format clean

help:
	@echo "make chat    build, and talk to the model in the repository"
	@echo "make serve   build, and serve that model on 127.0.0.1:8000"
	@echo "make build   build $(BUILD)/src/cli/tandem"
	@echo "make test    everything CI runs: checks, unit and golden tests, sanitizers, fuzzers"
	@echo "make check   the release build's tests only"
	@echo "make format  lay the code out with clang-format"

deps:
	@tools/install_deps.sh

configure: deps
	@cmake --preset release --log-level=WARNING >/dev/null

build: configure
	@cmake --build $(BUILD) -j $(JOBS) --target tandem

chat: build
	@$(BUILD)/src/cli/tandem chat

serve: build
	@$(BUILD)/src/cli/tandem serve

test: deps
	@tools/run_tests.sh

check: configure
	@cmake --build $(BUILD) -j $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure

format: deps
	@git ls-files -c -o --exclude-standard '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format -i

clean:
	@rm -rf build
