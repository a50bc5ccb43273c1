#!/usr/bin/env bash
# What `make` needs before anything else, from nothing, on Debian and Ubuntu: system packages (as
# root installed, else named), a pinned uv in a venv of its own (Debian's pip refuses to install
# system-wide, PEP 668), and .venv exactly as uv.lock says. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' scripts/uv.txt)

say() { printf 'setup: %s\n' "$*" >&2; }

# A Python of 3.11 or later that can make a venv and has its C headers (pyfuse3 is compiled).
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    "$name" - 2>/dev/null <<'PYTHON' && return 0
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
if sys.version_info < (3, 11) or not os.path.exists(header):
    sys.exit(1)
print(sys.executable)
PYTHON
  done
  return 1
}

missing_packages() {
  command -v gcc >/dev/null || echo gcc
  [ -e /usr/include/stdio.h ] || echo libc6-dev
  command -v pkg-config >/dev/null || echo pkg-config
  pkg-config --exists fuse3 2>/dev/null || echo libfuse3-dev
  command -v fusermount3 >/dev/null || echo fuse3
  { command -v unshare && command -v setpriv; } >/dev/null || echo util-linux
  command -v pgrep >/dev/null || echo procps
  command -v mount >/dev/null || echo mount
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  for program in git patch perl rsync sqlite3 unzip vim zip; do # what tests/programs run
    command -v "$program" >/dev/null || echo "$program"
  done
  # Tests build servers with Go; on x86_64 uv.lock brings it.
  [ "$(uname -m)" = x86_64 ] || command -v go >/dev/null || echo golang-go
}

install() {
  if ! command -v apt-get >/dev/null; then
    say "please install what Debian calls: $*"
    exit 1
  fi
  if [ "$(id -u)" != 0 ]; then
    say "packages are missing. Run this, then make again:"
    say "    sudo apt-get update && sudo apt-get install -y $*"
    exit 1
  fi
  say "installing $*"
  scripts/apt.sh "$@"
}

mapfile -t missing < <(missing_packages)
python=$(find_python) || missing+=(python3 python3-venv python3-dev)
[ "${#missing[@]}" = 0 ] || install "${missing[@]}"
if [ -z "$python" ]; then
  if ! python=$(find_python); then # Ubuntu 22.04's python3 is 3.10
    install python3.11 python3.11-venv python3.11-dev
    python=$(find_python) || { say "no Python 3.11 or later with venv and headers"; exit 1; }
  fi
fi

# Debian keeps CPython's own tests, which tests/posix runs, in a package of their own.
if ! "$python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("test.test_os"))' 2>/dev/null; then
  install "$("$python" -c 'import sys; print("libpython%d.%d-testsuite" % sys.version_info[:2])')"
fi

uv=build/uv/bin/uv
if [ "$("$uv" --version 2>/dev/null | cut -d' ' -f2)" != "$UV_VERSION" ]; then
  say "installing uv $UV_VERSION into build/uv"
  rm -rf build/uv
  "$python" -m venv build/uv
  build/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
    --requirement scripts/uv.txt
fi

say "making .venv as uv.lock says"
unset VIRTUAL_ENV
export UV_PYTHON_DOWNLOADS=never
# First what builds, as uv.lock says, so that builds fetch nothing.
"$uv" sync --quiet --frozen --only-group build --inexact --python "$python"
# --reinstall-package: the generated modules follow proto/ also when nothing else has changed.
"$uv" sync --quiet --frozen --extra demo --no-build-isolation --python "$python" \
  --reinstall-package csi-s3
