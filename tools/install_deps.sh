#!/usr/bin/env bash
# Installs what Tandem builds with, on Debian 12 and Ubuntu 22.04 or later. Does nothing if all of it is there.
#   tools/install_deps.sh          what `make chat` and `make test` need
set -euo pipefail

packages=(
  build-essential cmake ninja-build ccache pkg-config git python3
  clang clang-format                   # sanitizers with libFuzzer; layout
  libboost-json1.81-dev libboost1.81-dev libfmt-dev libcli11-dev libpcre2-dev libutf8proc-dev libxxhash-dev libhwy-dev
  libdlpack-dev libgtest-dev libgmock-dev
)

# Ubuntu 22.04 has an older Boost under another name; any Boost with JSON (1.75 or later) will do there.
if ! apt-cache show libboost-json1.81-dev >/dev/null 2>&1 && grep -qi ubuntu /etc/os-release 2>/dev/null; then
  packages=("${packages[@]/libboost-json1.81-dev/libboost-json-dev}")
  packages=("${packages[@]/libboost1.81-dev/libboost-dev}")
fi

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
# The sanitizer and fuzzer runtimes come in a package named after clang's version.
if command -v clang++ >/dev/null; then
  runtime="libclang-rt-$(clang++ -dumpversion | cut -d. -f1)-dev"
  is_installed "$runtime" || missing+=("$runtime")
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "tools/install_deps.sh: no apt-get here; install these by hand: ${missing[*]}" >&2
  exit 1
fi
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "Installing: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
if command -v clang++ >/dev/null; then
  runtime="libclang-rt-$(clang++ -dumpversion | cut -d. -f1)-dev"
  is_installed "$runtime" || "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$runtime" >/dev/null
fi
