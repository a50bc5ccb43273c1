#!/usr/bin/env bash
# build.sh [STEP...]: programs of the cluster, after `make setup`, into $BIN. Steps: apt kube helm
# dns pause (default: all). What is there and of the wanted version is not built again.
#
# kube/ is one Go module that requires k8s.io/kubernetes and all its staging modules at one release,
# and etcd; its one main dispatches on argv[0]. dns/ is CoreDNS. helm is that of the tests.
set -euo pipefail
. "$(dirname "$0")/env.sh"
one_at_a_time "$@"

PACKAGES=(containerd runc containernetworking-plugins iptables nftables conntrack iproute2 openssl
  jq buildah mmdebstrap gcc libc6-dev util-linux ca-certificates curl)

# A go that every go.mod is content with: the machine's, else the one that uv.lock brings.
find_go() {
  local go wanted have
  wanted=$(awk '$1 == "go" {print $2}' "$HERE"/*/go.mod | sort -V | tail -1)
  for go in go "$REPO/.venv/bin/go" /usr/local/go/bin/go; do
    have=$("$go" env GOVERSION 2>/dev/null) || continue
    [ "$(printf '%s\n' "$wanted" "${have#go}" | sort -V | head -1)" = "$wanted" ] || continue
    "$go" env GOROOT
    return 0
  done
  die "no Go $wanted or later, neither in PATH nor in .venv/bin: make setup brings one on x86_64"
}

# Runs a builder unless its product is there and was made from the same sources in the same way.
step() { # name product builder
  local name=$1 product=$2 builder=$3 made started=$SECONDS
  made=$({ cat "$HERE/$name"/* && declare -f "$builder" go_build; } | sha256sum | cut -d' ' -f1)
  [ ! -x "$BIN/$product" ] || [ "$(cat "$BIN/.$name" 2>/dev/null)" != "$made" ] || return 0
  say "building $name"
  "$builder"
  echo "$made" >"$BIN/.$name"
  say "$name is built, after $((SECONDS - started)) s"
}

# A running program's file can be replaced, not written to.
go_build() { # directory product package ldflags
  (cd "$HERE/$1" && go build -ldflags "-s -w $4" -o "$BIN/.new" "$3")
  mv "$BIN/.new" "$BIN/$2"
}

# Without these flags the components take themselves for version 0.0.
kubernetes() { awk '$1 == "k8s.io/kubernetes" {print $2; exit}' "$HERE/kube/go.mod"; }
minor() { kubernetes | cut -d. -f2; }

build_kube() {
  local at=k8s.io/component-base/version
  go_build kube kube . "-X $at.gitVersion=$(kubernetes) -X $at.gitMajor=1 -X $at.gitMinor=$(minor)\
    -X $at.gitTreeState=clean -X $at.buildDate=2026-01-01T00:00:00Z"
}

build_dns() { go_build dns coredns . ""; }

build_pause() { gcc -static -Os -s -o "$BIN/pause" "$HERE/pause/pause.c"; }

do_apt() {
  local missing
  missing=$(for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q ^ii || echo "$package"
  done)
  [ -n "$missing" ] || return 0
  # shellcheck disable=SC2086 # a list of words
  set -- $missing
  [ "$(id -u)" = 0 ] || die "packages are missing: sudo apt-get install -y $*"
  say "installing $*"
  "$REPO/scripts/apt.sh" "$@"
}
do_kube() {
  step kube kube build_kube
  local name
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    ln -sf kube "$BIN/$name"
  done
}
do_helm() {
  local helm
  [ -x "$REPO/.venv/bin/python" ] || die "no .venv: make setup makes it"
  helm=$(cd "$REPO" && .venv/bin/python -m tests.binaries helm)
  ln -sf "$helm" "$BIN/helm"
}
do_dns() { step dns coredns build_dns; }
do_pause() { step pause pause build_pause; }

mkdir -p "$BIN"
[ $# -gt 0 ] || set -- apt kube helm dns pause
case " $* " in *" kube "* | *" dns "*)
  root=$(find_go)
  export PATH=$root/bin:$PATH GOTOOLCHAIN=local CGO_ENABLED=0
  export GOFLAGS="-trimpath -buildvcs=false ${GOFLAGS:-}"
  ;;
esac
for name in "$@"; do
  declare -F "do_$name" >/dev/null || die "no step $name; there are apt kube helm dns pause"
  "do_$name"
done
