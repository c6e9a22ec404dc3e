#!/usr/bin/env bash
# Builds the Python package for PYTHON into the folder OUTDIR, which can then be copied to another machine with the same
# version of Python and put on its PYTHONPATH. PYTHON needs the packages nanobind and scikit-build-core.
#   tools/build_python_for.sh PYTHON OUTDIR [TANDEM_CUDA=on|off|auto]
set -euo pipefail
python=$1
out=$(realpath -m "$2")
cuda=${3:-auto}
cd "$(dirname "$0")/.."
build=build/python/$("$python" -c 'import sys; print(sys.implementation.cache_tag)')-cuda-$cuda

rm -rf "$out/tandem" "$out"/tandem-*.dist-info
"$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-build-isolation \
  --target "$out" --config-settings=build-dir="../$build" --config-settings=cmake.define.TANDEM_CUDA="$cuda" ./python
echo "PYTHONPATH=$out"
