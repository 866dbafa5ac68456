#!/usr/bin/env bash
# Installs the Debian 12 packages that kvferry needs, those that are missing only.
#   scripts/install-deps.sh build   to build and run the program
#   scripts/install-deps.sh test    the same and what ./test.sh needs
# Uses apt-get directly when root, through sudo otherwise; without either it prints the command and
# stops. Never removes a package. KVFERRY_SKIP_INSTALL=1 skips it all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

build_packages=(
  g++ cmake ninja-build ccache mold pkg-config        # tools
  libboost1.81-dev libboost-json1.81-dev              # Asio, Beast, JSON
  libprotobuf-dev protobuf-compiler                   # messages of the control plane
  libucx-dev                                          # transport
  libdnnl-dev                                         # matrix products
  prometheus-cpp-dev libcurl4-openssl-dev zlib1g-dev  # metrics
  libspdlog-dev libfmt-dev libyaml-cpp-dev libcli11-dev
  libxxhash-dev libzstd-dev libpcre2-dev libutf8proc-dev libssl-dev
)
test_packages=(libgtest-dev libgmock-dev librapidcheck-dev clang-format-14
  clang-14 libclang-rt-14-dev)  # fuzz targets

case "${1:-build}" in
  build) packages=("${build_packages[@]}") ;;
  test) packages=("${build_packages[@]}" "${test_packages[@]}") ;;
  *) die "unknown set of packages '$1'" "say: $0 build|test" ;;
esac

if [ "${KVFERRY_SKIP_INSTALL:-0}" = 1 ]; then
  note "KVFERRY_SKIP_INSTALL=1: not looking at packages"
  exit 0
fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  die "this is not a Debian system" "Install what these Debian 12 packages hold, then set" \
    "KVFERRY_SKIP_INSTALL=1:" "${packages[*]}"
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  if [ "$status" != installed ]; then missing+=("$package"); fi
done
if [ "${#missing[@]}" -eq 0 ]; then
  note "all Debian packages are installed"
  exit 0
fi

say "installing ${#missing[@]} Debian packages and what they depend on"
note "${missing[*]}"
install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --no-remove
  "${missing[@]}")
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    die "not root, and there is no sudo" "Have this run as root, then start again:" "" \
      "apt-get update && ${install[*]}"
  fi
  as_root=(sudo)
fi
# A failing update may only mean that one of several sources is down: the installation decides.
"${as_root[@]}" apt-get update || note "apt-get update failed; trying with the lists at hand"
"${as_root[@]}" "${install[@]}" ||
  die "apt-get could not install the packages; its reason stands above" \
    "If it speaks of packages to be removed: another version of Boost's development files" \
    "(libboost-dev, libboost1.74-dev) conflicts with libboost1.81-dev, and nothing is removed" \
    "without you. Remove them with 'apt-get remove libboost1.74-dev' or build in a container." \
    "If it cannot find packages: kvferry is built for Debian 12 (bookworm)."
