# Shared by quickstart.sh, test.sh and .ci/run; sourced, never run. Needs bash, coreutils, dpkg and
# apt only: what a minimal Debian 12 has.
# shellcheck shell=bash

say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
  printf '\nerror: %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit 1
}

# Compile jobs that run at once: one a core, but no more than memory can hold. The largest
# translation units (Asio, Beast, Protobuf) take a little over 1 GiB each.
build_jobs() {
  local cores kib limit bytes_per_job=$((3 * 1024 * 1024 * 1024 / 2))
  cores=$(nproc)
  kib=$(awk '$1 == "MemAvailable:" {print $2}' /proc/meminfo)
  local bytes=$((kib * 1024))
  if [ -r /sys/fs/cgroup/memory.max ]; then
    limit=$(cat /sys/fs/cgroup/memory.max)
    if [ "$limit" != max ] && [ "$limit" -lt "$bytes" ]; then bytes=$limit; fi
  fi
  local jobs=$((bytes / bytes_per_job))
  if [ "$jobs" -gt "$cores" ]; then jobs=$cores; fi
  if [ "$jobs" -lt 1 ]; then jobs=1; fi
  printf '%s\n' "$jobs"
}

# cmake_configure PRESET [cmake arguments]: configures build/PRESET, from scratch when the folder
# was configured for a tree somewhere else (a moved or copied checkout).
cmake_configure() {
  local preset=$1 fresh=() home
  shift
  local cache="build/$preset/CMakeCache.txt"
  if [ -f "$cache" ]; then
    home=$(awk -F= '$1 == "CMAKE_HOME_DIRECTORY:INTERNAL" {print $2}' "$cache")
    if [ "$home" != "$PWD" ]; then fresh=(--fresh); fi
  fi
  cmake --preset "$preset" "${fresh[@]}" "$@"
}

# build PRESET [targets]: with a line of progress for every step.
build() {
  local preset=$1 jobs
  shift
  jobs=$(build_jobs)
  note "building with $jobs at a time"
  NINJA_STATUS='[%f/%t, %es] ' cmake --build "build/$preset" -j "$jobs" ${1:+--target "$@"}
}

# Whether something accepts connections on that port of 127.0.0.1.
port_in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# count_tests FILE...: reads ctest's JUnit files, prints "PASSED FAILED SKIPPED". A GoogleTest
# program counts with its cases, any other test as one; a program that died is one failure, one that
# says that this machine cannot run it (SKIP_RETURN_CODE) is skipped.
count_tests() {
  awk '
    /<testcase / {
      cases_passed = 0; cases_failed = 0; cases_skipped = 0; status = "fail"
      if (match($0, /status="[a-z]+"/)) status = substr($0, RSTART + 8, RLENGTH - 9)
      open = 1
    }
    match($0, /\[  PASSED  \] [0-9]+ test/) {
      split(substr($0, RSTART, RLENGTH), word, " "); cases_passed += word[4]
    }
    match($0, /\[  SKIPPED \] [0-9]+ tests?, listed below/) {
      split(substr($0, RSTART, RLENGTH), word, " "); cases_skipped += word[4]
    }
    match($0, /\[  FAILED  \] [0-9]+ tests?, listed below/) {
      split(substr($0, RSTART, RLENGTH), word, " "); cases_failed += word[4]
    }
    /<skipped message="SKIP_RETURN_CODE=/ { status = "skip" }
    open && (/<\/testcase>/ || /<testcase .*\/>/) {
      open = 0
      skipped += cases_skipped
      if (status == "run") {
        passed += cases_passed + cases_skipped > 0 ? cases_passed : 1
      } else if (status == "skip") {
        ++skipped
      } else {
        passed += cases_passed
        failed += cases_failed > 0 ? cases_failed : 1
      }
    }
    END { printf "%d %d %d\n", passed, failed, skipped }' "$@"
}

# The names of the tests that did not pass, one a line.
failed_tests() {
  awk '/<testcase / && match($0, /name="[^"]*"/) {
         name = substr($0, RSTART + 6, RLENGTH - 7)
         failed = !/status="run"/
       }
       /<skipped message="SKIP_RETURN_CODE=/ { failed = 0 }
       failed && (/<\/testcase>/ || /<testcase .*\/>/) { print name; failed = 0 }' "$@"
}
