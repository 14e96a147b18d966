//! When pulls begin and end, and what travels the other way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use headwater_common::{
    live::{Start, Status},
    media::{Accepts, Codec, Conversion, Delivery, Kind},
    relay::{Pieces, wire},
    rtc::{Side, To, Utterance},
};
use headwater_proto::{Hold, Open, Piece, Want, Wish, piece, wish};
use tokio::{sync::mpsc, time::Instant, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::stage::{Edge, GOP_US, Origin, PATIENCE, audio_info, id, metric, read_until, until};

const RELAYED: &str = "headwater_sent_total{door=\"relay\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_told_at_once() {
    let edge = Edge::new("edge");
    let began = Instant::now();
    assert!(edge.source.find(&id()).await.is_none());
    // Known, and not there any more.
    let origin = Origin::new("origin").await;
    edge.directory.tell(id(), Some(origin.upstream(1)));
    assert!(edge.source.find(&id()).await.is_none());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_broadcast_is_told_when_it_begins() {
    let (edge, origin) = (Edge::new("edge"), Origin::new("origin").await);
    let source = edge.source.clone();
    let waits = tokio::spawn(async move { source.until_live(&id()).await });
    let mut camera = origin.camera(1, 0, 0);
    camera.play(1_000_000);
    edge.directory.tell(id(), Some(origin.upstream(1)));
    timeout(PATIENCE, waits).await.expect("told").unwrap();
    assert_eq!(edge.find().await.status(), Status::Live);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_viewers_share_one_pull_and_no_frame_comes_that_nobody_reads() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    let made = camera.broadcast().derive(Conversion::Codec { from: Codec::Aac, to: Codec::Opus });
    camera.play(5_000_000);
    let edge = Edge::of("edge", &origin);
    let (one, two) = tokio::join!(edge.find(), edge.find());
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!(edge.metric("headwater_relay_upstreams"), 1);
    camera.play(GOP_US);
    until("what is known is not told", || one.next_gop() == camera.broadcast().next_gop()).await;
    assert_eq!(metric(&origin.telemetry, RELAYED), 0, "nobody reads");
    assert_eq!(one.publisher(), camera.broadcast().publisher());

    // Sound is made where somebody wants it, and only then.
    assert_eq!(made.track().readers(), 0);
    let choice = one.choose(Kind::Audio, Delivery::WebRtc(Accepts::EVERYWHERE)).expect("a conversion");
    assert_eq!(choice.track.name(), made.track().name());
    let reader = choice.track.read(Start::Newest);
    timeout(PATIENCE, made.track().wanted()).await.expect("wanted");
    let source = camera.broadcast().source(Kind::Audio).unwrap();
    assert_eq!(source.readers(), 0, "not the one it is made from");
    drop(reader);
    timeout(PATIENCE, made.track().unwanted()).await.expect("not wanted any more");

    let mut readers = [edge.read(Kind::Video).await, edge.read(Kind::Video).await];
    for reader in &mut readers {
        read_until(reader, 6_900_000).await;
    }
    let pictures = camera.broadcast().source(Kind::Video).unwrap();
    assert_eq!(pictures.readers(), 1);
    assert_eq!(metric(&origin.telemetry, RELAYED), pictures.stats().frames);
}

/// A rendition is begun with a whole gop of the past for playlists, and with the next picture for a conversation.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_of_the_past_is_made_for_those_only_who_want_that() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    let made = camera.broadcast().derive(Conversion::BFrames);
    camera.play(5_000_000);
    let (talks, lists) = (Edge::of("talks", &origin), Edge::of("lists", &origin));
    let read =
        async |edge: &Edge, start| edge.find().await.derived(Conversion::BFrames).expect("it is told of").read(start);
    let _viewer = read(&talks, Start::Newest).await;
    timeout(PATIENCE, made.track().wanted()).await.expect("wanted");
    assert!(!made.track().take_past_request());
    let _player = read(&lists, Start::Oldest).await;
    until("the past is not asked for", || made.track().take_past_request()).await;
}

