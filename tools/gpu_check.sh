#!/usr/bin/env bash
# All GPU tests and the benchmarks' smoke sizes, in two halves, since the machine that compiles may have no GPU and the one
# with the GPU none of the libraries (it needs Python with torch, pytest and httpx, and openssl and curl):
#   tools/gpu_check.sh pack [PYTHON]   here: builds, and gathers what runs into build/gpu_check.tar.xz (default: python3;
#                                      give the interpreter whose version the other machine has)
#   tools/gpu_check.sh run [OUT]       there, from the repository's root, with that file carried along: runs it all, logs to
#                                      OUT (default build/gpu_check/logs), prints a table, fails if anything did
#   tools/gpu_check.sh sanitize [OUT]  there: memcheck and racecheck over the kernels' tests, another table
#   tools/gpu_check.sh unpack          there: only unpacks, to build/gpu_check
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/gpu_check

pack() {
  local python=${1:-python3}
  cmake --preset release -DTANDEM_CUDA=on --log-level=WARNING >/dev/null
  local tests=(device kernels ops replay golden)
  local benches=(linear_few_rows linear_cuda_many attention_decode attention_layer_train soft_read_cuda choose_tokens)
  cmake --build build/release -j "$(nproc)" --target tandem "${tests[@]/#/test_}" "${benches[@]/#/bench_}"
  rm -rf "$folder" && mkdir -p "$folder/lib"
  install -s build/release/src/cli/tandem "${tests[@]/#/build/release/tests/test_}" \
    "${benches[@]/#/build/release/bench/bench_}" "$folder/"
  for binary in "$folder"/*; do
    [ -f "$binary" ] || continue
    ldd "$binary" | sed -n 's/.*=> \(.*\/lib\(hwy\|gtest\|gmock\|fmt\)[^ ]*\) .*/\1/p' | xargs -r cp -u -t "$folder/lib"
  done
  tools/build_python_for.sh "$python" "$folder/python" TANDEM_CUDA=on
  grep -E '^(h2|hyperframe|hpack)==' tests/clients/requirements.txt |
    xargs "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$folder/python"
  git rev-parse --short HEAD >"$folder/commit"
  # The same kernels are in most of the programs: a window over all of them makes the file a quarter as large.
  tar -C build -cf - gpu_check | xz --lzma2=preset=2,dict=192MiB >"$folder.tar.xz"
  du -sh "$folder.tar.xz"
}

# shards COUNT SECONDS COMMAND...: the tests of a binary, spread over so many processes, which are killed after so long. The
# references that they compare with are computed by one CPU thread each, and take most of the time.
shards() {
  local count=$1 limit=$2 failed=0 output pids=()
  shift 2
  output=$(mktemp -d)
  for ((i = 0; i < count; ++i)); do
    GTEST_TOTAL_SHARDS=$count GTEST_SHARD_INDEX=$i timeout -s KILL "$limit" "$@" >"$output/$i" 2>&1 &
    pids+=($!)
  done
  for ((i = 0; i < count; ++i)); do
    wait "${pids[i]}" && continue
    failed=1
    echo "process $i of $count failed, or was killed in:" "$(grep '^\[ RUN ' "$output/$i" | tail -1)" >>"$output/$i"
  done
  cat "$output"/*
  echo "$(sed -n 's/.*PASSED  \] \([0-9]*\) test.*/\1/p' "$output"/* | awk "{n += \$1} END {print n + 0}") tests passed, in $count processes"
  rm -r "$output"
  return "$failed"
}

fail() {
  echo "tools/gpu_check.sh: $1" >&2
  exit 1
}

unpack() {
  [ -f "$folder.tar.xz" ] || fail "no $folder.tar.xz: make it with tools/gpu_check.sh pack where there is a compiler, and carry it along"
  rm -rf "$folder" && tar -C build -xf "$folder.tar.xz"
}

need_gpu() {
  nvidia-smi -L >/dev/null 2>&1 || fail "no GPU: nvidia-smi -L finds none on this machine"
}

