#!/usr/bin/env bash
# Builds kvferry on Debian 12 and answers a prompt through three processes: a gateway, a prefill
# worker that ships its KV cache compressed, and a decode worker that attends on the codes.
#   ./quickstart.sh           asks a question with three codecs, prints a table, stops everything
#   ./quickstart.sh --serve   does the same, then keeps serving until Ctrl-C
#   ./quickstart.sh --port N  the gateway's port (8080, or the next free one)
# Needs nothing but this shell and apt; safe to run again at any time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/common.sh

model=models/mini
program=build/release/bin/kvferry
log=build/quickstart.log
serve=0
port=
while [ $# -gt 0 ]; do
  case "$1" in
    --serve) serve=1 ;;
    --port)
      port=${2:-}
      [[ $port =~ ^[0-9]{1,5}$ ]] && [ "$port" -ge 1 ] && [ "$port" -le 65535 ] ||
        die "--port needs a number from 1 to 65535"
      shift
      ;;
    -h | --help)
      sed -n '2,7s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) die "unknown argument '$1'" "see $0 --help" ;;
  esac
  shift
done

cluster=
stop_cluster() {
  if [ -z "$cluster" ]; then return; fi
  local pid=$cluster waited=0
  cluster=
  kill -TERM "$pid" 2>/dev/null || true
  # It stops its workers one after the other; a second signal makes it kill them.
  while kill -0 "$pid" 2>/dev/null; do
    waited=$((waited + 1))
    if [ "$waited" -eq 120 ]; then kill -TERM "$pid" 2>/dev/null || true; fi
    if [ "$waited" -ge 200 ]; then kill -KILL "$pid" 2>/dev/null || true; fi
    sleep 0.1
  done
  wait "$pid" 2>/dev/null || true
}
trap stop_cluster EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

choose_port() {
  if [ -n "$port" ]; then
    if port_in_use "$port"; then
      die "port $port is in use" "Choose another with --port, or leave it out."
    fi
    return
  fi
  for port in 8080 {18080..18099}; do
    if ! port_in_use "$port"; then
      if [ "$port" != 8080 ]; then note "port 8080 is in use; taking $port"; fi
      return
    fi
  done
  die "no free port found" "Choose one with --port."
}

# A container may forbid cross memory attach or have a tiny /dev/shm; the program's own test finds
# out and names the way round.
choose_transport() {
  local report
  if [ -n "${UCX_TLS:-}" ]; then
    note "UCX_TLS=$UCX_TLS, as the environment says"
    return
  fi
  report=$("$program" doctor 2>&1) || true
  if [[ $report == *UCX_TLS=tcp,self* ]]; then
    export UCX_TLS=tcp,self
    note "shared memory does not work here ('$program doctor' says why): using UCX_TLS=tcp,self"
  fi
}

ready() {
  local line
  { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 1
  printf 'GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
  read -r -t 5 line <&3 || line=
  exec 3>&-
  [[ $line == *" 200 "* ]]
}

start_cluster() {
  # A process group of its own: Ctrl-C reaches this script only, and the cluster is stopped once.
  setsid "$program" up --model "$model" --port "$port" >"$log" 2>&1 &
  cluster=$!
  local waited=0
  until ready; do
    if ! kill -0 "$cluster" 2>/dev/null; then
      tail -n 20 "$log" >&2
      die "the cluster did not start; the end of $log stands above"
    fi
    waited=$((waited + 1))
    if [ "$waited" -ge 600 ]; then
      tail -n 20 "$log" >&2
      die "the cluster is not ready after 60 seconds; the end of $log stands above"
    fi
    sleep 0.1
  done
}

# The same question by the API's best-known client, where this machine happens to have it.
ask_with_openai() {
  local python=${KVFERRY_PYTHON:-python3} question
  "$python" -c 'import openai' >/dev/null 2>&1 || return 0
  say "asking once more, with the openai package for Python"
  question=$("$program" demo --print-question)
  "$python" - "http://127.0.0.1:$port/v1" "$question" <<'END'
import json
import sys
from openai import OpenAI

question = json.loads(sys.argv[2])
expected = question.pop("answer")
client = OpenAI(base_url=sys.argv[1], api_key="not needed here")
answer = client.completions.create(model="mini", **question)
text, codec = answer.choices[0].text, answer.usage.kvferry["codec"]
right = expected in text
print(f"{codec:<26} answers {text}  {'(right)' if right else '(wrong)'}")
sys.exit(0 if right else f"error: the answer should have been {expected}")
END
}

say "packages"
scripts/install-deps.sh build

say "building $program"
tests=()
# A folder that ./test.sh has configured stays as it is, so that neither has to build again.
if ! grep -qs '^KVFERRY_TESTS:BOOL=ON' build/release/CMakeCache.txt ||
  ! dpkg-query -W libgtest-dev librapidcheck-dev >/dev/null 2>&1; then
  tests=(-DKVFERRY_TESTS=OFF)
fi
cmake_configure release "${tests[@]}"
build release kvferry

say "starting a gateway, a prefill worker and a decode worker on this machine"
choose_port
choose_transport
start_cluster
note "ready on http://127.0.0.1:$port; log: $log"

say "asking the bundled model"
"$program" demo --url "http://127.0.0.1:$port"

ask_with_openai

if [ "$serve" = 1 ]; then
  say "serving until Ctrl-C; ask it with"
  cat <<END
curl -N http://127.0.0.1:$port/v1/completions -H 'Content-Type: application/json' -d '{
  "model": "mini", "max_tokens": 8, "stop": "\n", "stream": true,
  "prompt": "{\"QIRN\": \"PTRAT\", \"LOVE\": \"MAKSU\", \"TENB\": \"ORILA\"}\n\"LOVE\":"}'
END
  wait "$cluster" || die "the cluster ended; see $log"
else
  stop_cluster
  say "done, nothing is left running; './quickstart.sh --serve' keeps it serving"
fi
