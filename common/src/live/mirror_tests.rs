//! A broadcast of one hub, told to another one by hand.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::media::{Codec, Conversion, Delivery, Frame, Gop, Info, Kind, Sample, Shape};

const BORN_US: i64 = 1_700_000_000_000_000;
const SOURCE: Origin = Origin::Source;

fn id() -> BroadcastId {
    BroadcastId::new("live", "x").unwrap()
}

fn told(epoch: u64) -> Told {
    Told {
        status: Status::Live,
        epoch,
        claimed_epoch: epoch,
        epoch_began_us: BORN_US,
        next_gop: 7,
        segment_target_s: Some(2),
        publisher: Publisher { protocol: "rtmp", remote: "there".into(), agent: String::new() },
        path: vec!["owner".into()],
        ladder: Vec::new(),
        deep: false,
    }
}

fn info(config: &'static [u8]) -> Info {
    let shape = Shape::Video { width: 640, height: 360, reorders: false };
    Info { codec: Codec::H264, config: Bytes::from_static(config), shape }
}

fn declared(origin: Origin) -> Declared {
    Declared { name: "video".into(), kind: Kind::Video, origin, sent: true, info: Some(info(b"a")), waiting: false }
}

fn gop(id: u64, epoch: u64) -> Arc<Gop> {
    let start_us = id as i64 * 2_000_000;
    Arc::new(Gop { id, epoch, start_us, independent: true, has_video: true, ..Gop::default() })
}

fn sample(dts_us: i64, keyframe: bool, byte: u8) -> Sample {
    Sample { dts_us, pts_us: dts_us, keyframe, payload: Bytes::from(vec![byte; 10]) }
}

struct Stage {
    hub: Arc<Hub>,
    mirror: Mirror,
    lane: Lane,
}

impl Stage {
    fn new() -> Self {
        Self::of(Hub::new(), 1)
    }

    fn of(hub: Arc<Hub>, epoch: u64) -> Self {
        let mut mirror = hub.mirror(&id(), BORN_US, told(epoch), BORN_US).unwrap();
        let lane = mirror.declare(declared(SOURCE)).unwrap();
        mirror.begin_run(lane, false);
        Self { hub, mirror, lane }
    }

    fn append(&mut self, gop: &Arc<Gop>, dts_us: i64, keyframe: bool, byte: u8) -> Copied {
        self.mirror.append(self.lane, gop.clone(), sample(dts_us, keyframe, byte), BORN_US).unwrap()
    }

    fn frames(&self) -> Vec<Arc<Frame>> {
        let track = self.hub.get(&id()).unwrap().source(Kind::Video).unwrap();
        let mut reader = track.read(Start::Oldest);
        std::iter::from_fn(|| reader.try_next()).collect()
    }

    fn times(&self) -> Vec<i64> {
        self.frames().iter().map(|frame| frame.dts_us).collect()
    }
}

#[test]
fn readers_find_what_was_told_and_nothing_minted() {
    let mut stage = Stage::new();
    let first = gop(4, 1);
    assert_eq!(stage.append(&first, 8_000_000, true, 1), Copied::Kept);
    assert_eq!(stage.append(&first, 8_040_000, false, 2), Copied::Kept);
    let broadcast = stage.hub.get(&id()).unwrap();
    assert_eq!((broadcast.born_us(), broadcast.status(), broadcast.epoch()), (BORN_US, Status::Live, 1));
    assert_eq!((broadcast.next_gop(), broadcast.segment_target_s()), (7, Some(2)));
    assert_eq!(broadcast.told(), told(1));
    let choice = broadcast.choose(Kind::Video, Delivery::Mp4).unwrap();
    let frame = choice.track.read(Start::Newest).try_next().unwrap();
    assert!(Arc::ptr_eq(&frame.gop, &first));
    assert_eq!((frame.dts_us, &*frame.info), (8_000_000, &info(b"a")));
    stage.append(&gop(9, 1), 18_000_000, true, 3);
    assert_eq!(broadcast.next_gop(), 10);
}

