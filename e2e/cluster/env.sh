# shellcheck shell=bash disable=SC2034
# Settings and small functions of the other scripts, which source it.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$HERE/../.." && pwd)
CACHE=${CSI_S3_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/csi-s3-e2e}
BIN=$CACHE/bin       # what build.sh makes
IMAGES=$CACHE/images # what images.sh makes: buildah's store and the archives that nodes import
STATE=$CACHE/state   # the cluster's: certificates, etcd, containerd's and kubelet's data
RUN=$STATE/run       # pid files
LOG=$STATE/log

BRIDGE=br-k8s # the nodes' network; the control plane listens on the machine's address in it
NET=10.99.0 HOST_IP=10.99.0.1 API_PORT=6443
SERVICE_NET=10.96 DNS_IP=10.96.0.10 # services: 10.96.0.0/16
POD_NET=10.244                      # pods: 10.244.<node>.0/24
MAX_NODES=3
PAUSE=registry.k8s.io/pause:3.10
export KUBECONFIG=$STATE/admin.kubeconfig

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# One script at a time works on the cache; what a locked script calls is inside its lock. The
# daemons that it starts do not inherit the lock.
one_at_a_time() { # the script's arguments
  [ -z "${CSI_S3_E2E_LOCKED:-}" ] || return 0
  mkdir -p "$CACHE"
  CSI_S3_E2E_LOCKED=1 exec flock --close "$CACHE/lock" "$0" "$@"
}

as_root() { [ "$(id -u)" = 0 ] || die "needs root: it makes namespaces, mounts and a bridge"; }

# Whether the process of a pid file lives: pids are used again, a zombie has no command line, and it
# may have been started by another clone.
alive() { # name
  local pid
  pid=$(cat "$RUN/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -e "/node-init.sh init " -e "$BIN/"
}

running_nodes() {
  local file name
  for file in "$RUN"/node*.pid; do
    name=$(basename "$file" .pid)
    ! alive "$name" || echo "$name"
  done
}

# containerd's client, in a node.
node_ctr() { # node arguments...
  local node=$1
  shift
  ctr -a "/proc/$(cat "$RUN/$node.pid")/root/run/containerd/containerd.sock" -n k8s.io "$@"
}

wait_for() { # seconds command...
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.1
  done
}
