#!/bin/bash
# radosgw.sh DIR PORT MONITOR_PORT MONITOR_PORT_V1
#
# An S3 server on 127.0.0.1:PORT: Ceph's, one monitor, one disk, all below DIR, which goes with it. Says "ready" when it
# answers, and ends when its input does. The user's keys are AK and SKSKSKSK.
set -euo pipefail
dir=$1 port=$2
mkdir -p "$dir"/{mon,osd,rgw,run,log}
fsid=$(cat /proc/sys/kernel/random/uuid)
conf="$dir/ceph.conf" ring="$dir/keyring"
cat >"$conf" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$3,v1:127.0.0.1:$4]
mon initial members = a
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon max pg per osd = 1000
keyring = $ring
run dir = $dir/run
admin socket =
pid file =
crash dir = $dir/run
log file = $dir/log/\$name.log
[mon.a]
mon data = $dir/mon
[osd.0]
osd data = $dir/osd
osd objectstore = bluestore
bluestore block size = 8589934592
bluestore block create = true
bluestore fsck on mount = false
osd memory target = 939524096
[client.rgw]
rgw data = $dir/rgw
rgw frontends = beast endpoint=127.0.0.1:$port
rgw enable usage log = false
rgw dns name =
# A key for "aws:kms", which needs no service of its own like that.
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = tests-key=YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=
CONF

ceph() { command ceph --cluster ceph -c "$conf" -k "$ring" "$@"; }
{
  ceph-authtool --create-keyring "$ring" --gen-key -n mon. --cap mon 'allow *'
  ceph-authtool "$ring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  ceph-authtool "$ring" --gen-key -n client.rgw --cap mon 'allow rw' --cap osd 'allow rwx' --cap mgr 'allow rw'
  monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$3,v1:127.0.0.1:$4]" "$dir/monmap"
  ceph-mon -c "$conf" -i a --mkfs --monmap "$dir/monmap" --keyring "$ring"
} >/dev/null

daemons=()
finish() {
  [ ${#daemons[@]} = 0 ] || kill -9 "${daemons[@]}" 2>/dev/null
  wait 2>/dev/null
  rm -rf "$dir"
}
trap finish EXIT
trap 'exit 143' TERM HUP
ceph-mon -f -c "$conf" -i a -k "$ring" </dev/null &>"$dir/log/mon.out" &
daemons+=($!)
timeout 60 bash -c "until command ceph --connect-timeout 5 -c '$conf' -k '$ring' mon stat; do sleep 0.2; done" &>/dev/null
ceph-authtool "$ring" --gen-key -n osd.0 >/dev/null
osd=$(cat /proc/sys/kernel/random/uuid)
ceph osd new "$osd" -i <(echo "{\"cephx_secret\": \"$(ceph-authtool -p -n osd.0 "$ring")\"}") >/dev/null
ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd" -k "$ring" &>/dev/null
ceph-osd -f -c "$conf" -i 0 -k "$ring" </dev/null &>"$dir/log/osd.out" &
daemons+=($!)
admin() { radosgw-admin -c "$conf" -k "$ring" "$@" >/dev/null 2>&1; }
# The first command makes the zone as well.
admin user create --uid=tests --display-name=tests --access-key=AK --secret-key=SKSKSKSK
# A second storage class, which the server has to find when it starts.
place=(--placement-id default-placement --storage-class STANDARD_IA)
admin zonegroup placement add --rgw-zonegroup default "${place[@]}"
admin zone placement add --rgw-zone default "${place[@]}" --data-pool default.rgw.cold.data
radosgw -f -c "$conf" -n client.rgw -k "$ring" </dev/null &>"$dir/log/rgw.out" &
daemons+=($!)
timeout 100 bash -c "until exec 3<>/dev/tcp/127.0.0.1/$port; do sleep 0.1; done" &>/dev/null
echo ready
cat >/dev/null
