#!/usr/bin/env bash
# node-init.sh enter|init NUMBER CONTROLLERS: run by up.sh in a node's fresh mount, net, uts, ipc and
# cgroup namespaces. `enter` forks into a new pid namespace; `init` is its process 1: killing
# that one ends the node as a power cut would, pods, FUSE servers and mounts included.
#
# A node's root is the machine's: hostPath sees everything, /dev/fuse is there. What a node writes
# below /var/lib and /var/log lies in $STATE/node/<node>. Its mounts are shared inside, so that
# mountPropagation works, and private towards the machine.
set -eu
. "$(dirname "$0")/env.sh"
mode=$1 i=$2 controllers=$3 node=node$2
if [ "$mode" = enter ]; then
  exec unshare --pid --fork --kill-child=SIGKILL bash "$HERE/node-init.sh" init "$i" "$controllers"
fi
data=$STATE/node/$node

# Our pid as the machine sees it: the machine's /proc is still mounted.
awk '/^PPid:/ {print $2}' /proc/self/status >"$RUN/$node.pid.new"

# The copy of the machine's mounts would keep other people's FUSE mounts alive after they are gone.
drop_mounts() {
  local at
  awk '{print $5}' /proc/self/mountinfo | tac | while read -r at; do
    case $at in
      / | /dev | /dev/* | /proc | /sys) ;;
      *) umount -c -l "$at" 2>/dev/null || umount -l "$(printf %b "$at")" || true ;;
    esac
  done
}

mount_system() {
  local controller options
  hostname "$node"
  mount -t proc proc /proc
  umount -R -l /sys
  mount -t sysfs sysfs /sys
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  for controller in $controllers; do
    options=$controller
    [ "$controller" != systemd ] || options=none,name=systemd
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$controller"
  done
  mount -t tmpfs -o mode=755 tmpfs /run
}

# A node's mount points are directories of the machine; down.sh removes those that are made here.
make_dir() {
  [ -d "$1" ] || { make_dir "${1%/*}" && mkdir "$1" && echo "$1" >>"$STATE/made"; }
}

mount_data() {
  local at
  for at in /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers \
    /etc/cni/net.d; do
    make_dir "$at"
    mkdir -p "$data$at"
    mount --bind "$data$at" "$at"
  done
  mkdir -p "$data/opt"
}

# kubelet wants these machine-wide settings and would write them: it finds files that hold them.
pretend_sysctls() {
  local name value file
  mkdir -p /run/sysctl
  while read -r name value; do
    file=/run/sysctl/${name//\//_}
    echo "$value" >"$file"
    mount --bind "$file" "/proc/sys/$name"
  done <<S
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
S
}

network() { # eth0 is moved in by up.sh
  local other
  ip link set lo up
  wait_for 10 ip link show eth0
  ip addr add "$NET.1$i/24" dev eth0
  ip link set eth0 up
  ip route replace default via "$HOST_IP"
  for other in $(seq "$MAX_NODES"); do
    [ "$other" = "$i" ] || ip route replace "$POD_NET.$other.0/24" via "$NET.1$other"
  done
  echo 1 >/proc/sys/net/ipv4/ip_forward
  echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables || true
  echo "nameserver $DNS_IP" >/run/resolv.conf
  cat >/etc/cni/net.d/10-bridge.conflist <<J
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_NET.$i.0/24"}]],
   "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
} 2>/dev/null

# Without CAP_SYS_RESOURCE nothing may lower oom_score_adj, and runc would end with "can't get final
# child's PID from pipe: EOF": restrict_oom_score_adj here, oomScoreAdj 0 below.
# Images are never collected: there is no registry to pull them from again.
configure() {
  cat >/run/containerd.toml <<T
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$data/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
T
  cat >/run/kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /
failSwapOn: false
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $STATE/pki/ca.crt}
authorization: {mode: Webhook}
resolvConf: /run/resolv.conf
clusterDomain: cluster.local
clusterDNS: [$DNS_IP]
imageGCHighThresholdPercent: 100
evictionHard:
  {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
maxPods: 110
oomScoreAdj: 0
registerNode: true
serializeImagePulls: false
syncFrequency: 10s
Y
  cat >/run/kube-proxy.yaml <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $STATE/pki/kube-proxy.kubeconfig}
mode: nftables
clusterCIDR: $POD_NET.0.0/16
hostnameOverride: $node
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
}

keep() { # program arguments...: runs it, and again when it ends, as a service manager would
  local program=$1
  shift
  while :; do
    "$program" "$@" >>"$LOG/$node-${program##*/}.log" 2>&1 || true
    echo "$program ended and is started again" >&2
    sleep 1
  done
}

drop_mounts
mount_system
mount_data
pretend_sysctls
mount --make-rshared /
mv "$RUN/$node.pid.new" "$RUN/$node.pid"
network
configure
export PATH=$BIN:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
ulimit -n 65536 2>/dev/null || true
keep containerd --config /run/containerd.toml &
wait_for 30 ctr version
keep "$BIN/kubelet" --config=/run/kubelet.yaml --kubeconfig="$STATE/pki/$node.kubeconfig" \
  --hostname-override="$node" --node-ip="$NET.1$i" --root-dir=/var/lib/kubelet --v=2 &
keep "$BIN/kube-proxy" --config=/run/kube-proxy.yaml --v=2 &
trap : TERM INT
while :; do
  wait -n || true
  sleep 0.05
done
