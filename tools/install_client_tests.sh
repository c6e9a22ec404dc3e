#!/usr/bin/env bash
# Installs the programs and Python packages that tests/clients runs, the latter into build/clients-venv. Does nothing if
# all of it is there. Prints the Python to run the tests with.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/install_venv.sh build/clients-venv tests/clients/requirements.txt \
  curl nghttp2-client openssl iproute2 python3 python3-venv chromium chromium-driver
