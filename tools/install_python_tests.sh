#!/usr/bin/env bash
# Builds the Python package, without CUDA, and installs it with what its tests need into build/python-venv; what was
# compiled before is not compiled again. Prints the Python to run the tests with.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(tools/install_venv.sh build/python-venv python/tests/requirements.txt python3 python3-venv python3-dev)
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall \
  --config-settings=build-dir=../build/python/tests --config-settings=cmake.define.TANDEM_CUDA=off ./python >&2
echo "$python"
