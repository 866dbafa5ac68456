#!/usr/bin/env bash
# Checks that every C++ file is formatted as .clang-format says, with Debian 12's clang-format.
# With --fix it formats them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

clang_format=clang-format-14
if ! command -v "$clang_format" >/dev/null; then
  echo "clang-format-14 is missing; scripts/install-deps.sh test installs it" >&2
  exit 1
fi
rooms=$(sed -n 's/^ *add_subdirectory(\([a-z]*\)).*/\1/p' CMakeLists.txt)
mapfile -t files < <(find $rooms -name '*.h' -o -name '*.cpp' -o -name '*.cu' | sort)
if [ "${1:-}" = --fix ]; then
  exec "$clang_format" -i "${files[@]}"
fi
"$clang_format" --dry-run -Werror "${files[@]}"
echo "${#files[@]} files are formatted"
