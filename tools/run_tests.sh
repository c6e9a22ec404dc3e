#!/usr/bin/env bash
# Everything CI runs, in the order that fails fastest: arrows and layout, the release build's tests, real clients against
# its server, the Python package, the sanitizer builds, the fuzzers for a fixed time each.
#   FUZZ_SECONDS=N   makes the fuzzers run longer (default 6)
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=$(nproc)
fuzz_seconds=${FUZZ_SECONDS:-6}

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

step "include arrows and layout"
python3 tools/check_layers.py
python3 tools/check_layers_test.py
git ls-files '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror

step "release build and tests"
cmake --preset release --log-level=WARNING >/dev/null
cmake --build build/release -j "$jobs"
ctest --test-dir build/release -j "$jobs" --output-on-failure

step "clients"
client_python=$(tools/install_client_tests.sh)
"$client_python" -m pytest -q -p no:cacheprovider --durations=5 tests/clients

step "python"
python=$(tools/install_python_tests.sh)
"$python" -m pytest -q -p no:cacheprovider python/tests

step "address and undefined-behaviour sanitizers"
cmake --preset asan --log-level=WARNING >/dev/null
cmake --build build/asan -j "$jobs"
ctest --test-dir build/asan -j "$jobs" --output-on-failure

step "fuzzers, $fuzz_seconds s each"
run_fuzzer() {
  local fuzzer=$1 name corpus seeds log
  name=$(basename "$fuzzer")
  corpus=build/asan/corpus/${name#fuzz_} seeds=tests/fuzz/corpus/${name#fuzz_} log=build/asan/$name.log
  mkdir -p "$corpus"
  if ! "$fuzzer" -max_total_time="$fuzz_seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
       -artifact_prefix="build/asan/$name-" "$corpus" $([ -d "$seeds" ] && echo "$seeds") >"$log" 2>&1; then
    tail -40 "$log"
    echo "$name failed: the input is in build/asan/$name-*" >&2
    return 1
  fi
  printf '%s: %s runs\n' "$name" "$(sed -n 's/stat::number_of_executed_units: *//p' "$log")"
}
export -f run_fuzzer
export fuzz_seconds
find build/asan/tests/fuzz -maxdepth 1 -name 'fuzz_*' -type f -executable -print0 | sort -z |
  xargs -0 -r -n 1 -P "$jobs" bash -c 'run_fuzzer "$1"' run_fuzzer

step "thread sanitizer"
cmake --preset tsan --log-level=WARNING >/dev/null
cmake --build build/tsan -j "$jobs" --target test_base test_engine test_sim test_kernels test_server test_replay
# Threads meet in the kernels' tests of bits and of threads; those left out are arithmetic, and slow here.
GTEST_FILTER='-*FusedAttentionCases*:FusedAttentionPlan*:LinearAmxEmulated*:Linear.MatchesDoublePrecision:Roofline*' \
  ctest --test-dir build/tsan -j "$jobs" --output-on-failure -R '^(base|engine|sim|kernels|server)$'
GTEST_FILTER='*Threads*:*Readers*' ctest --test-dir build/tsan --output-on-failure -R '^replay$'

step "done"
