#!/usr/bin/env bash
# Installs the programs and Python packages that tests/clients runs, the latter into build/clients-venv. Does nothing if
# all of it is there. Prints the Python to run the tests with.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(curl nghttp2-client openssl iproute2 python3 python3-venv chromium chromium-driver)
venv=build/clients-venv
wanted=tests/clients/requirements.txt

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
echo "$venv/bin/python"
