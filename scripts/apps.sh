#!/usr/bin/env bash
# What `make apps` needs besides `make setup`: a Java for Spark, the POSIX suites (of which those in
# Rust want cargo 1.85 or later: Debian 13's, or rustup's), and the programs' Python packages in an
# environment of their own (build/apps), so that the project depends on none of them.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'apps: %s\n' "$*" >&2; }

missing=()
command -v java >/dev/null || missing+=(default-jre-headless)
command -v cargo >/dev/null || missing+=(cargo)
for program in fio stress-ng; do
  command -v "$program" >/dev/null || missing+=("$program")
done
if [ "${#missing[@]}" != 0 ]; then
  [ "$(id -u)" = 0 ] || { say "please run: sudo apt-get install -y ${missing[*]}"; exit 1; }
  say "installing ${missing[*]}"
  scripts/apt.sh "${missing[@]}"
fi

wanted=tests/programs/requirements.txt
if ! cmp -s "$wanted" build/apps/requirements.txt; then
  say "installing $(grep -c == "$wanted") packages into build/apps"
  export UV_PYTHON_DOWNLOADS=never
  build/uv/bin/uv venv --quiet --clear --python .venv/bin/python build/apps
  build/uv/bin/uv pip install --quiet --python build/apps/bin/python -r "$wanted"
  build/apps/bin/python -m pip download --quiet --no-deps --no-binary :all: --dest build/apps \
    "$(grep datashard "$wanted")"  # its own tests are in there
  cp "$wanted" build/apps/requirements.txt
fi

.venv/bin/python -m tests.binaries fsx pjdfstest >/dev/null
