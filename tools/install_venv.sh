#!/usr/bin/env bash
# Installs Debian packages that are missing, and a list of Python packages into a virtual environment. Does nothing if all
# of it is there. Prints the environment's Python.
#   tools/install_venv.sh FOLDER REQUIREMENTS DEBIAN_PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
wanted=$2
shift 2

missing=()
for package in "$@"; do
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