#[test]
fn nothing_begins_without_a_keyframe() {
    let mut stage = Stage::new();
    assert_eq!(stage.append(&gop(4, 1), 8_000_000, false, 1), Copied::LeftOut);
    assert_eq!(stage.append(&gop(5, 1), 10_000_000, true, 2), Copied::Kept);
}

#[test]
fn a_telling_that_begins_anew_goes_on_without_a_break() {
    let mut stage = Stage::new();
    let frames = [(0, true, 1), (40, false, 2), (80, false, 3), (120, false, 4)];
    frames.iter().for_each(|&(us, key, byte)| assert_eq!(stage.append(&gop(0, 1), us, key, byte), Copied::Kept));
    let Stage { hub, mirror, .. } = stage;
    drop(mirror);
    let mut stage = Stage::of(hub, 1);
    for &(us, key, byte) in &frames {
        assert_eq!(stage.append(&gop(0, 1), us, key, byte), Copied::LeftOut);
    }
    assert_eq!(stage.append(&gop(0, 1), 160, false, 5), Copied::Kept);
    assert_eq!(stage.times(), [0, 40, 80, 120, 160]);
}

#[test]
fn other_bytes_at_the_same_time_are_another_encoding_and_wait_for_its_keyframe() {
    let mut stage = Stage::new();
    [(0, true, 1), (40, false, 2)].iter().for_each(|&(us, key, byte)| {
        stage.append(&gop(0, 1), us, key, byte);
    });
    stage.mirror.begin_run(stage.lane, false);
    for (us, key, byte, becomes) in [
        (0, true, 11, Copied::LeftOut),
        (40, false, 12, Copied::LeftOut),
        (80, false, 13, Copied::LeftOut),
        (120, true, 14, Copied::Kept),
        (160, false, 15, Copied::Kept),
    ] {
        assert_eq!(stage.append(&gop(0, 1), us, key, byte), becomes, "{us}");
    }
    assert_eq!(stage.times(), [0, 40, 120, 160]);
}

#[test]
fn what_is_missing_in_between_is_skipped_to_a_keyframe() {
    let mut stage = Stage::new();
    stage.append(&gop(0, 1), 0, true, 1);
    stage.mirror.begin_run(stage.lane, false);
    assert_eq!(stage.append(&gop(3, 1), 6_000_000, true, 2), Copied::Kept);
    assert_eq!(stage.append(&gop(3, 1), 6_040_000, false, 3), Copied::Kept);
}

#[test]
fn a_newer_owner_goes_on_in_the_same_objects_whatever_its_clock_says() {
    let mut stage = Stage::new();
    let broadcast = stage.hub.get(&id()).unwrap();
    let mut reader = broadcast.source(Kind::Video).unwrap().read(Start::Live);
    stage.append(&gop(4, 1), 8_000_000, true, 1);
    stage.append(&gop(4, 1), 9_000_000, false, 2);
    let Stage { hub, mirror, .. } = stage;
    drop(mirror);
    assert_eq!(broadcast.status(), Status::Interrupted);
    let mut stage = Stage::of(hub, 2);
    assert!(Arc::ptr_eq(&stage.hub.get(&id()).unwrap(), &broadcast));
    assert_eq!((broadcast.status(), broadcast.epoch()), (Status::Live, 2));
    // Its clock is behind.
    assert_eq!(stage.append(&gop(5, 2), 8_500_000, false, 3), Copied::LeftOut);
    assert_eq!(stage.append(&gop(5, 2), 8_600_000, true, 4), Copied::Kept);
    let read: Vec<i64> = std::iter::from_fn(|| reader.try_next()).map(|frame| frame.dts_us).collect();
    assert_eq!(read, [8_000_000, 9_000_000, 8_600_000]);
    let track = broadcast.source(Kind::Video).unwrap();
    assert!(track.read(Start::At { dts_us: 8_700_000 }).try_next().is_none());
}

