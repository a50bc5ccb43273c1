#!/usr/bin/env bash
# down.sh [--wipe]: ends everything that up.sh started, by pid. --wipe also removes the cluster's
# state (certificates, objects, imported images) and the directories that nodes made on the machine,
# if they are empty. Programs and built images stay.
set -euo pipefail
. "$(dirname "$0")/env.sh"
one_at_a_time "$@"
as_root
[[ ${1:---wipe} = --wipe ]] || die "unknown argument $1; the only one is --wipe"

end() { # name signal
  local name=$1 pid
  if alive "$name"; then
    pid=$(cat "$RUN/$name.pid")
    kill "-$2" "$pid"
    wait_for 5 eval "! alive $name" || kill -KILL "$pid"
  fi
  rm -f "$RUN/$name.pid"
}

# Processes of a dead node leave its cgroups one by one.
remove_cgroups() { # node
  find /sys/fs/cgroup/*/"k8s-$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
  ! ls -d /sys/fs/cgroup/*/"k8s-$1" >/dev/null 2>&1
}

for i in $(seq "$MAX_NODES"); do
  [ -e "$RUN/node$i.pid" ] || continue
  end "node$i" KILL
  ip link del "k8sv$i" 2>/dev/null || true
  wait_for 5 remove_cgroups "node$i" || say "cgroups of node$i are still in use"
done
# These keep no state, and their graceful end takes 10 s and more; etcd gets a clean one.
for name in coredns kube-scheduler kube-controller-manager kube-apiserver; do end $name KILL; done
end etcd TERM
ip link del "$BRIDGE" 2>/dev/null || true
[ "${1:-}" = --wipe ] || exit 0
[ ! -e "$STATE/made" ] || tac "$STATE/made" | xargs -r -d '\n' rmdir --ignore-fail-on-non-empty || true
rm -rf "$STATE"
