#!/usr/bin/env bash
# Installs what Tandem builds with, on Debian 12 (where it is tested) and Ubuntu 24.04. Does nothing if all of it is there.
#   tools/install_deps.sh          what `make chat` and `make test` need
set -euo pipefail

packages=(
  build-essential cmake ninja-build ccache pkg-config git python3
  clang clang-format                   # sanitizers with libFuzzer; layout
  libboost-json1.81-dev libboost1.81-dev libfmt-dev libcli11-dev libpcre2-dev libutf8proc-dev libxxhash-dev libhwy-dev
  libdlpack-dev libgtest-dev libgmock-dev
  libnghttp2-dev libssl-dev libtomlplusplus-dev
)

# Ubuntu 24.04 has a later Boost under another name; earlier ones have no Boost.JSON and a CMake before 3.25.
if grep -q '^ID=ubuntu' /etc/os-release 2>/dev/null; then
  if dpkg --compare-versions "$(. /etc/os-release && echo "$VERSION_ID")" lt 24.04; then
    echo "tools/install_deps.sh: this Ubuntu's CMake and Boost are too old; use Debian 12 or Ubuntu 24.04" >&2
    exit 1
  fi
  packages=("${packages[@]/libboost-json1.81-dev/libboost-json1.83-dev}")
  packages=("${packages[@]/libboost1.81-dev/libboost1.83-dev}")
fi

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install() {
  if ! command -v apt-get >/dev/null; then
    echo "tools/install_deps.sh: no apt-get here; install these by hand: $*" >&2
    exit 1
  fi
  local sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  echo "Installing: $*" >&2
  export DEBIAN_FRONTEND=noninteractive
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] || install "${missing[@]}"

# The sanitizer and fuzzer runtimes come in a package named after clang's version.
runtime="libclang-rt-$(clang++ -dumpversion | cut -d. -f1)-dev"
is_installed "$runtime" || install "$runtime"
