#!/usr/bin/env bash
# chart.sh IMAGE DIRECTORY: packages the chart, with IMAGE (no tag) as the default of image.repository.
set -euo pipefail
cd "$(dirname "$0")/.."

image=$1 directory=$2
helm=$(.venv/bin/python -m tests.binaries helm)
chart=$(mktemp -d)
trap 'rm -rf "$chart"' EXIT
cp -R charts/csi-s3 "$chart"
sed -i "s|^  repository: csi-s3\$|  repository: $image|" "$chart/csi-s3/values.yaml"
grep -qxF "  repository: $image" "$chart/csi-s3/values.yaml"
"$helm" lint --quiet "$chart/csi-s3"
"$helm" package --destination "$directory" "$chart/csi-s3"
