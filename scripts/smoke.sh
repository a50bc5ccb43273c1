#!/usr/bin/env bash
# smoke.sh WHEEL: what a user gets. Installs the wheel into a new environment (build/smoke), away from
# this tree, starts each program, and runs the demo (as root; it mounts).
set -euo pipefail
cd "$(dirname "$0")/.."

wheel=$(realpath "$1")
venv=$PWD/build/smoke
rm -rf "$venv"
.venv/bin/python -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel[demo]"

cd /
version=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("csi-s3"))')
[ "$("$venv/bin/csi-s3" --version)" = "csi-s3 $version" ]
for program in mount node mounter csi demo; do
  "$venv/bin/csi-s3" "$program" --help >/dev/null
done
"$venv/bin/mount-s3" --help >/dev/null
"$venv/bin/python" -c 'from csi_s3 import Mount'
"$venv/bin/csi-s3" demo
echo "smoke: csi-s3 $version works"
