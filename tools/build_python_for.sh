#!/usr/bin/env bash
# Builds the Python package for PYTHON into the folder OUTDIR, which can then be copied to another machine with the same
# version of Python and put on its PYTHONPATH. PYTHON needs the packages nanobind and scikit-build-core.
#   tools/build_python_for.sh PYTHON OUTDIR [NAME=VALUE ...]     settings for CMake, such as TANDEM_CUDA=on
set -euo pipefail
python=$1
out=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/.."
"$python" -c 'import nanobind, scikit_build_core' 2>/dev/null || {
  echo "tools/build_python_for.sh: $python lacks them: $python -m pip install nanobind scikit-build-core" >&2
  exit 1
}
build=build/python/for-$("$python" -c 'import sys; print(sys.implementation.cache_tag)')

settings=("--config-settings=build-dir=../$build")
for setting in "$@"; do settings+=("--config-settings=cmake.define.$setting"); done
rm -rf "$out/tandem" "$out"/tandem-*.dist-info
"$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-build-isolation \
  --target "$out" "${settings[@]}" ./python
echo "PYTHONPATH=$out"
