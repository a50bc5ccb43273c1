#!/usr/bin/env bash
# `make test`, in two processes side by side, as most machines have two cores: tests that mount and
# run programs, and beside them lint and all other tests. What the second prints comes at the end.
set -uo pipefail
cd "$(dirname "$0")/.."

with_mounts=(tests/mount tests/mounter tests/programs tests/posix)
log=$(mktemp)
beside=
trap '[ -z "$beside" ] || kill -- "-$beside" 2>/dev/null; rm -f "$log"' EXIT

others() {
  make --no-print-directory lint
  local lint=$?
  # Its cache is its own: each process writes which tests have failed.
  .venv/bin/python -m pytest "${with_mounts[@]/#/--ignore=}" -o cache_dir=.pytest_cache/others
  return $((lint || $?))
}

set -m # a process group of its own, to be ended with this script
others >"$log" 2>&1 </dev/null &
beside=$!
set +m
.venv/bin/python -m pytest "${with_mounts[@]}"
first=$?
wait "$beside"
second=$?
beside=
cat "$log"
exit $((first || second))
