//! A ladder and its recordings in a cluster: renditions are watched where they are not made, and a recording outlives the
//! node that writes it, as a file and as HLS.

use serde_json::{Value, json};

use crate::harness::{
    Player, Steadfast,
    cluster::{Cluster, Node, Plan},
    ffmpeg::{decodes, decodes_kept, decodes_live, height},
    heavy, playlist, s,
    site::send,
    until,
};

/// Of the clock's 640×360.
const LADDER: &str = "[apps.live]\nladder = [{ height = 240, video_kbps = 500, audio_kbps = 64 }, \
                      { height = 144, video_kbps = 150 }]\n[apps.live.recording]\nhls = true\n";
const FIRST: [&str; 4] = ["across.mp4", "small_144p150kbps.mp4", "across.vod.m3u8", "small_144p150kbps.vod.m3u8"];
const SECOND: [&str; 4] =
    ["across_1.mp4", "small_144p150kbps_1.mp4", "across_1.vod.m3u8", "small_144p150kbps_1.vod.m3u8"];

#[test]
fn renditions_are_watched_at_an_edge_and_recorded_where_the_publisher_is_also_after_a_death() {
    heavy(s(180), || {
        let mut cluster = Plan { edges: 1, settings: LADDER, ..Plan::default() }.start();
        let _publisher = Steadfast::publish(&cluster.balancer.rtmp_url("live/across"));
        cluster.until_status(cluster.nodes(), "across", "broadcasting");
        let owner = cluster.owner("across");
        let list = until("a list of qualities", s(20), || {
            let list = cluster.edges[0].get("/live/streams/across_adaptive.m3u8");
            list.status().is_success().then(|| list.text().expect("a playlist is text"))
        });
        for size in ["640x360", "426x240", "256x144"] {
            assert!(list.contains(&format!("RESOLUTION={size}")), "{list}");
        }
        assert_eq!(encoders(&cluster.origins[owner]), 0.0, "nobody watches");
        // Asked for where it is neither published nor recorded.
        switch(&cluster, "true");
        switch(&cluster, "true?resolutionHeight=144&fileName=small");
        until_told(cluster.nodes(), FIRST, "recording", "");

        for name in ["across_240p500kbps", "across_144p150kbps"] {
            decodes_live(&cluster.edges[0].url(&format!("/live/streams/{name}.m3u8")), 3);
        }
        let mut viewer = Player::antmedia(&cluster.edges[0], "live", "across");
        viewer.until_playing();
        viewer.press("info");
        let listed = viewer.until("the list", s(10), |report| report.at("antmedia.heights").is_array());
        assert_eq!(*listed.at("antmedia.heights"), json!([360, 240, 144]), "{:#}", listed.0);
        viewer.press("quality 144");
        viewer.until("the quality", s(20), |report| report.number("height") == 144.0);
        viewer.finish();

        cluster.origins[owner].kill();
        let survivors = [&cluster.origins[1 - owner], &cluster.edges[0]];
        let host = cluster.origins[owner].machine.address.to_string();
        until_told(survivors, FIRST, "finalising", &host);
        until_told(survivors, SECOND, "recording", "");

        cluster.origins[owner].start_again();
        until_told(cluster.nodes(), FIRST, "ready", "");
        switch(&cluster, "false?fileName=small&resolutionHeight=144");
        switch(&cluster, "false");
        until_told(cluster.nodes(), SECOND, "ready", "");
        for name in FIRST.into_iter().chain(SECOND) {
            for node in cluster.nodes() {
                let vod = vod(node, name).expect("listed");
                let file = node.dir.join(name);
                let bytes = node.get(&format!("/live/streams/{name}")).bytes().expect("the recording");
                assert!(vod["duration"].as_u64().is_some_and(|ms| ms > 1_000), "{vod:#}");
                std::fs::write(&file, bytes).expect("write the download");
            }
            // The same bytes for all.
            let files = cluster.nodes().map(|node| std::fs::read(node.dir.join(name)).expect("the download"));
            let files: std::collections::BTreeSet<_> = files.collect();
            assert_eq!(files.len(), 1, "{name}");
            plays_at(&cluster.edges[0], name);
        }
        until("the encoders to rest", s(60), || (encoders(&cluster.origins[1 - owner]) == 0.0).then_some(()));
    });
}

/// What was downloaded there, or by way of it if there is more to it than a file.
fn plays_at(edge: &Node, name: &str) {
    let (vod, file) = (vod(edge, name).expect("listed"), edge.dir.join(name));
    let lines = if name.starts_with("small_144p") { 144 } else { 360 };
    let Some(stem) = name.strip_suffix(".vod.m3u8") else {
        assert_eq!(vod["fileSize"], std::fs::metadata(&file).expect("the download").len(), "{vod:#}");
        decodes(&file);
        return assert_eq!(height(&file.display().to_string()), lines, "{name}");
    };
    let address = format!("/live/streams/{name}");
    let playlist = playlist::fetch(edge, &address).expect("a playlist");
    assert!(playlist.ended && playlist.text.contains("#EXT-X-PLAYLIST-TYPE:VOD\n"), "{}", playlist.text);
    let folder = format!("/live/streams/{stem}_{}/", vod["vodId"].as_str().expect("an id"));
    let mut bytes = playlist.text.len();
    for piece in playlist.segments.iter().map(|(uri, _)| uri).chain(&playlist.maps) {
        assert!(piece.starts_with(&folder), "{piece} is not in {folder}");
        let response = edge.get(piece);
        assert_eq!(response.status(), 200, "{piece}");
        bytes += response.bytes().expect("the piece").len();
    }
    assert_eq!(vod["fileSize"], bytes, "{vod:#}");
    decodes_kept(&edge.url(&address));
    assert_eq!(height(&edge.url(&address)), lines, "{name}");
}

fn encoders(origin: &Node) -> f64 {
    origin.metric("headwater_transcodes{", "video")
}

/// At the edge.
fn switch(cluster: &Cluster, how: &str) {
    let request = cluster.edges[0].request("PUT", &format!("/live/rest/v2/broadcasts/across/recording/{how}"));
    let response = send(request);
    assert_eq!(response.status(), 200, "{how}: {:?}", response.text());
}

fn vod(node: &Node, name: &str) -> Option<Value> {
    let listed = node.try_get("/live/rest/v2/vods/list/0/50").filter(|listed| listed.status().is_success())?;
    listed.json::<Vec<Value>>().expect("a list").into_iter().find(|vod| vod["vodName"] == name)
}

/// Each of these nodes says so of each of these recordings.
fn until_told<'a>(nodes: impl IntoIterator<Item = &'a Node>, names: [&str; 4], status: &str, words: &str) {
    for node in nodes {
        for name in names {
            until(&format!("{} to tell {name} as {status}", node.http), s(40), || {
                let vod = vod(node, name)?;
                let said = vod["description"].as_str().expect("a description");
                (vod["processStatus"] == status && said.contains(words)).then_some(())
            });
        }
    }
}
