//! What HLS players see of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::http::StatusCode;
use headwater_common::{
    finder::Finder,
    live::{Start, Status},
    media::Kind,
};

use tokio::time::timeout;

use super::stage::{BORN_US, Edge, GOP_US, Origin, PATIENCE, id, read_until, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_edge_has_the_whole_ring_and_a_full_playlist_at_once() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 40, 3);
    camera.play(31_000_000);
    let edge = Edge::of("edge", &origin);
    let here = edge.pieces().await;
    // As the node itself would serve it.
    let published = Edge::new("published");
    let pages = crate::hls::Hls::new(Finder::hub(origin.hub.clone()), origin.node.clone(), &published.telemetry);
    let published = published.serving(pages);
    assert_eq!(segments(&here.0), segments(&published.pieces().await.0), "at the first request");
    assert!(segments(&here.0).len() >= 3, "{}", here.0);
    // Parts of the open segment follow as they are cut.
    let same = async {
        while edge.pieces().await.0 != published.pieces().await.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, same).await.expect("the same playlist");
    let copied = edge.find().await;
    for kind in [Kind::Video, Kind::Audio] {
        let ring = |broadcast: &headwater_common::live::Broadcast| {
            let mut reader = broadcast.source(kind).unwrap().read(Start::Oldest);
            std::iter::from_fn(move || reader.try_next()).map(|frame| frame.dts_us).collect::<Vec<_>>()
        };
        assert_eq!(ring(&copied), ring(camera.broadcast()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_edges_serve_the_same_bytes_under_the_same_names() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 40, 3);
    camera.play(3_300_000);
    // One that was there from the beginning, one that comes later, one behind that.
    let early = Edge::of("early", &origin);
    early.pieces().await;
    for _ in 0..60 {
        camera.play(233_000);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let late = Edge::of("late", &origin);
    late.pieces().await;
    let tree = Origin::serving("late", late.hub.clone(), late.source.finder(), late.engine.clone()).await;
    let below = Edge::new("below");
    below.directory.tell(id(), Some(tree.upstream(1)));
    below.pieces().await;
    for _ in 0..20 {
        camera.play(233_000);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let newest = camera.broadcast().next_gop() - 2;
    for edge in [&early, &late, &below] {
        let name = format!("cam/{BORN_US:x}-1-{newest}.m4s");
        assert_eq!(edge.get(&name).await.0, StatusCode::OK, "{name}");
    }
    let lists = [early.pieces().await.1, late.pieces().await.1, below.pieces().await.1];
    let [first, second, third] = lists.map(BTreeSet::from_iter);
    let common: Vec<String> = first.into_iter().filter(|name| second.contains(name) && third.contains(name)).collect();
    let segments = common.iter().filter(|name| name.ends_with(".m4s") && name.matches('.').count() == 1);
    assert!(segments.count() >= 4 && common.iter().any(|name| name.ends_with(".mp4")), "{common:?}");
    for name in &common {
        let (status, bytes) = early.get(name).await;
        assert_eq!(status, StatusCode::OK, "{name}");
        for edge in [&late, &below] {
            assert_eq!(edge.get(name).await, (StatusCode::OK, bytes.clone()), "{name}");
        }
    }
}

/// In the order of the list.
fn segments(text: &str) -> Vec<String> {
    text.lines().filter(|line| line.ends_with(".m4s")).map(str::to_owned).collect()
}

/// Whoever comes late, and by whatever way.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_playlist_of_a_cold_edge_lists_what_those_list_that_were_there_all_the_time() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 40, 3);
    camera.play(11_300_000);
    // One where somebody talks, which no playlist was ever asked of.
    let talks = Edge::of("talks", &origin);
    let mut viewers = Vec::new();
    for kind in [Kind::Video, Kind::Audio] {
        viewers.push(talks.find().await.source(kind).unwrap().read(Start::Newest));
    }
    for viewer in &mut viewers {
        read_until(viewer, 11_250_000).await;
    }
    let warm = Edge::of("warm", &origin);
    let began = segments(&warm.pieces().await.0);
    assert!((3..=4).contains(&began.len()), "nobody made playlists before: {began:?}");
    until("not told", || camera.broadcast().is_deep()).await;
    let mut below = None;
    for second in 0..40 {
        // Neither is far behind when the next gop comes.
        camera.play(1_000_000);
        for viewer in &mut viewers {
            read_until(viewer, camera.at_us - 40_000).await;
        }
        let newest = camera.broadcast().next_gop() - 2;
        let name = format!("cam/{BORN_US:x}-1-{newest}.m4s");
        assert_eq!(warm.get(&name).await.0, StatusCode::OK, "{name}");
        let expected = segments(&warm.pieces().await.0);
        if second == 6 {
            // The list has not grown to its full length yet.
            assert!(expected.len() < 10 && expected[0] == began[0], "{expected:?}");
        } else if second < 35 {
            continue;
        }
        let cold = Edge::of("cold", &origin);
        assert_eq!(segments(&cold.pieces().await.0), expected, "after {second} s");
        if second > 6 && below.is_none() {
            assert!((10..=11).contains(&expected.len()), "{expected:?}");
            let tree = Origin::serving("talks", talks.hub.clone(), talks.source.finder(), talks.engine.clone()).await;
            let edge = Edge::new("below");
            edge.directory.tell(id(), Some(tree.upstream(1)));
            assert_eq!(segments(&edge.pieces().await.0), expected, "from an edge that makes no playlists");
            assert_eq!(segments(&talks.pieces().await.0), expected, "from what viewers in real time were sent");
            below = Some((tree, edge));
        }
    }
    let video = camera.broadcast().source(Kind::Video).unwrap().stats();
    assert!(video.ring_frames <= 30 * 26, "{video:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_another_edges_playlist_is_there_on_one_that_nobody_has_asked_before() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 40, 3);
    camera.play(25_000_000);
    let (warm, cold) = (Edge::of("warm", &origin), Edge::of("cold", &origin));
    let names = warm.pieces().await.1;
    let last = names.last().unwrap();
    let (one, other) = (warm.get(last).await, cold.get(last).await);
    assert_eq!(one.0, StatusCode::OK);
    assert_eq!(one, other, "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_takes_over_goes_on_with_the_numbers_whatever_its_clock_says() {
    for clock_us in [12_500_000, 9_000_000, 20_000_000] {
        let (first, second) = (Origin::new("first").await, Origin::new("second").await);
        let mut camera = first.camera(1, 40, 3);
        camera.play(11_000_000);
        let edge = Edge::of("edge", &first);
        let broadcast = edge.find().await;
        let mut reader = edge.read(Kind::Video).await;
        let before = edge.pieces().await;
        read_until(&mut reader, 10_950_000).await;
        let next_gop = camera.broadcast().next_gop();
        drop(camera);
        drop(first);
        until("nobody noticed", || broadcast.status() == Status::Interrupted).await;

        let mut camera = second.camera(2, next_gop, 4);
        camera.clock_us = clock_us;
        camera.play(7_000_000);
        edge.directory.tell(id(), Some(second.upstream(2)));
        until("nobody went there", || broadcast.status() == Status::Live).await;
        let frames = read_until(&mut reader, clock_us + 6_900_000).await;
        assert!(frames[0].keyframe && frames.iter().all(|frame| frame.gop.epoch == 2));
        assert_eq!((frames[0].gop.id, frames[0].dts_us), (next_gop, clock_us));
        assert!(Arc::ptr_eq(&broadcast, &edge.find().await), "viewers stay where they are");

        let name = format!("cam/{BORN_US:x}-2-{}.m4s", next_gop + 1);
        assert_eq!(edge.get(&name).await.0, StatusCode::OK);
        let (text, after) = edge.pieces().await;
        assert!(before.1.iter().filter(|name| name.ends_with(".m4s")).all(|name| edge_lists(&after, name)), "{text}");
        assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{text}");
        assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:42\n"), "{text}");
        // As much of the first owner's last gop is there as any edge can know of it.
        let seconds: Vec<f64> =
            text.lines().filter_map(|line| line.strip_prefix("#EXTINF:")?.trim_end_matches(',').parse().ok()).collect();
        assert!((seconds[3] - 0.8).abs() < 0.1, "{clock_us}: {seconds:?}");
        assert!(seconds.iter().all(|s| *s <= GOP_US as f64 / 1e6 + 0.1), "{clock_us}: {seconds:?}");
    }
}

/// Parts of old segments are not listed any more.
fn edge_lists(names: &[String], name: &String) -> bool {
    names.contains(name) || name.matches('.').count() == 2
}