#[test]
fn who_is_outrun_writes_nothing_more() {
    let mut stage = Stage::new();
    stage.append(&gop(4, 1), 8_000_000, true, 1);
    let mut second = stage.hub.mirror(&id(), BORN_US, told(2), BORN_US).unwrap();
    let late = stage.mirror.append(stage.lane, gop(4, 1), sample(8_040_000, false, 2), BORN_US);
    assert_eq!(late, Err(MirrorError::Fenced(id())));
    assert!(matches!(stage.mirror.tell(told(3), BORN_US), Err(MirrorError::Fenced(_))));
    drop(stage.mirror);
    assert_eq!(second.broadcast().status(), Status::Live, "it is another one's by now");
    let outdated = MirrorError::Outdated { id: id(), known: 2, told: 1 };
    assert_eq!(second.tell(told(1), BORN_US), Err(outdated.clone()));
    assert_eq!(stage.hub.mirror(&id(), BORN_US, told(1), BORN_US).unwrap_err(), outdated);
    let lane = second.declare(declared(SOURCE)).unwrap();
    let ahead = second.append(lane, gop(9, 3), sample(18_000_000, true, 2), BORN_US);
    assert_eq!(ahead, Err(MirrorError::Untold { epoch: 3 }));
}

#[test]
fn an_owner_whose_claim_was_made_anew_goes_on_after_another_one() {
    let mut stage = Stage::new();
    stage.append(&gop(4, 1), 8_000_000, true, 1);
    stage.mirror.tell(told(2), BORN_US).unwrap();
    stage.append(&gop(5, 2), 10_000_000, true, 2);
    // The first publisher was there all the time; its gops are of its epoch and have higher numbers now.
    let renewed = Told { epoch: 1, claimed_epoch: 3, ..told(1) };
    stage.mirror.tell(renewed, BORN_US).unwrap();
    assert_eq!(stage.append(&gop(9, 1), 11_000_000, false, 3), Copied::LeftOut);
    assert_eq!(stage.append(&gop(10, 1), 12_000_000, true, 4), Copied::Kept);
    assert_eq!(stage.append(&gop(10, 1), 12_040_000, false, 5), Copied::Kept);
    assert!(stage.times().ends_with(&[10_000_000, 12_000_000, 12_040_000]));
    let outdated = MirrorError::Outdated { id: id(), known: 3, told: 2 };
    assert_eq!(stage.mirror.tell(told(2), BORN_US), Err(outdated));
}

#[test]
fn another_birth_is_another_broadcast() {
    let mut stage = Stage::new();
    stage.append(&gop(4, 1), 8_000_000, true, 1);
    let old = stage.hub.get(&id()).unwrap();
    let mut reader = old.source(Kind::Video).unwrap().read(Start::Live);
    let new = stage.hub.mirror(&id(), BORN_US + 1, told(2), BORN_US).unwrap();
    assert!(old.is_over() && !Arc::ptr_eq(&old, new.broadcast()));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(matches!(reader.poll_next(&mut cx), std::task::Poll::Ready(None)));
    assert!(matches!(stage.mirror.tell(told(9), BORN_US), Err(MirrorError::Fenced(_))));
}

#[test]
fn what_is_published_here_is_never_copied_over() {
    let hub = Hub::new();
    let publisher = Publisher { protocol: "test", remote: String::new(), agent: String::new() };
    let claim = Claim { epoch: 5, next_gop: 3, discontinuity: 0, born_us: BORN_US, segment_target_s: None, publisher };
    let writer = hub.claim(&id(), claim.clone(), Takeover::Replace, BORN_US).unwrap();
    assert_eq!(hub.mirror(&id(), BORN_US, told(9), BORN_US).unwrap_err(), MirrorError::Own(id()));
    writer.finish(BORN_US);
    assert!(matches!(hub.mirror(&id(), BORN_US, told(5), BORN_US), Err(MirrorError::Outdated { .. })));
    let mut mirror = hub.mirror(&id(), BORN_US, told(6), BORN_US).unwrap();
    // And a publisher takes back what was copied.
    let mut writer = hub.claim(&id(), Claim { epoch: 7, ..claim }, Takeover::Replace, BORN_US).unwrap();
    assert!(matches!(mirror.tell(told(6), BORN_US), Err(MirrorError::Fenced(_))));
    writer.announce(info(b"a")).unwrap();
    writer.write(Kind::Video, sample(0, true, 1), BORN_US).unwrap();
    let broadcast = writer.broadcast();
    assert!(!broadcast.is_mirror());
    assert_eq!((broadcast.epoch(), broadcast.next_gop(), broadcast.segment_target_s()), (7, 8, Some(2)));
}

