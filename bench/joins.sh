#!/bin/bash
# How long a viewer in Chromium waits for the first picture, release build: of a Chromium that publishes by WHIP and of
# FFmpeg by RTMP with a keyframe every two seconds. Prints a table for RESULTS.md. Needs what `make test` installs.
# HEADWATER names another binary, JOINS how many are made of each. Loopback only, about three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/settings.sh

JOINS=${JOINS:-50}
HTTP=18090 RTMP=11945 RTC=15010
headwater=${HEADWATER:-target/release/headwater}
[ -n "${HEADWATER:-}" ] || cargo build --release --locked -p headwater >&2
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
settings "$dir/data" "$HTTP" "$RTMP" "$RTC" >"$dir/headwater.toml"
"$headwater" --config "$dir/headwater.toml" >"$dir/log" 2>&1 &
pids+=($!)
until curl -fso /dev/null "http://127.0.0.1:$HTTP/readyz"; do sleep 0.2; done
ffmpeg -nostdin -hide_banner -loglevel error -re -f lavfi -i testsrc2=size=640x360:rate=30 -f lavfi -i sine=frequency=440:sample_rate=48000 \
	-c:v libx264 -preset ultrafast -tune zerolatency -b:v 1200k -g 60 -keyint_min 60 -sc_threshold 0 -pix_fmt yuv420p \
	-c:a aac -ac 2 -f flv "rtmp://127.0.0.1:$RTMP/live/rtmp" 2>"$dir/ffmpeg.log" &
pids+=($!)
at=http://127.0.0.1:$HTTP
until curl -fs "$at/live/rest/v2/broadcasts/rtmp" | grep -q '"broadcasting"'; do sleep 0.2; done

echo "$JOINS joins each, one after the other. Load average at the start: $(cut -d" " -f1-3 /proc/loadavg)."
echo
echo "| published by | answer ms p50 | p95 | connected p50 | p95 | first picture decoded p50 | p95 | max | shown p50 | p95 |"
echo "|---|---|---|---|---|---|---|---|---|---|"
row() { # LABEL ARGS…
	local label=$1
	shift
	node bench/joins.mjs "$@" --joins="$JOINS" | jq -r --arg name "$label" '[$name, .answered.p50, .answered.p95, .connected.p50,
		.connected.p95, .decoded.p50, .decoded.p95, .decoded.max, .shown.p50, .shown.p95] | "| \(map(tostring) | join(" | ")) |"'
}
row "FFmpeg by RTMP" "$at/live/whep/rtmp"
row "Chromium by WHIP" "$at/live/whep/whip" --publish="$at/live/whip/whip"
