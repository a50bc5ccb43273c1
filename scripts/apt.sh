#!/usr/bin/env bash
# apt.sh PACKAGE...: installs Debian packages, as root, without a question. Waits for another apt or
# dpkg, five minutes for each lock: a fresh cloud machine runs one by itself.
set -euo pipefail

WITHIN_S=300
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# DPkg::Lock::Timeout covers the locks of dpkg and of the archives, not that of the package lists.
until output=$(apt-get update -qq 2>&1); do
  if [[ $output != *"Could not get lock"* ]] || [ "$SECONDS" -ge "$WITHIN_S" ]; then
    printf '%s\n' "$output" >&2
    exit 1
  fi
  [ -n "${announced:-}" ] || echo "apt.sh: another program holds the package lists' lock; waiting" >&2
  announced=1
  sleep 1
done
apt-get -o DPkg::Lock::Timeout="$WITHIN_S" install -y -qq --no-install-recommends "$@" >/dev/null
