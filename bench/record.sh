#!/bin/bash
# What recording costs: the same publishers of 5 Mbit/s with and without it, in turn, release build, the server on one core,
# the generator on the other. Prints a table for RESULTS.md. BIN names another directory with both binaries. Loopback only,
# about five minutes and 2 GB below target/.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/settings.sh

MEASURE_S=${MEASURE_S:-20} ROUNDS=${ROUNDS:-3} COUNT=${COUNT:-20}
# A publisher's latest media fill the server's memory until then.
FULL_S=14
SERVER_CORE=${SERVER_CORE:-0} LOAD_CORE=${LOAD_CORE:-1}
HTTP=18070 RTMP=11925 RTC=15020

[ -n "${BIN:-}" ] || cargo build --release --locked -p headwater -p headwater-bench >&2
BIN=${BIN:-target/release}
mkdir -p target/bench
# Not below /tmp, which may be memory: a disk is part of what is measured.
dir=$(mktemp -d -p "$PWD/target/bench")
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
ffmpeg -nostdin -loglevel error -f lavfi -i testsrc2=size=1280x720:rate=30,noise=alls=20:allf=t \
	-f lavfi -i anoisesrc=r=48000:amplitude=0.1:seed=1 -t 16 -pix_fmt yuv420p -c:v libx264 -preset veryfast -profile:v main \
	-bf 0 -g 60 -keyint_min 60 -sc_threshold 0 -b:v 4900k -minrate 4900k -maxrate 4900k -bufsize 2450k -nal-hrd cbr \
	-c:a aac -b:a 96k -ac 2 -f flv "$dir/clip.flv"
settings "$dir/data" "$HTTP" "$RTMP" "$RTC" >"$dir/headwater.toml"
printf '[apps.live]\n[apps.kept]\nrecord = true\n' >>"$dir/headwater.toml"
taskset -c "$SERVER_CORE" "$BIN/headwater" --config "$dir/headwater.toml" >"$dir/log" 2>&1 &
server=$!
pids+=("$server")
until curl -fso /dev/null "http://127.0.0.1:$HTTP/readyz"; do sleep 0.2; done

rate=$(ffprobe -v error -of csv=p=0 -show_entries format=bit_rate "$dir/clip.flv")
echo "$COUNT publishers of $((rate / 1000)) kbit/s, $MEASURE_S s each. Load average at the start: $(cut -d" " -f1-3 /proc/loadavg)."
echo
echo "| round | | CPU ms of the server per publisher and second |"
echo "|---|---|---|"
run() { # ROUND LABEL APP
	local report
	report=$(taskset -c "$LOAD_CORE" "$BIN/headwater-bench" rtmp --url "rtmp://127.0.0.1:$RTMP/$3/r$1-{n}" \
		--file "$dir/clip.flv" --count "$COUNT" --seconds "$MEASURE_S" --settle "$FULL_S" --server-pid "$server" 2>/dev/null)
	jq -r --arg round "$1" --arg name "$2" '"| \($round) | \($name) | \(.server.cpu_us_per_client_s / 10 | round / 100) |"' <<<"$report"
	# What was recorded is made into ordinary files, and is not charged to the next round.
	until [ "$(curl -fs "http://127.0.0.1:$HTTP/metrics" | awk '/^headwater_recordings(_finalising)? / { n += $2 } END { print n }')" = 0 ]; do
		sleep 0.5
	done
	rm -rf "$dir/data/kept/streams/"*.mp4
	sleep 15
}
for round in $(seq "$ROUNDS"); do
	run "$round" "not recorded" live
	run "$round" "recorded" kept
done
