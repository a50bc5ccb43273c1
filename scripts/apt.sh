#!/usr/bin/env bash
# apt.sh PACKAGE...: installs Debian packages, as root, without a question. Another apt or dpkg is
# waited for, five minutes for each lock: a fresh cloud machine runs one by itself.
set -euo pipefail

WITHIN_S=300
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# DPkg::Lock::Timeout covers the locks of dpkg and of the archives, not that of the package lists.
until said=$(apt-get update -qq 2>&1); do
  if [[ $said != *"Could not get lock"* ]] || [ "$SECONDS" -ge "$WITHIN_S" ]; then
    printf '%s\n' "$said" >&2
    exit 1
  fi
  [ -n "${told:-}" ] || echo "apt.sh: another program holds the package lists' lock; waiting" >&2
  told=1
  sleep 1
done
apt-get -o DPkg::Lock::Timeout="$WITHIN_S" install -y -qq --no-install-recommends "$@" >/dev/null
