#!/usr/bin/env bash
# images.sh base|driver|workload|pause...  builds images with buildah: no container engine runs
# images.sh import NAME...                 gives them to every running node
# images.sh list [NODE]                    what a node has
#
# driver is the project's Dockerfile, as it is. Its base image is pulled where a registry answers;
# elsewhere Debian's packages of the same release and Python version stand in for it.
# Layers are cached: after a change of code only the project's own layer is rebuilt.
set -euo pipefail
. "$(dirname "$0")/env.sh"
one_at_a_time "$@"

BASE=docker.io/library/python:3.13-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285
STAND_IN=localhost/csi-s3-base:e2e # a digest is of one image only
MIRROR=${CSI_S3_E2E_MIRROR:-http://deb.debian.org/debian}
PIP_CONF=/etc/pip.conf UV_CONF=/etc/uv/uv.toml CA=/etc/ssl/certs/ca-certificates.crt

export BUILDAH_ISOLATION=chroot TMPDIR=$IMAGES/tmp
export STORAGE_DRIVER=${STORAGE_DRIVER:-overlay}
mkdir -p "$TMPDIR"

declare -A TAG=([driver]=localhost/csi-s3:e2e [workload]=localhost/csi-s3-workload:e2e [pause]=$PAUSE)
declare -A CONTEXT=([driver]=$REPO [workload]=$REPO/e2e/images/workload [pause]=$BIN)
declare -A FILE=([driver]=$REPO/Dockerfile [workload]=${CONTEXT[workload]}/Dockerfile [pause]=$HERE/pause/Dockerfile)

store() { buildah --root "$IMAGES/store" --runroot "$IMAGES/run" "$@"; }

# The machine's way to the package registries, for the build's commands alone: nothing of it is in
# the Dockerfile or the image. (Proxies come from the environment, buildah passes them on.)
registry_mounts() {
  local ca=${PIP_CERT:-${SSL_CERT_FILE:-}} conf=$IMAGES/conf
  mkdir -p "$conf"
  {
    echo "[global]"
    [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL"
    [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || echo "extra-index-url = $PIP_EXTRA_INDEX_URL"
    [ -z "${PIP_TRUSTED_HOST:-}" ] || echo "trusted-host = $PIP_TRUSTED_HOST"
    [ -z "$ca" ] || echo "cert = $CA"
  } >"$conf/pip.conf"
  {
    [ -z "$ca" ] || echo "system-certs = true"
    [ -z "${UV_DEFAULT_INDEX:-}" ] || printf '[[index]]\nurl = "%s"\ndefault = true\n' "$UV_DEFAULT_INDEX"
  } >"$conf/uv.toml"
  echo "--volume=$conf/pip.conf:$PIP_CONF:ro"
  echo "--volume=$conf/uv.toml:$UV_CONF:ro"
  [ -z "$ca" ] || echo "--volume=$ca:$CA:ro"
}

# Where no registry answers: the same Debian and Python, with the places and names that the
# Dockerfiles use. What -slim leaves out (documentation, locales) is left out here.
# shellcheck disable=SC2016 # mmdebstrap's hooks expand their own $1
stand_in() {
  say "no registry answers; making a stand-in for $BASE of Debian's packages"
  local release=${BASE%@*}; release=${release##*-}
  local tar=$TMPDIR/base.$$.tar container
  mmdebstrap --quiet --variant=minbase \
    --include=ca-certificates,python3-dev,python3-venv,python3-pip \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/lib/*/libpython*.a' \
    --customize-hook='ln -s /usr/bin/python3 "$1/usr/local/bin/python"' \
    --customize-hook='rm "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' \
    --customize-hook='rm "$1/etc/resolv.conf" "$1/etc/hostname" "$1"/var/cache/apt/*.bin' \
    --customize-hook="copy-in '$HERE/apt-clean.conf' /etc/apt/apt.conf.d" \
    --customize-hook='mkdir -p "$1/etc/uv" && touch "$1/etc/uv/uv.toml" "$1/etc/pip.conf"' \
    "$release" "$tar" "$MIRROR"
  container=$(store from scratch)
  store add --quiet "$container" "$tar" / >/dev/null
  store config --cmd python3 "$container"
  store commit --quiet --rm "$container" "$STAND_IN" >/dev/null
  rm "$tar"
}

has() { store inspect --type image "$1" >/dev/null 2>&1; }

do_base() {
  has "$BASE" || has "$STAND_IN" || make_base
}

make_base() {
  timeout 300 buildah --root "$IMAGES/store" --runroot "$IMAGES/run" pull --quiet "$BASE" \
    >/dev/null 2>"$TMPDIR/pull.log" || stand_in
}

# Builds an image and writes its archive, which nodes import, when it has changed.
build() { # name
  local name=$1 archive=$IMAGES/$1.tar started=$SECONDS id mounts base=$BASE
  has "$BASE" || base=$STAND_IN
  mapfile -t mounts < <(registry_mounts)
  store build --quiet --pull-never --layers --network host "${mounts[@]}" --build-arg "BASE=$base" --iidfile "$TMPDIR/$name.id" \
    --tag "${TAG[$name]}" --file "${FILE[$name]}" "${CONTEXT[$name]}" >"$TMPDIR/$name.log" 2>&1 ||
    { tail -40 "$TMPDIR/$name.log" >&2; die "the image $name could not be built"; }
  id=$(cat "$TMPDIR/$name.id")
  if [ "$(cat "$archive.id" 2>/dev/null)" != "$id" ]; then
    store push --quiet --disable-compression "${TAG[$name]}" "oci-archive:$archive.new:${TAG[$name]}"
    mv "$archive.new" "$archive"
    echo "$id" >"$archive.id"
  fi
  say "${TAG[$name]} is built, after $((SECONDS - started)) s"
}
do_driver() { do_base; build driver; }
do_workload() { do_base; build workload; }
do_pause() { build pause; }

# The digest by which containerd knows an archive's image.
digest() { tar -xOf "$1" index.json | jq -r '.manifests[0].digest'; }

do_import() { # NAME...
  local name node pid imports=()
  for name in "$@"; do
    [ -e "$IMAGES/$name.tar" ] || die "no image $name; images.sh $name builds it"
    for node in $(running_nodes); do import_to "$node" "$name" & imports+=($!); done
  done
  for pid in "${imports[@]}"; do wait "$pid"; done
}

import_to() { # node name
  local archive=$IMAGES/$2.tar started=$SECONDS
  ! node_ctr "$1" images ls "name==${TAG[$2]}" | grep -qF "$(digest "$archive")" || return 0
  # Two imports of images that share layers can meet containerd's collection of unused ones.
  node_ctr "$1" images import "$archive" >/dev/null 2>&1 ||
    { sleep 2; node_ctr "$1" images import "$archive" >/dev/null; }
  say "$1 has ${TAG[$2]}, after $((SECONDS - started)) s"
}

case ${1:-} in
  import) shift; do_import "$@" ;;
  list) node_ctr "${2:-node1}" images ls -q | grep -v ^sha256: ;;
  base | driver | workload | pause)
    for name in "$@"; do
      declare -F "do_$name" >/dev/null || die "no image $name; there are base driver workload pause"
      "do_$name"
    done ;;
  *) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
esac
