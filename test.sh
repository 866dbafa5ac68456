#!/usr/bin/env bash
# Installs, builds and tests everything: C++ tests through CTest, the tree's lint among them, and
# the Prometheus configuration. The last line counts: "N passed, M failed". Exits non-zero when
# anything failed.
#   ./test.sh              all of it
#   ./test.sh -R codec     arguments go to ctest: here, only the tests whose name has "codec"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/common.sh

passed=0
failed=0
finish() {
  local status=$?
  # Ended before the tests could be counted: that is a failure of its own.
  if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  if [ "$failed" -ne 0 ]; then exit 1; fi
}
trap finish EXIT

say "packages"
scripts/install-deps.sh test

say "building the program and its tests"
cmake_configure release -DKVFERRY_TESTS=ON ${KVFERRY_PYTHON:+-DKVFERRY_PYTHON="$KVFERRY_PYTHON"}
build release

say "building the fuzz targets"
cmake_configure fuzz
build fuzz fuzz_targets

say "fetching promtool"
scripts/fetch-promtool.sh || note "the checks of deploy/prometheus will fail without it"

say "testing"
results=build/release/test-results
rm -rf "$results"
mkdir -p "$results"
run_ctest() {  # NAME, then ctest's arguments
  local name=$1
  shift
  ctest --test-dir "${test_dir:-build/release}" --output-junit "$PWD/$results/$name.xml" \
    --output-on-failure --no-tests=ignore \
    --test-output-size-passed 4194304 --test-output-size-failed 4194304 "$@" || true
}
# Tests labelled serial start whole clusters or need the machine's cores for themselves.
run_ctest parallel -LE serial -j "$(build_jobs)" "$@"
run_ctest serial -L serial -j 1 "$@"
test_dir=build/fuzz run_ctest fuzz -j "$(build_jobs)" "$@"

reports=("$results"/*.xml)
[ -e "${reports[0]}" ] || die "ctest has left no report in $results"
read -r passed failed skipped < <(count_tests "${reports[@]}")
if [ "$skipped" -ne 0 ]; then
  note "$skipped skipped: instruction sets, or a GPU, that this machine lacks"
fi
if [ "$failed" -ne 0 ]; then
  say "failed"
  failed_tests "${reports[@]}" | while read -r name; do note "$name"; done
fi
[ "$passed" -gt 0 ] || die "no test ran"
