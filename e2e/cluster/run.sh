#!/usr/bin/env bash
# run.sh [NODES [workload]]: from nothing to a cluster (default: 2 nodes) that has the driver's image,
# made of this tree, and the workload's if it is asked for. What is there already is kept; a cluster
# that is not running starts without the objects of the last one.
#   cluster=$(e2e/cluster/run.sh) && eval "$cluster" && kubectl get nodes
set -euo pipefail
. "$(dirname "$0")/env.sh"
one_at_a_time "$@"

images=(driver "${@:2}")
"$HERE/build.sh" >&2
as_root
"$HERE/images.sh" "${images[@]}" >&2
alive kube-apiserver || "$HERE/down.sh" --wipe
exports=$("$HERE/up.sh" "${1:-2}")
"$HERE/images.sh" import "${images[@]}" >&2
echo "$exports"