sanitize() {
  need_gpu
  unpack
  export LD_LIBRARY_PATH=$PWD/$folder/lib TANDEM_SOURCE_DIR=$PWD
  python3 tools/sanitize_kernels.py "$folder" "${1:-$folder/logs}"
}

run() {
  local logs=${1:-$folder/logs} failed=0
  need_gpu
  unpack
  mkdir -p "$logs"
  : >"$logs/table"
  export LD_LIBRARY_PATH=$PWD/$folder/lib PYTHONPATH=$PWD/$folder/python PYTHONUNBUFFERED=1
  TANDEM_COMMIT=$(cat "$folder/commit")
  export TANDEM_COMMIT
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader

  step() {  # step NAME SECONDS COMMAND...: the command's output goes to a log, its last line to the table
    local name=$1 limit=$2 log=$logs/$1.log start=$SECONDS verdict=ok
    shift 2
    timeout -s KILL "$limit" "$@" >"$log" 2>&1 || verdict=FAILED
    printf '%-18s %-7s %4d s  %s\n' "$name" "$verdict" $((SECONDS - start)) "$(grep -v '^$' "$log" | tail -1 | cut -c1-90)" |
      tee -a "$logs/table"
    [ "$verdict" = ok ]
  }
  # The tests all at once, since they wait for references that the CPU computes; then one benchmark after another.
  export TANDEM_SOURCE_DIR=$PWD
  local pids=() pid
  tests() { step "$@" & pids+=($!); }
  tests device 60 "$folder/test_device" --gtest_brief=1
  tests golden 180 tools/gpu_check.sh shards 3 170 "$folder/test_golden" --gtest_filter='*cuda*'
  tests kernels 240 tools/gpu_check.sh shards 8 230 "$folder/test_kernels" \
    --gtest_filter='*Sm80*:*Sm90*:*Cuda*:*cuda*'
  tests ops 120 tools/gpu_check.sh shards 3 110 "$folder/test_ops" --gtest_filter='*Cuda*'
  tests replay 120 "$folder/test_replay" --gtest_brief=1 --gtest_filter='*Cuda*'
  tests python 200 python3 -m pytest -q -p no:cacheprovider python/tests
  # One test needs ss.
  tests clients 120 env TANDEM="$folder/tandem" TANDEM_TEST_DEVICE=cuda \
    python3 -m pytest -q -p no:cacheprovider --deselect tests/clients/test_lifecycle.py::test_exactly_our_ports \
    tests/clients/test_{identity,streams,lifecycle}.py
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done

  bench() { step "$@" || failed=1; }
  bench engine-bench 60 python3 bench/engine_gpu.py --tandem "$folder/tandem" --smoke
  bench serve-bench 60 python3 bench/serve/streams.py --tandem "$folder/tandem" --clients 1,8 --output-tokens 32 --device cuda
  bench few-rows-bench 60 "$folder/bench_linear_few_rows" --smoke
  bench experts-bench 60 "$folder/bench_linear_few_rows" --smoke --experts
  bench many-rows-bench 60 "$folder/bench_linear_cuda_many" --smoke
  bench decode-bench 60 "$folder/bench_attention_decode" 4,1,1024,32,8,128,32 1,512,2048,32,8,128,32
  bench layer-bench 60 "$folder/bench_attention_layer_train" --smoke
  bench soft-read-bench 60 "$folder/bench_soft_read_cuda" --smoke
  bench choose-bench 60 "$folder/bench_choose_tokens" --smoke
  bench attention-bench 90 python3 bench/micro/attention.py --quick --json "$logs/attention.jsonl"
  bench attention-error 60 python3 bench/micro/attention.py --check
  # Once more in short: of a long run's output, callers may see no more than the end.
  printf '\n%s\n' "$(cut -c1-33 "$logs/table" | paste - - - | sed 's/ *\t/   /g')"
  return "$failed"
}

case ${1:-} in
  pack) shift && pack "$@" ;;
  run) shift && run "$@" ;;
  sanitize) shift && sanitize "$@" ;;
  unpack) unpack ;;
  shards) shift && shards "$@" ;;  # used by run
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
