#!/usr/bin/env bash
# up.sh [NODES]: a Kubernetes cluster of 1 to 3 nodes (default 1). Idempotent: starts what is not
# running, also a node that was killed. Prints the exports with which clients find it.
#
# The control plane runs as ordinary processes of the machine. A node (containerd, kubelet,
# kube-proxy) has namespaces of its own and is joined to the bridge; see node-init.sh.
set -euo pipefail
. "$(dirname "$0")/env.sh"
. "$HERE/pki.sh"
one_at_a_time "$@"
as_root
NODES=${1:-1}
[[ $NODES =~ ^[1-$MAX_NODES]$ ]] || die "the number of nodes is $NODES; expected 1 to $MAX_NODES"
[ -d /sys/fs/cgroup/memory ] || die "needs cgroup v1; on a machine with cgroup v2 use kind"
[ -x "$BIN/kube" ] || die "no programs in $BIN; build.sh builds them"
[ -e "$IMAGES/pause.tar" ] || "$HERE/images.sh" pause

kubectl() { "$BIN/kubectl" "$@"; }

# The machine's cgroups of this process hold limits meant for it; daemons leave them.
leave_cgroups() {
  local file
  for file in /sys/fs/cgroup/*/cgroup.procs; do echo $BASHPID >"$file" || true; done 2>/dev/null
}

daemon() { # name command...
  local name=$1
  shift
  ! alive "$name" || return 0
  (leave_cgroups; exec setsid "$@" >>"$LOG/$name.log" 2>&1 </dev/null) &
  echo $! >"$RUN/$name.pid"
  disown
}

bridge() {
  ip link show "$BRIDGE" >/dev/null 2>&1 || ip link add "$BRIDGE" type bridge
  ip addr replace "$HOST_IP/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
}

api_server() {
  local etcd=http://127.0.0.1:23790 peers=http://127.0.0.1:23800
  daemon etcd "$BIN/etcd" --name default --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls $etcd --advertise-client-urls $etcd --listen-peer-urls $peers \
    --initial-advertise-peer-urls $peers --initial-cluster default=$peers
  daemon kube-apiserver "$BIN/kube-apiserver" --etcd-servers=$etcd \
    --bind-address="$HOST_IP" --advertise-address="$HOST_IP" --secure-port="$API_PORT" \
    --service-cluster-ip-range="$SERVICE_NET.0.0/16" --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --allow-privileged=true --profiling=false \
    --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
    --client-ca-file="$PKI/ca.crt" --token-auth-file="$PKI/tokens.csv" \
    --kubelet-client-certificate="$PKI/apiserver-kubelet-client.crt" \
    --kubelet-client-key="$PKI/apiserver-kubelet-client.key" \
    --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-signing-key-file="$PKI/sa.key" --service-account-key-file="$PKI/sa.pub" \
    --requestheader-client-ca-file="$PKI/ca.crt" --requestheader-allowed-names=front-proxy-client \
    --proxy-client-cert-file="$PKI/front-proxy-client.crt" \
    --proxy-client-key-file="$PKI/front-proxy-client.key" \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra-
  wait_for 120 kubectl get --raw /readyz ||
    { tail -5 "$LOG/kube-apiserver.log" >&2; die "the API server does not answer"; }
}

controllers() {
  local name
  for name in kube-controller-manager kube-scheduler; do
    set -- --kubeconfig="$PKI/$name.kubeconfig" --bind-address=127.0.0.1 --leader-elect=false \
      --authentication-kubeconfig="$PKI/$name.kubeconfig" \
      --authorization-kubeconfig="$PKI/$name.kubeconfig"
    [ $name = kube-scheduler ] || set -- "$@" --use-service-account-credentials=true \
      --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
      --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key"
    daemon $name "$BIN/$name" "$@"
  done
}

# CoreDNS as a process of the machine, behind a Service without a selector: needs no image. It knows
# the cluster's names alone; others do not exist, which it says at once.
dns() {
  cat >"$STATE/Corefile" <<C
cluster.local in-addr.arpa ip6.arpa {
  bind $HOST_IP
  errors
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $PKI/coredns.kubeconfig c
    ttl 1
  }
}
. {
  bind $HOST_IP
  template ANY ANY {
    rcode NXDOMAIN
  }
}
C
  daemon coredns "$BIN/coredns" -conf "$STATE/Corefile" -quiet
  kubectl apply -f - >/dev/null <<Y
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $DNS_IP
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: ["$HOST_IP"], conditions: {ready: true}}]
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
Y
}

CONTROLLERS=$(cd /sys/fs/cgroup && ls -d cpu cpuacct cpuset memory devices freezer blkio pids systemd 2>/dev/null)

# A cgroup per controller for the node, which is the root of what the node sees.
node_cgroups() { # node
  local root=/sys/fs/cgroup controller at file
  for controller in $CONTROLLERS; do
    at=$root/$controller/k8s-$1
    mkdir -p "$at"
    [ "$controller" != cpuset ] ||
      for file in cpuset.cpus cpuset.mems; do cat "$root/cpuset/$file" >"$at/$file"; done
  done
  echo 1 >"$root/memory/k8s-$1/memory.use_hierarchy" || true
} 2>/dev/null

start_node() { # number
  local i=$1 node=node$1
  ! alive "$node" || return 0
  rm -f "$RUN/$node.pid"
  node_cgroups "$node"
  (
    for controller in $CONTROLLERS; do
      echo $BASHPID >"/sys/fs/cgroup/$controller/k8s-$node/cgroup.procs"
    done
    exec setsid unshare --mount --net --uts --ipc --cgroup --propagation private \
      bash "$HERE/node-init.sh" enter "$i" "$CONTROLLERS" >>"$LOG/$node.log" 2>&1 </dev/null
  ) &
  disown
  wait_for 20 alive "$node" || { tail "$LOG/$node.log" >&2; die "$node does not start"; }
  ip link del "k8sv$i" 2>/dev/null || true
  ip link add "k8sv$i" type veth peer name eth0 netns "$(cat "$RUN/$node.pid")"
  ip link set "k8sv$i" master "$BRIDGE" up
  ip route replace "$POD_NET.$i.0/24" via "$NET.1$i"
  wait_for 60 node_ctr "$node" version || { tail "$LOG/$node-containerd.log" >&2; die "$node: no containerd"; }
  "$HERE/images.sh" import pause
}

# Ready, as the kubelet of this run reports it: a node that died is called Ready for 40 s more.
is_ready() { # node
  local status beat
  read -r status beat < <(kubectl get node "$1" -o \
    'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{"\n"}{end}')
  [ "$status" = True ] && [ "$(date -d "$beat" +%s)" -ge "$(stat -c %Y "$RUN/$1.pid")" ]
}

mkdir -p "$STATE"/{etcd,node} "$RUN" "$LOG"
make_pki
bridge
api_server
say "the API server answers, after $SECONDS s"
controllers
dns
for i in $(seq "$NODES"); do start_node "$i"; done
for i in $(seq "$MAX_NODES"); do # left over from a larger cluster
  alive "node$i" || kubectl delete node "node$i" --ignore-not-found >/dev/null
done
for i in $(seq "$NODES"); do
  wait_for 120 is_ready "node$i" || { tail "$LOG/node$i.log" >&2; die "node$i is not Ready"; }
done
wait_for 30 kubectl -n default get serviceaccount default || die "no default service account"
say "$NODES nodes are Ready, after $SECONDS s"
echo "export KUBECONFIG=$KUBECONFIG PATH=$BIN:\$PATH"
