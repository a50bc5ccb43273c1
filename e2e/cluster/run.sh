#!/usr/bin/env bash
# run.sh [NODES]: from nothing to a cluster (default: 2 nodes) that has the driver's image, made of
# this tree, and the workload's. What is there already is kept; a cluster that is not running starts
# without the objects of the last one.
#   eval "$(e2e/cluster/run.sh)" && kubectl get nodes
set -euo pipefail
. "$(dirname "$0")/env.sh"
one_at_a_time "$@"

"$HERE/build.sh" >&2
as_root
"$HERE/images.sh" driver workload >&2
alive kube-apiserver || "$HERE/down.sh" --wipe
exports=$("$HERE/up.sh" "${1:-2}")
"$HERE/images.sh" import >&2
echo "$exports"
