#!/bin/bash
# The standard series: the server on one core, the generator on the other. Where Debian's nginx with its RTMP module is
# installed (`apt-get install nginx libnginx-mod-rtmp`) it runs beside it, round by round. Prints a section for
# RESULTS.md; the JSON of every run stays in target/bench/runs.jsonl. Loopback only, about twelve minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/settings.sh

MEASURE_S=${MEASURE_S:-10}
# Between runs: a server may keep for some seconds what the last viewers needed, and that would count as idle.
PAUSE_S=7
# Until a publisher's latest media, which late viewers begin from, is complete.
FULL_S=14
SERVER_CORE=${SERVER_CORE:-0} LOAD_CORE=${LOAD_CORE:-1}
HTTP=18080 RTMP=11935 RTC=15000 NGINX_HTTP=18081 NGINX_RTMP=11936
NGINX_MODULE=/usr/lib/nginx/modules/ngx_rtmp_module.so

cargo build --release --locked -p headwater -p headwater-bench >&2
ulimit -n "$(ulimit -Hn)"
out=$PWD/target/bench
mkdir -p "$out"
: >"$out/runs.jsonl"
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

bench() { taskset -c "$LOAD_CORE" target/release/headwater-bench "$@"; }
# run LABEL ARGS…: one run; its JSON goes to the file and, for the table, into $last.
run() {
	local label=$1
	shift
	echo "== $label" >&2
	sleep "$PAUSE_S"
	last=$(bench "$@") || last='{}'
	jq -c --arg run "$label" '{run: $run} + .' <<<"$last" >>"$out/runs.jsonl"
}
# row LABEL EXPRESSION…: a line of the table from $last; what is missing is a dash.
row() {
	local label=$1 cells=
	shift
	for expression; do cells+=" $(jq -r "($expression) as \$v | if \$v == null then \"–\" else \$v end" <<<"$last") |"; done
	echo "| $label |$cells"
}
n() { echo "($1) | if . == null then null else (. * $2 | round / $2) end"; } # n EXPRESSION 10^DIGITS
publish() { # URL SECONDS: a publisher in the background for at most so long
	taskset -c "$LOAD_CORE" target/release/headwater-bench rtmp --url "$1" --seconds "$2" >/dev/null 2>&1 &
	publisher=$!
	pids+=("$publisher")
}
unpublish() { kill "$publisher" 2>/dev/null || true; wait "$publisher" || true; }
until_ok() { for _ in {1..100}; do curl -fso /dev/null "$1" && return; sleep 0.2; done; echo "no answer: $1" >&2; return 1; }

start_headwater() {
	settings "$dir/data" "$HTTP" "$RTMP" "$RTC" >"$dir/headwater.toml"
	taskset -c "$SERVER_CORE" target/release/headwater --config "$dir/headwater.toml" >"$out/headwater.log" 2>&1 &
	headwater=$!
	pids+=("$headwater")
	until_ok "http://127.0.0.1:$HTTP/readyz"
}
stop_headwater() { kill "$headwater"; wait "$headwater" || true; }

start_nginx() {
	mkdir -p "$dir/hls"
	cat >"$dir/nginx.conf" <<-CONF
		daemon off; master_process off; pid $dir/nginx.pid; error_log $dir/nginx.log warn;
		load_module $NGINX_MODULE;
		worker_rlimit_nofile 65536;
		events { worker_connections 16384; }
		rtmp { server { listen 127.0.0.1:$NGINX_RTMP;
			application live { live on; }
			application hls { live on; hls on; hls_path $dir/hls; hls_fragment 2s; hls_playlist_length 10s; } } }
		http { access_log off; sendfile on; keepalive_requests 1000000;
			types { application/vnd.apple.mpegurl m3u8; video/mp2t ts; }
			server { listen 127.0.0.1:$NGINX_HTTP; location / { root $dir/hls; } } }
	CONF
	taskset -c "$SERVER_CORE" nginx -p "$dir" -c "$dir/nginx.conf" 2>/dev/null &
	nginx=$!
	pids+=("$nginx")
	until [ -s "$dir/nginx.pid" ]; do sleep 0.1; done
}

