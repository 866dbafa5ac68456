#!/usr/bin/env bash
# Puts promtool, Prometheus's checker of configurations, into build/promtool/: unpacked from
# Debian's package, so that no Prometheus server is installed or started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/common.sh

if build/promtool/usr/bin/promtool --version >/dev/null 2>&1; then
  note "promtool is there"
  exit 0
fi
rm -rf build/promtool
mkdir -p build/promtool
cd build/promtool
if ! apt-get download prometheus; then
  # No package lists, as in fresh container images.
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  "${as_root[@]}" apt-get update
  apt-get download prometheus
fi
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
rm -f prometheus_*.deb
usr/bin/promtool --version
