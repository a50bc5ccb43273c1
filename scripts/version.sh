#!/usr/bin/env bash
# version.sh TAG: the version that a release tag names, if the package and the chart are of it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1#v}
for line in "pyproject.toml:version = \"$version\"" \
  "charts/csi-s3/Chart.yaml:version: $version" \
  "charts/csi-s3/Chart.yaml:appVersion: \"$version\""; do
  grep -qxF "${line#*:}" "${line%%:*}" || {
    echo "version.sh: ${line%%:*} is not of version $version, which the tag $1 names" >&2
    exit 1
  }
done
echo "$version"
