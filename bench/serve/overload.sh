#!/usr/bin/env bash
# Starts a server on the model in the repository, and puts ten times its sustainable load on it (overload.cc).
#   bench/serve/overload.sh [BUILD_FOLDER] [flags of bench_overload]      SERVE_FLAGS="--sequences 4 ..." sizes the server
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build/release}
shift || true
port=${PORT:-18080}
# shellcheck disable=SC2086
"$build/src/cli/tandem" serve --port "$port" --control off --max-connections-per-peer 100000 \
  --max-connections 100000 ${SERVE_FLAGS:---sequences 4 --queue-requests 0} &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
for _ in $(seq 100); do
  curl -sf "http://127.0.0.1:$port/readyz" >/dev/null && break
  sleep 0.1
done
"$build/bench/bench_overload" --port "$port" "$@"