#[test]
fn an_end_lingers_and_is_swept_as_any_other() {
    let mut stage = Stage::new();
    let now_us = BORN_US + 500_000_000;
    stage.mirror.tell(Told { status: Status::Ended, ..told(1) }, now_us).unwrap();
    assert!(stage.hub.sweep(now_us + LINGER_US - 1).is_empty());
    assert!(stage.hub.get(&id()).is_some());
    stage.hub.sweep(now_us + LINGER_US);
    assert!(stage.hub.get(&id()).is_none());
    // One that had ended before it was copied stays as long.
    let mirror = stage.hub.mirror(&id(), BORN_US, Told { status: Status::Ended, ..told(1) }, now_us).unwrap();
    stage.hub.sweep(now_us + LINGER_US - 1);
    assert!(!mirror.broadcast().is_over());
    drop(mirror);

    let stage = Stage::of(Hub::new(), 1);
    drop(stage.mirror);
    assert_eq!(stage.hub.sweep(BORN_US + RESUME_US).len(), 1, "nobody came back to it");
}

#[test]
fn conversions_that_a_newer_owner_does_not_make_are_not_chosen() {
    let mut stage = Stage::new();
    let conversion = Conversion::BFrames;
    let reorders = Shape::Video { width: 640, height: 360, reorders: true };
    let source = Declared { info: Some(Info { shape: reorders, ..info(b"a") }), ..declared(SOURCE) };
    let source = stage.mirror.declare(source).unwrap();
    let made = stage.mirror.declare(Declared { info: None, ..declared(Origin::Derived { conversion }) }).unwrap();
    let broadcast = stage.hub.get(&id()).unwrap();
    let chosen = || {
        let choice = broadcast.choose(Kind::Video, Delivery::WebRtc(crate::media::Accepts::EVERYWHERE)).unwrap();
        choice.made_for
    };
    assert_eq!(chosen(), Some(conversion));
    stage.mirror.keep_only(&[source, made]).unwrap();
    assert_eq!(chosen(), Some(conversion));
    let news = broadcast.watch();
    stage.mirror.keep_only(&[source]).unwrap();
    assert_eq!(chosen(), None);
    assert!(news.has_changed().unwrap());
}

#[test]
fn layers_are_those_that_the_present_publisher_sends() {
    let mut stage = Stage::new();
    for index in 0..2 {
        stage.mirror.declare(declared(Origin::Layer { index })).unwrap();
    }
    let broadcast = stage.hub.get(&id()).unwrap();
    assert_eq!(broadcast.layers().len(), 2);
    stage.mirror.declare(Declared { sent: false, ..declared(Origin::Layer { index: 1 }) }).unwrap();
    assert_eq!(broadcast.layers().len(), 1);
    stage.mirror.tell(told(2), BORN_US).unwrap();
    assert!(broadcast.layers().is_empty());
    assert_eq!(broadcast.tracks().len(), 3);
}

#[test]
fn it_is_known_whether_a_track_is_here_from_its_first_frame_on() {
    let mut stage = Stage::new();
    let track = stage.mirror.track(stage.lane).clone();
    assert!(!track.is_whole());
    stage.mirror.begin_run(stage.lane, true);
    assert!(track.is_whole());
    stage.append(&gop(0, 1), 0, true, 1);
    assert!(track.is_whole());
    stage.mirror.begin_run(stage.lane, false);
    assert!(track.is_whole(), "what is here is here");
    stage.mirror.clear(stage.lane);
    assert!(!track.is_whole() && stage.frames().is_empty());
    assert_eq!(stage.append(&gop(0, 1), 0, true, 1), Copied::Kept, "cleared, so it may come again");
}