idle() { run "$1 idle" server --pid "$2" --seconds 3; row "$1" "$(n .server.rss_kb/1024 10)" "$(n .server.cpu_ms_per_s 100)" .server.threads; }
publishers() { # NAME PID URL COUNT
	run "$1 publishers $4" rtmp --url "$3" --count "$4" --seconds "$MEASURE_S" --settle "$FULL_S" --server-pid "$2"
	row "$1, $4" .published "$(n .server.cpu_us_per_client_s 1)" "$(n .server.kb_per_client 1)" "$(n .connect_ms.p50 10)" \
		"$(n .late_ms.p99 10)" "$(n .generator_cpu_ms_per_s 1)"
}
whip_publishers() { # COUNT
	run "whip publishers $1" whip --url "http://127.0.0.1:$HTTP/live/whip/w$1-{n}" --count "$1" --seconds "$MEASURE_S" \
		--settle "$FULL_S" --server-pid "$headwater"
	row "$1" .published "$(n .post_ms.p50 10)" "$(n .setup_ms.p50 10)" "$(n .setup_ms.p95 10)" "$(n .server.cpu_us_per_client_s 1)" \
		"$(n .server.kb_per_client 1)" .packets .nacks .lost .keyframes_wanted \
		"$(n .late_ms.p99 10)" "$(n .generator_cpu_ms_per_s 1)"
}
viewers() { # COUNT JOIN_RATE
	run "viewers $1 at $2/s" whep --url "http://127.0.0.1:$HTTP/live/whep/one" --count "$1" --join-rate "$2" \
		--seconds "$MEASURE_S" --server-pid "$headwater"
	row "$1 ($2/s)" .joined "$(n .joins_per_s 1)" "$(n .post_ms.p50 10)" "$(n .first_rtp_ms.p50 10)" \
		"$(n .first_keyframe_ms.p50 10)" "$(n .first_keyframe_ms.p95 10)" "$(n .server_cpu_us_per_packet 100)" \
		"$(n .server.cpu_ms_per_s 1)" "$(n .server.kb_per_client 1)" "$(n .delay_ms.p50 100)" "$(n .delay_ms.p95 100)" \
		"$(n .delay_ms.p99 100)" .lost .stalled "$(n .generator_cpu_ms_per_s 1)"
}
players() { # NAME PID URL COUNT [--low-latency]
	run "$1 players $4 ${5:-}" hls --url "$3" --count "$4" --seconds "$MEASURE_S" --server-pid "$2" ${5:+"$5"}
	row "$1${5:+ low latency}, $4" .playing .errors "$(n .requests_per_s 1)" "$(n .server_cpu_us_per_request 1)" "$(n .mbit_per_s 1)" \
		"$(n .first_media_ms.p50 10)" "$(n .behind_live_ms.p50 1)" "$(n .behind_live_ms.p95 1)" .stalled
}

with_nginx=; [ -e "$NGINX_MODULE" ] && command -v nginx >/dev/null && with_nginx=yes
start_headwater
[ -z "$with_nginx" ] || start_nginx

echo "## $(date -u +%F), $(git rev-parse --short HEAD)"
echo
echo "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), kernel $(uname -r). Server on one core, generator on another, $MEASURE_S s"
echo "measured each, 720p30 1.08 Mbit/s H.264 + 96 kbit/s AAC. Load average at the start: $(cut -d" " -f1-3 /proc/loadavg). Ratios within this section hold; absolute figures are this machine's."

echo; echo "### Idle"
echo; echo "| | memory MB | CPU ms/s | threads |"; echo "|---|---|---|---|"
idle headwater "$headwater"
[ -z "$with_nginx" ] || idle nginx-rtmp "$nginx"

echo; echo "### RTMP publishers"
echo; echo "| server, publishers | published | CPU µs per publisher and second | kB per publisher | connect ms p50 | generator late ms p99 | generator CPU ms/s |"
echo "|---|---|---|---|---|---|---|"
for count in 1 50 200; do
	publishers headwater "$headwater" "rtmp://127.0.0.1:$RTMP/live/p$count-{n}" "$count"
	[ -z "$with_nginx" ] || publishers nginx-rtmp "$nginx" "rtmp://127.0.0.1:$NGINX_RTMP/live/p$count-{n}" "$count"
done

# A fresh process: what 200 publishers left behind is not what others cost.
stop_headwater; start_headwater
echo; echo "### WebRTC publishers"
echo; echo "| publishers | published | POST ms p50 | until media flows ms p50 | p95 | CPU µs per publisher and second | kB per publisher | packets | asked for again | lost | keyframes asked for | generator late ms p99 | generator CPU ms/s |"
echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
for count in 1 50 150; do whip_publishers "$count"; done

stop_headwater; start_headwater
echo; echo "### WebRTC viewers of one stream"
echo; echo "| viewers (joining) | joined | joins/s | POST ms p50 | answer to first RTP ms p50 | to first keyframe ms p50 | p95 | CPU µs per packet | CPU ms/s | kB per viewer | added delay ms p50 | p95 | p99 | lost | stalled | generator CPU ms/s |"
echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
publish "rtmp://127.0.0.1:$RTMP/live/one" 1200
sleep 4
viewers 1 100
viewers 100 100
viewers 500 100
viewers 1000 100
viewers 200 0

echo; echo "### HLS players of one stream"
echo; echo "| server, players | playing | errors | requests/s | CPU µs per request | Mbit/s | first media ms p50 | behind live ms p50 | p95 | stalled |"
echo "|---|---|---|---|---|---|---|---|---|---|"
for count in 1 200; do
	players headwater "$headwater" "http://127.0.0.1:$HTTP/live/streams/one.m3u8" "$count" --low-latency
	players headwater "$headwater" "http://127.0.0.1:$HTTP/live/streams/one.m3u8" "$count"
done
unpublish
if [ -n "$with_nginx" ]; then
	publish "rtmp://127.0.0.1:$NGINX_RTMP/hls/one" 1200
	until_ok "http://127.0.0.1:$NGINX_HTTP/one.m3u8"
	for count in 1 200; do players nginx-rtmp "$nginx" "http://127.0.0.1:$NGINX_HTTP/one.m3u8" "$count"; done
	unpublish
fi
echo
echo "JSON of every run: target/bench/runs.jsonl"
