#!/bin/bash
# obs.sh defaults|low-latency RTMP_APP_ADDRESS KEY SECONDS
#
# A real OBS Studio under Xvfb publishes a clip with sound and the clock. `defaults` leaves the encoder as a fresh
# installation has it: x264 veryfast 2500 kb/s, B-frames, keyframe interval "auto". A line on stdin (or its end) is the
# "Stop Streaming" button. Last line: one JSON object.
set -uo pipefail
mode=$1 server=$2 key=$3 seconds=$4
here=$(cd "$(dirname "$0")" && pwd)
home=$(mktemp -d)
obs_pid= x_pid=

finish() {
  [ -n "$obs_pid" ] && kill -9 "$obs_pid" 2>/dev/null
  # Xvfb may wait for a client that was killed.
  [ -n "$x_pid" ] && kill -9 "$x_pid" 2>/dev/null
  wait 2>/dev/null
  rm -rf "$home"
}
trap finish EXIT
trap 'exit 143' TERM HUP

# OBS asks for news at its start; the proxy that is not there keeps it on this machine.
export HOME=$home XDG_CONFIG_HOME=$home/config XDG_CACHE_HOME=$home/cache XDG_RUNTIME_DIR=$home/run
export LIBGL_ALWAYS_SOFTWARE=1 QT_QPA_PLATFORM=xcb QT_LOGGING_RULES='*=false' NO_AT_BRIDGE=1 LC_ALL=C.UTF-8
export http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 no_proxy=127.0.0.1,localhost
settings=$XDG_CONFIG_HOME/obs-studio
profile=$settings/basic/profiles/Test
mkdir -p -m 700 "$XDG_RUNTIME_DIR"
mkdir -p "$profile" "$settings/basic/scenes"

clip=$home/clip.mp4
ffmpeg -v error -f lavfi -i testsrc2=s=640x360:r=30 -f lavfi -i sine=440:r=48000 -af volume=3 -t 10 \
  -c:v libx264 -preset ultrafast -g 30 -pix_fmt yuv420p -c:a aac -ac 2 "$clip" || exit 1

cat >"$settings/global.ini" <<I
[General]
FirstRun=true
Pre19Defaults=false
Pre21Defaults=false
Pre23Defaults=false
Pre24.1Defaults=false
Pre31Migrated=true
EnableAutoUpdates=false
ConfirmOnExit=false
LastVersion=553779201
InfoIncrement=99
[Basic]
Profile=Test
ProfileDir=Test
SceneCollection=Test
SceneCollectionFile=Test
ConfigOnNewProfile=false
[BasicWindow]
SysTrayEnabled=true
SysTrayWhenStarted=true
WarnBeforeStartingStream=false
PreviewEnabled=false
I
cp "$settings/global.ini" "$settings/user.ini"

output=Simple
[ "$mode" = low-latency ] && output=Advanced
cat >"$profile/basic.ini" <<I
[General]
Name=Test
[Output]
Mode=$output
Reconnect=true
RetryDelay=1
MaxRetries=10
[Stream1]
IgnoreRecommended=true
[AdvOut]
ApplyServiceSettings=false
TrackIndex=1
Encoder=obs_x264
AudioEncoder=ffmpeg_aac
Track1Bitrate=128
[Video]
BaseCX=640
BaseCY=360
OutputCX=640
OutputCY=360
FPSType=1
FPSInt=30
ColorFormat=NV12
ColorSpace=709
ColorRange=Partial
[Audio]
SampleRate=48000
ChannelSetup=Stereo
I
echo '{"rate_control":"CBR","bitrate":1500,"keyint_sec":1,"preset":"ultrafast","profile":"baseline","tune":"zerolatency","bf":0}' \
  >"$profile/streamEncoder.json"
echo "{\"type\":\"rtmp_custom\",\"settings\":{\"server\":\"$server\",\"key\":\"$key\",\"use_auth\":false}}" >"$profile/service.json"

item() { # id name uuid
  echo "{\"id\":$1,\"name\":\"$2\",\"source_uuid\":\"$3\",\"visible\":true,\"align\":5,\"pos\":{\"x\":0.0,\"y\":0.0},\"scale\":{\"x\":1.0,\"y\":1.0},\"rot\":0.0,\"bounds_type\":0,\"bounds\":{\"x\":0.0,\"y\":0.0}}"
}
clip_id=11111111-1111-4111-8111-111111111111 clock_id=22222222-2222-4222-8222-222222222222
cat >"$settings/basic/scenes/Test.json" <<J
{"name":"Test","current_scene":"Scene","current_program_scene":"Scene","current_transition":"Cut","transition_duration":300,
"scene_order":[{"name":"Scene"}],"transitions":[],"groups":[],"quick_transitions":[],"saved_projectors":[],
"modules":{"scripts-tool":[{"path":"$here/clock.lua","settings":{}},{"path":"$here/stop.lua","settings":{}}]},
"sources":[
{"id":"ffmpeg_source","versioned_id":"ffmpeg_source","name":"Clip","uuid":"$clip_id","enabled":true,"muted":false,"volume":1.0,"mixers":255,"settings":{"is_local_file":true,"local_file":"$clip","looping":true,"restart_on_activate":false,"hw_decode":false}},
{"id":"headwater_clock","versioned_id":"headwater_clock","name":"Clock","uuid":"$clock_id","enabled":true,"settings":{}},
{"id":"scene","versioned_id":"scene","name":"Scene","uuid":"33333333-3333-4333-8333-333333333333","enabled":true,"settings":{"id_counter":2,"items":[$(item 1 Clip $clip_id),$(item 2 Clock $clock_id)]}}
]}
J

exec 9>"$home/display"
Xvfb -displayfd 9 -screen 0 1280x800x24 -nolisten tcp >"$home/xvfb.log" 2>&1 &
x_pid=$!
for _ in $(seq 100); do [ -s "$home/display" ] && break; sleep 0.1; done
export DISPLAY=:$(tr -d '\n' <"$home/display")

obs --startstreaming --minimize-to-tray --multi --disable-shutdown-check --disable-updater --disable-missing-files-check \
  --collection Test --profile Test --scene Scene --verbose >"$home/obs.out" 2>&1 </dev/null &
obs_pid=$!
log() { cat "$settings"/logs/*.txt 2>/dev/null; }

connected=false stopped=false
for _ in $(seq 300); do
  if log | grep -qE 'Connection to .* successful|Streaming Start'; then connected=true; break; fi
  kill -0 "$obs_pid" 2>/dev/null || break
  sleep 0.1
done
if [ $connected = true ]; then
  echo '{"publishing":true}'
  # A signal would not do: in a shell's background job it is ignored, and OBS inherits that.
  read -r -t "$seconds"
  touch "$HOME/stop"
  for _ in $(seq 100); do [ -e "$HOME/stopped" ] && break; sleep 0.1; done
  # OBS hangs every now and then while it quits, so it is killed: its stream is over.
  [ -e "$HOME/stopped" ] && stopped=true
else
  log | tail -40 >&2
  tail -20 "$home/obs.out" >&2
fi
dropped=$(log | grep -oE 'Number of dropped frames[^:]*: [0-9]+' | grep -oE '[0-9]+$' | tail -1)
echo "{\"last\":true,\"ok\":$stopped,\"dropped\":${dropped:-0}}"
[ $stopped = true ]