#[test]
fn unchanged_formats_are_no_news() {
    let mut stage = Stage::new();
    let broadcast = stage.hub.get(&id()).unwrap();
    let mut news = broadcast.watch();
    stage.mirror.declare(declared(SOURCE)).unwrap();
    stage.mirror.tell(told(1), BORN_US).unwrap();
    assert!(!news.has_changed().unwrap());
    stage.append(&gop(0, 1), 0, true, 1);
    stage.mirror.declare(Declared { info: Some(info(b"b")), ..declared(SOURCE) }).unwrap();
    assert!(news.has_changed().unwrap());
    news.mark_unchanged();
    stage.append(&gop(1, 1), 2_000_000, true, 2);
    let configs: Vec<_> = stage.frames().iter().map(|frame| frame.info.config.clone()).collect();
    assert_eq!(configs, [&b"a"[..], b"b"]);
}

#[test]
fn forgetting_spares_what_is_published_here() {
    let stage = Stage::new();
    let broadcast = stage.hub.get(&id()).unwrap();
    stage.hub.forget_mirror(&broadcast);
    assert!(stage.hub.get(&id()).is_none() && broadcast.is_over());
    let publisher = Publisher { protocol: "test", remote: String::new(), agent: String::new() };
    let claim = Claim { epoch: 5, next_gop: 3, discontinuity: 0, born_us: BORN_US, segment_target_s: None, publisher };
    let writer = stage.hub.claim(&id(), claim, Takeover::Replace, BORN_US).unwrap();
    stage.hub.forget_mirror(writer.broadcast());
    assert!(stage.hub.get(&id()).is_some());
}

#[test]
fn who_has_told_how_far_it_came_takes_nothing_of_an_older_claim() {
    let mut stage = Stage::new();
    assert_eq!(stage.hub.give_way_to(&BroadcastId::new("live", "other").unwrap(), 9), None);
    assert_eq!(stage.hub.give_way_to(&id(), 1), None, "nothing was copied yet");
    stage.append(&gop(7, 1), 0, true, 1);
    let reach = Some(Reach { next_gop: 8, discontinuity: 0 });
    assert_eq!(stage.hub.give_way_to(&id(), 1), reach);
    stage.append(&gop(7, 1), 40_000, false, 2);

    assert_eq!(stage.hub.give_way_to(&id(), 2), reach);
    let late = stage.mirror.append(stage.lane, gop(8, 1), sample(2_000_000, true, 3), BORN_US);
    assert_eq!(late, Err(MirrorError::Fenced(id())));
    assert_eq!(stage.hub.get(&id()).unwrap().status(), Status::Interrupted);
    let again = stage.hub.mirror(&id(), BORN_US, told(1), BORN_US);
    assert_eq!(again.unwrap_err(), MirrorError::Outdated { id: id(), known: 2, told: 1 });
    let mut stage = Stage::of(stage.hub, 2);
    assert_eq!(stage.append(&gop(8, 2), 3_000_000, true, 4), Copied::Kept);
    assert_eq!(stage.times(), [0, 40_000, 3_000_000]);
}

#[test]
fn what_is_published_here_goes_on_whoever_asks() {
    let hub = Hub::new();
    let publisher = told(1).publisher;
    let claim = Claim { epoch: 1, next_gop: 5, discontinuity: 2, born_us: BORN_US, segment_target_s: None, publisher };
    let mut writer = hub.claim(&id(), claim, Takeover::Replace, BORN_US).unwrap();
    writer.announce(info(b"a")).unwrap();
    writer.write(Kind::Video, sample(0, true, 1), BORN_US).unwrap();
    assert_eq!(hub.give_way_to(&id(), 2), Some(Reach { next_gop: 6, discontinuity: 2 }));
    assert_eq!(writer.write(Kind::Video, sample(40_000, false, 2), BORN_US), Ok(Written::Kept));
}
