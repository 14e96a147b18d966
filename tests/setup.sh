#!/bin/bash
# Installs what the tests need on Debian 12 or Ubuntu: real encoders and players. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")"

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
)
wanted=()
for command in "${!package[@]}"; do
  command -v "$command" >/dev/null || wanted+=("${package[$command]}")
done
# What GStreamer can do lies in packages without a command of their own; software OpenGL is what OBS draws with.
for name in gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly \
  gstreamer1.0-libav libgl1-mesa-dri; do
  dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || wanted+=("$name")
done
[ ${#wanted[@]} = 0 ] || ./apt-install.sh "${wanted[@]}"

# The lock is kept beside what was installed from it: the same lock means the same packages.
if ! cmp -s clients/package-lock.json clients/node_modules/.installed-lock; then
  (cd clients && npm ci --no-audit --no-fund --silent && cp package-lock.json node_modules/.installed-lock)
fi