/// Whoever makes playlists, at the end of a chain of edges, keeps the rings deep on all nodes of it; and so that they are
/// for whoever comes next, also on a node that never made one.
#[tokio::test(flavor = "multi_thread")]
async fn that_playlists_are_made_travels_up_and_that_rings_are_deep_travels_down() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(5_000_000);
    let (middle, talks) = (Edge::of("middle", &origin), Edge::of("talks", &origin));
    let tree = Origin::serving("middle", middle.hub.clone(), middle.source.finder(), middle.engine.clone()).await;
    let below = Edge::new("below");
    below.directory.tell(id(), Some(tree.upstream(1)));
    let broadcasts = [below.find().await, middle.find().await, talks.find().await];
    let deep = || broadcasts.each_ref().map(|broadcast| broadcast.is_deep());
    let published = camera.broadcast().clone();
    let held = || *published.holds().borrow();
    assert_eq!((deep(), published.is_deep()), ([false; 3], false));

    // While the tracks are read already, and for two.
    let _viewer = below.read(Kind::Video).await;
    let holds = [broadcasts[0].hold(), broadcasts[0].hold()];
    until("not told upwards", || held() == 1).await;
    until("not told downwards", || deep() == [true; 3]).await;
    let [one, other] = holds;
    drop(one);
    drop(other);
    until("not told that nobody does any more", || held() == 0).await;
    assert!(deep() == [true; 3] && published.is_deep(), "for a while");
    camera.play(31_000_000);
    until("deep for nobody", || deep() == [false; 3] && !published.is_deep()).await;

    // A node that is gone holds nothing.
    let (wishes, waiting) = mpsc::channel(4);
    let send = async |wish| wishes.send(Wish { pull: 1, wish: Some(wish) }).await.unwrap();
    send(wish::Wish::Open(Open { name: Some(wire::from_id(&id())), node: "gone".into() })).await;
    let pieces = Pieces::pull(origin.served.route.connection().channel, ReceiverStream::new(waiting)).await.unwrap();
    send(wish::Wish::Hold(Hold { held: true })).await;
    until("not held", || held() == 1).await;
    drop((pieces, wishes));
    until("held for nobody", || held() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_ends_a_while_after_the_last_viewer() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(3_000_000);
    let edge = Edge::of("edge", &origin);
    let mut reader = edge.read(Kind::Video).await;
    read_until(&mut reader, 2_900_000).await;
    let began = Instant::now();
    drop(reader);
    until("the pull goes on", || edge.hub.get(&id()).is_none()).await;
    assert!((13..19).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(edge.metric("headwater_relay_upstreams"), 0);
    // And another one begins.
    let mut reader = edge.read(Kind::Video).await;
    read_until(&mut reader, 2_900_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_pauses_is_no_stall() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(1_000_000);
    let edge = Edge::of("edge", &origin);
    let mut reader = edge.read(Kind::Video).await;
    read_until(&mut reader, 966_000).await;
    let broadcast = edge.find().await;
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_secs(5) {
        assert_eq!(broadcast.status(), Status::Live, "after {:?}", paused.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    camera.play(100_000);
    assert_eq!(read_until(&mut reader, 1_066_000).await.len(), 3);
    assert_eq!(edge.metric("headwater_errors_total{door=\"pull\"}"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wishes_for_keyframes_travel_back() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(3_000_000);
    let track = camera.broadcast().source(Kind::Video).unwrap();
    let edge = Edge::of("edge", &origin);
    let mut reader = edge.read(Kind::Video).await;
    read_until(&mut reader, 2_900_000).await;
    assert!(!track.take_keyframe_request(), "there is one");
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        reader.track().request_keyframe();
        until("no wish came", || track.take_keyframe_request()).await;
        fastest = fastest.min(began.elapsed());
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_change_with_the_frame_that_has_the_new_one() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(3_000_000);
    let edge = Edge::of("edge", &origin);
    let mut reader = edge.read(Kind::Audio).await;
    let mut other = audio_info();
    other.config = Bytes::from_static(&[0x12, 0x10]);
    camera.writer.announce(other.clone()).unwrap();
    camera.play(1_000_000);
    let frames = read_until(&mut reader, 3_950_000).await;
    let changed = frames.iter().position(|frame| *frame.info == other).expect("the new one");
    assert!(frames[..changed].iter().all(|frame| *frame.info == audio_info() && frame.dts_us < 3_000_000));
    assert!(frames[changed..].iter().all(|frame| *frame.info == other && frame.dts_us >= 3_000_000));
    // Told ahead where nobody reads.
    let pictures = edge.find().await.source(Kind::Video).unwrap();
    let mut large = super::stage::video_info();
    large.shape = headwater_common::media::Shape::Video { width: 1920, height: 1080, reorders: false };
    camera.writer.announce(large.clone()).unwrap();
    until("not told", || pictures.info().is_some_and(|info| *info == large)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_told_and_a_return_goes_on() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(3_000_000);
    let edge = Edge::of("edge", &origin);
    let broadcast = edge.find().await;
    let mut reader = edge.read(Kind::Video).await;
    camera.writer.finish(super::stage::BORN_US + 3_000_000);
    until("not told", || broadcast.status() == Status::Ended).await;
    read_until(&mut reader, 2_950_000).await;
    let mut camera = origin.camera(2, 0, 0);
    camera.clock_us = 5_000_000;
    camera.play(1_000_000);
    let frames = read_until(&mut reader, 5_900_000).await;
    assert_eq!((broadcast.status(), broadcast.epoch()), (Status::Live, 2));
    assert!(frames[0].keyframe);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so_and_how_its_broadcasts_ended() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(3_000_000);
    let edge = Edge::of("edge", &origin);
    let broadcast = edge.find().await;
    let track = camera.broadcast().source(Kind::Video).unwrap();
    let _reader = edge.read(Kind::Video).await;
    until("not read", || track.readers() == 1).await;
    let began = Instant::now();
    origin.node.stop();
    camera.writer.finish(super::stage::BORN_US + 3_000_000);
    until("not told", || broadcast.status() == Status::Ended).await;
    until("the pull goes on", || track.readers() == 0).await;
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_on_data_channels_crosses_nodes_and_does_not_come_back() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(1_000_000);
    let (left, right) = (Edge::of("left", &origin), Edge::of("right", &origin));
    // Whoever listens on the edges' far side hears what their viewers would.
    let mut viewers = [left.engine.corridor(&id(), Side::Below), right.engine.corridor(&id(), Side::Below)];
    let mut publisher = origin.engine.corridor(&id(), Side::Above);
    let _broadcasts = tokio::join!(left.find(), right.find());
    let said = |to, text: &'static [u8]| Utterance { to, binary: false, data: Bytes::from_static(text) };
    let now = std::time::Instant::now();
    publisher.say(said(To::Viewers, b"welcome"), now).unwrap();
    for viewer in &mut viewers {
        assert_eq!(timeout(PATIENCE, viewer.hear()).await.expect("heard"), said(To::Viewers, b"welcome"));
    }
    viewers[0].say(said(To::Everybody, b"hello"), now).unwrap();
    assert_eq!(timeout(PATIENCE, viewers[1].hear()).await.expect("heard"), said(To::Everybody, b"hello"));
    assert_eq!(timeout(PATIENCE, publisher.hear()).await.expect("heard"), said(To::Everybody, b"hello"));
    viewers[1].say(said(To::Publisher, b"psst"), now).unwrap();
    assert_eq!(timeout(PATIENCE, publisher.hear()).await.expect("heard"), said(To::Publisher, b"psst"));
    // Everything that was said has arrived by now: what comes next would be an echo.
    publisher.say(said(To::Viewers, b"bye"), now).unwrap();
    for viewer in &mut viewers {
        assert_eq!(timeout(PATIENCE, viewer.hear()).await.expect("heard"), said(To::Viewers, b"bye"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_is_never_closed() {
    // Each was told that the other one has it.
    let (one, two) = (Edge::new("one"), Edge::new("two"));
    let serve = async |name, edge: &Edge| {
        Origin::serving(name, edge.hub.clone(), edge.source.finder(), edge.engine.clone()).await
    };
    let (first, second) = (serve("one", &one).await, serve("two", &two).await);
    one.directory.tell(id(), Some(second.upstream(1)));
    two.directory.tell(id(), Some(first.upstream(1)));
    let began = Instant::now();
    assert!(one.source.find(&id()).await.is_none());
    assert!(began.elapsed() < Duration::from_secs(5));

    // A chain whose first link is told to pull from the last one.
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(1_000_000);
    one.directory.tell(id(), Some(origin.upstream(1)));
    let broadcast = async {
        while two.source.find(&id()).await.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        two.find().await
    };
    let broadcast = timeout(PATIENCE, broadcast).await.expect("a chain");
    assert_eq!(broadcast.told().path, ["origin", "one"]);
    one.directory.tell(id(), Some(second.upstream(1)));
    let own = one.find().await;
    until("it pulls from below", || own.status() == Status::Interrupted).await;
    until("the one below is not told", || broadcast.status() == Status::Interrupted).await;
    assert!(!own.told().path.contains(&"two".to_owned()), "{:?}", own.told().path);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_holds_no_memory_and_goes_on_at_the_newest_picture() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(2_500_000);
    let (wishes, waiting) = mpsc::channel(4);
    let send = async |wish| wishes.send(Wish { pull: 1, wish: Some(wish) }).await.unwrap();
    send(wish::Wish::Open(Open { name: Some(wire::from_id(&id())), node: "slow".into() })).await;
    let mut pieces =
        Pieces::pull(origin.served.route.connection().channel, ReceiverStream::new(waiting)).await.unwrap();
    for track in 0..2 {
        send(wish::Wish::Want(Want { track, wanted: true, present: false })).await;
    }
    let mut frame = async || loop {
        let piece = timeout(PATIENCE, pieces.next()).await.expect("a piece").unwrap();
        if let Some(Piece { piece: Some(piece::Piece::Frame(frame)), .. }) = piece {
            return frame;
        }
    };
    while frame().await.dts_us < 2_400_000 {}
    // 600 pictures of 200 kB, and nobody takes them.
    let before = metric(&origin.telemetry, RELAYED);
    for _ in 0..20 {
        camera.play_with(1_000_000, 200_000);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let made = metric(&origin.telemetry, RELAYED) - before;
    assert!(made < 300, "{made} frames were made, some hundred fill the window");
    // What was under way, and then from a keyframe on.
    let mut last_us = 2_400_000;
    loop {
        let next = frame().await;
        if next.track == 0 {
            if next.dts_us - last_us > 1_000_000 {
                assert!(next.keyframe);
                assert!(next.dts_us > 18_000_000, "{}", next.dts_us);
                break;
            }
            last_us = next.dts_us;
        }
    }
    while frame().await.dts_us < 22_400_000 {}
}
