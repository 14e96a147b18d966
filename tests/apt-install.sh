#!/bin/sh
# Installs Debian or Ubuntu packages, as root or by sudo.
set -e
export DEBIAN_FRONTEND=noninteractive
as_root=$([ "$(id -u)" = 0 ] || echo sudo)
echo "installing: $*"
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
