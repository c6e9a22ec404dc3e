#!/usr/bin/env bash
# Builds the Python package, without CUDA, and installs it with what its tests need into build/python-venv; what was
# compiled before is not compiled again. Prints the Python to run the tests with.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(python3 python3-venv python3-dev)
venv=build/python-venv
wanted=python/tests/requirements.txt

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  echo "Installing: ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# A copy of the list is left behind once all of it is installed.
if ! cmp -s "$wanted" "$venv/installed.txt"; then
  echo "Installing the Python packages of $wanted" >&2
  rm -rf "$venv"
  /usr/bin/python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted" >&2
  cp "$wanted" "$venv/installed.txt"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall \
  --config-settings=build-dir=../build/python/tests --config-settings=cmake.define.TANDEM_CUDA=off ./python >&2
echo "$venv/bin/python"
