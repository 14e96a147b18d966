//! What a whole cluster is for: one publisher, viewers on every edge, and the same answers from every node.

use serde_json::Value;

use crate::harness::{
    Clock, Player,
    cluster::{Node, Plan},
    crowd::Crowd,
    ffmpeg::decodes_live,
    heavy,
    playlist::{self, Playlist},
    s, until,
};

/// Viewers on each edge.
const CROWD: u32 = 5;
const PATH: &str = "/live/streams/everywhere.m3u8";

#[test]
fn a_broadcast_is_watched_on_every_edge() {
    heavy(s(150), || {
        let cluster = Plan::default().start();
        let _ffmpeg = Clock::default().publish(&cluster.balancer.rtmp_url("live/everywhere"));
        for node in cluster.nodes() {
            node.until_status("everywhere", "broadcasting");
        }
        until("a playlist", s(20), || playlist::fetch(&cluster.edges[0], PATH));
        // One after the other: it is the cluster that is measured, not how many pictures this machine can decode.
        for edge in &cluster.edges {
            let mut viewer = Player::whep(edge, "live", "everywhere");
            let first = viewer.until_playing();
            let seen = viewer.measure(3.0);
            assert!(seen.number("frames") > 15.0 && seen.number("backwards") == 0.0, "{:#}", seen.0);
            seen.assert_sound();
            println!(
                "WebRTC through an edge: first picture {} ms after the answer, delay {}",
                first.number("first_picture_ms"),
                seen.at("delay_ms")
            );
            viewer.finish();
        }
        an_edge_that_made_no_playlist_lists_the_same(&cluster.edges[0], &cluster.edges[1]);
        // The balancer sends each request to the next edge: playlist from one, segment from the other.
        let mut hls = Player::hls(&cluster.balancer, "live", "everywhere");
        hls.until_playing();
        let seen = hls.measure(4.0);
        assert!(seen.number("frames") > 30.0 && seen.number("backwards") == 0.0, "{:#}", seen.0);
        println!("LL-HLS through all edges: delay {}", seen.at("delay_ms"));
        // Its own impatience, where it has no time to decode, has no status.
        let refused =
            |error: &Value| error["fatal"] == true || error["status"].as_u64().is_some_and(|status| status >= 400);
        assert!(!seen.at("hls.errors").as_array().expect("a list").iter().any(refused), "{:#}", seen.0);
        let watch = |edge: &Node| Crowd::watch(&edge.url("/live/whep/everywhere"), cluster.network.test(), CROWD, 6);
        let mut crowds: Vec<_> = cluster.edges.iter().map(watch).collect();
        crowds.iter_mut().for_each(Crowd::until_measuring);
        for node in cluster.nodes() {
            until("every node to count all viewers", s(10), || {
                let broadcast = node.broadcast("live", "everywhere")?;
                let counted = broadcast["webRTCViewerCount"] == 2 * CROWD && broadcast["hlsViewerCount"].as_u64()? >= 1;
                counted.then_some(())
            });
        }
        hls.finish();
        for seen in crowds.into_iter().map(Crowd::finish) {
            assert_eq!((&seen["joined"], &seen["disconnected"]), (&CROWD.into(), &0.into()), "{seen:#}");
        }
        decodes_live(&cluster.balancer.url(PATH), 4);
        edges_cut_the_same_segments(&cluster.edges.iter().map(|edge| &***edge).collect::<Vec<_>>());
        for node in cluster.nodes() {
            until("every node to know that the viewers left", s(10), || {
                (node.broadcast("live", "everywhere")?["webRTCViewerCount"] == 0).then_some(())
            });
        }
    });
}

/// At the first request. Else the list of a player that is sent from one edge to the other would go back.
fn an_edge_that_made_no_playlist_lists_the_same(warm: &Node, cold: &Node) {
    let listed_s = |list: &Playlist| list.segments.iter().map(|(_, seconds)| seconds).sum::<f64>();
    let full = |list: &Playlist| listed_s(list) >= 20.0;
    let before = until("a playlist of full length", s(40), || playlist::fetch(warm, PATH).filter(full));
    let first = playlist::fetch(cold, PATH).expect("a playlist");
    let after = playlist::fetch(warm, PATH).expect("a playlist");
    println!("first playlist of a cold edge: {} segments, {:.1} s", first.segments.len(), listed_s(&first));
    // Either may be a moment behind the other one.
    let alike = before.media_sequence.saturating_sub(1)..=after.media_sequence + 1;
    assert!(alike.contains(&first.media_sequence), "{}\n{}\n{}", before.text, first.text, after.text);
    assert!(listed_s(&first) > 19.0, "{}", first.text);
}

fn edges_cut_the_same_segments(edges: &[&crate::harness::Site]) {
    let lists: Vec<Playlist> = edges.iter().map(|edge| playlist::fetch(edge, PATH).expect("a playlist")).collect();
    assert_eq!(lists[0].maps, lists[1].maps);
    let listed_by_both = |uri: &&String| lists[1].segments.iter().any(|(other, _)| other == *uri);
    let common: Vec<_> = lists[0].segments.iter().map(|(uri, _)| uri).filter(listed_by_both).collect();
    assert!(common.len() >= 2, "{}\n{}", lists[0].text, lists[1].text);
    for uri in common.into_iter().chain(&lists[0].maps) {
        let [one, other] = [0, 1].map(|edge: usize| edges[edge].get(uri).bytes().expect("a segment"));
        assert!(one.len() > 500 && one == other, "{uri}: {} and {} bytes", one.len(), other.len());
    }
    println!("both edges: {} segments, the same bytes", lists[0].segments.len());
}
