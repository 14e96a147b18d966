use std::{sync::Arc, task::Poll};

use bytes::Bytes;

use super::*;
use crate::media::{Accepts, Codec, Conversion, Delivery, Frame, Info, Kind, Sample, Shape};

const BORN_US: i64 = 1_700_000_000_000_000;
const FRAME_US: i64 = 33_333;

fn video(config: &'static [u8], reorders: bool) -> Info {
    Info {
        codec: Codec::H264,
        config: Bytes::from_static(config),
        shape: Shape::Video { width: 640, height: 360, reorders },
    }
}

fn audio() -> Info {
    let shape = Shape::Audio { sample_rate: 48_000, channels: 2 };
    Info { codec: Codec::Aac, config: Bytes::from_static(&[0x11, 0x90]), shape }
}

fn id() -> BroadcastId {
    BroadcastId::new("live", "x").unwrap()
}

fn claim(epoch: u64) -> Claim {
    let publisher = Publisher { protocol: "test", remote: "here".into(), agent: String::new() };
    Claim { epoch, next_gop: 7, discontinuity: 0, born_us: BORN_US, segment_target_s: None, publisher }
}

/// A publisher whose clock and wall-clock run together.
struct Source {
    writer: Writer,
    now_us: i64,
    dts_us: i64,
}

impl Source {
    fn publish(hub: &Hub, epoch: u64, now_us: i64) -> Self {
        let writer = hub.claim(&id(), claim(epoch), Takeover::Replace, now_us).unwrap();
        Self { writer, now_us, dts_us: 0 }
    }

    fn frame(&mut self, kind: Kind, keyframe: bool, bytes: usize) -> Result<Written, Fenced> {
        let payload = Bytes::from(vec![0; bytes]);
        let sample = Sample { dts_us: self.dts_us, pts_us: self.dts_us, keyframe, payload };
        let written = self.writer.write(kind, sample, self.now_us);
        if kind == Kind::Video {
            self.pass(FRAME_US);
        }
        written
    }

    fn pass(&mut self, us: i64) {
        self.dts_us += us;
        self.now_us += us;
    }

    fn video_gop(&mut self, frames: usize) {
        for i in 0..frames {
            assert_eq!(self.frame(Kind::Video, i == 0, 1000), Ok(Written::Kept));
        }
    }
}

fn drain(reader: &mut Reader) -> Vec<Arc<Frame>> {
    std::iter::from_fn(|| reader.try_next()).collect()
}

fn publishing() -> (Arc<Hub>, Source) {
    let hub = Hub::new();
    let mut source = Source::publish(&hub, 1, BORN_US);
    source.writer.announce(video(b"a", false)).unwrap();
    (hub, source)
}

#[test]
fn a_late_reader_starts_at_the_newest_keyframe_at_once() {
    let (hub, mut source) = publishing();
    source.video_gop(60);
    source.video_gop(10);
    let track = hub.get(&id()).unwrap().source(Kind::Video).unwrap();
    let frames = drain(&mut track.read(Start::Newest));
    assert_eq!(frames.len(), 10);
    assert!(frames[0].keyframe);
    assert_eq!(drain(&mut track.read(Start::Oldest)).len(), 70);
    assert_eq!(drain(&mut track.read(Start::Live)).len(), 0);
    let at = frames[3].dts_us;
    assert_eq!(drain(&mut track.read(Start::At { dts_us: at })).len(), 7);
    let rate = track.stats().bits_per_second;
    assert!((239_000..=241_000).contains(&rate), "30 frames a second of 1000 bytes: {rate}");
}

#[test]
fn payloads_are_shared_not_copied() {
    let (hub, mut source) = publishing();
    source.video_gop(1);
    let track = hub.get(&id()).unwrap().source(Kind::Video).unwrap();
    let (a, b) = (track.read(Start::Newest).try_next().unwrap(), track.read(Start::Newest).try_next().unwrap());
    assert!(Arc::ptr_eq(&a, &b));
}

#[test]
fn a_slow_reader_moves_on_to_the_newest_keyframe_and_is_counted() {
    let (hub, mut source) = publishing();
    source.video_gop(1);
    let track = hub.get(&id()).unwrap().source(Kind::Video).unwrap();
    let mut slow = track.read(Start::Oldest);
    for _ in 0..20 {
        source.video_gop(60);
    }
    source.video_gop(5);
    let frames = drain(&mut slow);
    assert_eq!(frames.len(), 5, "only the newest gop is left to it");
    assert!(frames[0].keyframe);
    assert_eq!(track.stats().skipped, 1 + 20 * 60);
}

#[test]
fn an_encoder_that_never_sends_a_second_keyframe_does_not_fill_memory() {
    let (hub, mut source) = publishing();
    source.frame(Kind::Video, true, 1000).unwrap();
    let track = hub.get(&id()).unwrap().source(Kind::Video).unwrap();
    for _ in 0..30 * 600 {
        source.frame(Kind::Video, false, 100).unwrap();
    }
    assert!(track.stats().ring_frames <= 30 * 61, "bounded by age: {:?}", track.stats());
    for _ in 0..100 {
        source.frame(Kind::Video, false, 1 << 20).unwrap();
    }
    assert!(track.stats().ring_bytes <= 32 << 20, "bounded by bytes: {:?}", track.stats());
}

#[test]
fn a_gop_that_never_ends_is_cut_into_segments_all_the_same() {
    let (hub, mut source) = publishing();
    let track_frames = 30 * 60;
    for i in 0..track_frames {
        source.frame(Kind::Video, i == 0, 10).unwrap();
    }
    let broadcast = hub.get(&id()).unwrap();
    assert_eq!(broadcast.segment_target_s(), Some(10));
    let frames = drain(&mut broadcast.source(Kind::Video).unwrap().read(Start::Oldest));
    let mut gops: Vec<_> = frames.iter().map(|frame| frame.gop.clone()).collect();
    gops.dedup();
    assert_eq!(gops.len(), 6);
    for pair in gops.windows(2) {
        assert_eq!(pair[1].id, pair[0].id + 1);
        assert!((pair[1].start_us - pair[0].start_us) < 10_500_000);
        assert!(!pair[1].independent);
    }
}

#[test]
fn keyframes_within_a_second_share_a_gop_and_the_first_gop_sets_the_target() {
    let (hub, mut source) = publishing();
    for _ in 0..10 {
        source.video_gop(15);
    }
    let broadcast = hub.get(&id()).unwrap();
    assert_eq!(broadcast.segment_target_s(), Some(2));
    let frames = drain(&mut broadcast.source(Kind::Video).unwrap().read(Start::Oldest));
    let starts: Vec<_> = frames.iter().filter(|f| f.dts_us == f.gop.start_us).map(|f| f.gop.id).collect();
    assert_eq!(starts, [7, 8, 9, 10, 11]);
    assert!(frames.iter().all(|frame| frame.gop.independent));
}

#[test]
fn frames_before_the_first_keyframe_are_dropped() {
    let (_hub, mut source) = publishing();
    assert_eq!(source.frame(Kind::Video, false, 10), Ok(Written::Dropped));
    assert_eq!(source.frame(Kind::Audio, true, 10), Ok(Written::Dropped), "never announced");
    assert_eq!(source.frame(Kind::Video, true, 10), Ok(Written::Kept));
    assert_eq!(source.writer.broadcast().dropped(), 2);
}

#[test]
fn another_publisher_goes_on_with_numbers_and_clock_and_the_old_one_is_fenced() {
    let (hub, mut old) = publishing();
    old.video_gop(60);
    let track = hub.get(&id()).unwrap().source(Kind::Video).unwrap();
    let mut viewer = track.read(Start::Newest);
    let before = drain(&mut viewer);
    let mut new = Source::publish(&hub, 2, old.now_us + 500_000);
    assert_eq!(old.frame(Kind::Video, true, 10), Err(Fenced::Replaced));
    assert_eq!(old.writer.announce(video(b"b", false)), Err(Fenced::Replaced));
    new.writer.announce(video(b"a", false)).unwrap();
    assert_eq!(new.frame(Kind::Video, false, 10), Ok(Written::Dropped), "not decodable after the old one's frames");
    new.video_gop(3);
    drop(old);
    let after = drain(&mut viewer);
    assert_eq!(after.len(), 3);
    let (last, first) = (before.last().unwrap(), &after[0]);
    assert_eq!(first.gop.id, last.gop.id + 1);
    assert_eq!(first.gop.discontinuity, last.gop.discontinuity + 1);
    assert_eq!((last.gop.epoch, first.gop.epoch), (1, 2));
    let gap_us = first.dts_us - last.dts_us;
    assert!((500_000..700_000).contains(&gap_us), "wall-clock shows in the timestamps: {gap_us}");
    assert_eq!(hub.get(&id()).unwrap().status(), Status::Live, "the old one's end is not the broadcast's");
}

#[test]
fn an_older_claim_is_refused() {
    let (hub, source) = publishing();
    let refused = hub.claim(&id(), claim(1), Takeover::Replace, source.now_us).unwrap_err();
    assert!(matches!(refused, ClaimError::Outrun { known: 1, ours: 1, .. }), "{refused}");
}

#[test]
fn a_live_publisher_is_refused_or_replaced_as_the_app_says_a_silent_one_always_replaced() {
    let (hub, mut source) = publishing();
    source.video_gop(2);
    let soon_us = source.now_us + 500_000;
    let refused = hub.claim(&id(), claim(2), Takeover::Refuse, soon_us).unwrap_err();
    assert!(refused.to_string().contains("live/x is being published by test from here"), "{refused}");
    let later_us = source.now_us + SILENT_US;
    hub.claim(&id(), claim(2), Takeover::Refuse, later_us).unwrap();
    hub.claim(&id(), claim(3), Takeover::Replace, later_us).unwrap();
}

#[test]
fn a_lost_publisher_interrupts_then_ends_and_an_ended_broadcast_lingers() {
    let (hub, mut source) = publishing();
    source.video_gop(2);
    let broadcast = hub.get(&id()).unwrap();
    let mut viewer = broadcast.source(Kind::Video).unwrap().read(Start::Live);
    let lost_us = source.now_us;
    drop(source);
    assert_eq!(broadcast.status(), Status::Interrupted);
    assert!(hub.sweep(lost_us + RESUME_US - FRAME_US - 1).is_empty());
    assert_eq!(hub.sweep(lost_us + RESUME_US).len(), 1);
    assert_eq!(broadcast.status(), Status::Ended);
    assert!(viewer.poll_next(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    hub.sweep(lost_us + RESUME_US + LINGER_US);
    assert!(hub.get(&id()).is_none());
    let over = viewer.poll_next(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(over, Poll::Ready(None)));
}

#[test]
fn finishing_ends_at_once_and_a_return_makes_it_live_again() {
    let (hub, mut source) = publishing();
    source.video_gop(2);
    let now_us = source.now_us;
    source.writer.finish(now_us);
    let broadcast = hub.get(&id()).unwrap();
    assert_eq!(broadcast.status(), Status::Ended);
    let mut again = Source::publish(&hub, 2, now_us + 1_000_000);
    again.writer.announce(video(b"a", false)).unwrap();
    again.video_gop(1);
    assert_eq!(broadcast.status(), Status::Live);
    assert_eq!(broadcast.discontinuity(), 1);
}

#[test]
fn a_track_that_appears_late_is_a_discontinuity() {
    let (hub, mut source) = publishing();
    source.video_gop(60);
    source.writer.announce(audio()).unwrap();
    assert_eq!(source.frame(Kind::Audio, true, 10), Ok(Written::Kept));
    source.video_gop(60);
    let broadcast = hub.get(&id()).unwrap();
    let frames = drain(&mut broadcast.source(Kind::Video).unwrap().read(Start::Oldest));
    assert_eq!((frames[0].gop.has_audio, frames[0].gop.discontinuity), (false, 0));
    assert_eq!((frames[60].gop.has_audio, frames[60].gop.discontinuity), (true, 1));
}

#[test]
fn new_parameter_sets_wait_for_a_keyframe_and_a_first_b_frame_does_not() {
    let (hub, mut source) = publishing();
    source.video_gop(30);
    source.writer.announce(video(b"a", true)).unwrap();
    assert_eq!(source.frame(Kind::Video, false, 10), Ok(Written::Kept));
    source.writer.announce(video(b"b", true)).unwrap();
    assert_eq!(source.frame(Kind::Video, false, 10), Ok(Written::Dropped));
    source.video_gop(1);
    let track = hub.get(&id()).unwrap().source(Kind::Video).unwrap();
    let frames = drain(&mut track.read(Start::Oldest));
    assert_eq!(frames[30].gop.discontinuity, 0);
    assert_eq!(frames[31].gop.discontinuity, 1);
    assert_eq!(&frames[31].info.config[..], b"b");
}

#[test]
fn audio_alone_is_cut_by_the_clock_and_video_takes_the_lead_when_it_comes() {
    let hub = Hub::new();
    let mut source = Source::publish(&hub, 1, BORN_US);
    source.writer.announce(audio()).unwrap();
    for _ in 0..300 {
        source.frame(Kind::Audio, true, 10).unwrap();
        source.pass(20_000);
    }
    let broadcast = hub.get(&id()).unwrap();
    assert_eq!(broadcast.segment_target_s(), Some(2));
    assert_eq!(broadcast.next_gop(), 7 + 3);
    source.writer.announce(video(b"a", false)).unwrap();
    source.video_gop(2);
    assert_eq!(broadcast.next_gop(), 7 + 4);
    assert_eq!(broadcast.discontinuity(), 1);
}

#[test]
fn sound_waits_for_a_picture_that_is_expected() {
    let hub = Hub::new();
    let mut source = Source::publish(&hub, 1, BORN_US);
    source.writer.expect(Kind::Video).unwrap();
    source.writer.announce(audio()).unwrap();
    assert_eq!(source.frame(Kind::Audio, true, 10), Ok(Written::Dropped));
    source.pass(20_000);
    source.writer.announce(video(b"a", false)).unwrap();
    assert_eq!(source.frame(Kind::Video, true, 1000), Ok(Written::Kept));
    assert_eq!(source.frame(Kind::Audio, true, 10), Ok(Written::Kept));
    let frame = source.writer.broadcast().source(Kind::Audio).unwrap().read(Start::Oldest).try_next().unwrap();
    assert!(frame.gop.has_video && frame.gop.has_audio);
    assert_eq!(frame.gop.discontinuity, 0);
}

#[test]
fn announced_video_that_never_comes_does_not_silence_audio() {
    let (hub, mut source) = publishing();
    source.writer.announce(audio()).unwrap();
    let mut kept = 0;
    for _ in 0..400 {
        kept += usize::from(source.frame(Kind::Audio, true, 10) == Ok(Written::Kept));
        source.pass(20_000);
    }
    assert!(kept >= 299, "audio waits two seconds for video, then goes on: {kept}");
    assert!(hub.get(&id()).unwrap().segment_target_s().is_some());
}

#[test]
fn video_that_stops_hands_the_lead_to_audio_and_takes_it_back() {
    let (hub, mut source) = publishing();
    source.writer.announce(audio()).unwrap();
    source.video_gop(60);
    source.video_gop(30);
    let gops_before = hub.get(&id()).unwrap().next_gop();
    for _ in 0..500 {
        source.frame(Kind::Audio, true, 10).unwrap();
        source.pass(20_000);
    }
    let broadcast = hub.get(&id()).unwrap();
    assert!(broadcast.next_gop() >= gops_before + 3, "segments go on without video");
    assert_eq!(broadcast.discontinuity(), 1);
    source.video_gop(2);
    assert_eq!(broadcast.discontinuity(), 2);
}

#[test]
fn a_clock_that_jumps_does_not_move_the_broadcast() {
    let (hub, mut source) = publishing();
    source.writer.announce(audio()).unwrap();
    source.video_gop(45);
    source.frame(Kind::Audio, true, 10).unwrap();
    for jump_us in [-1_000_000_000, 3_600_000_000] {
        source.dts_us += jump_us;
        source.video_gop(40);
        source.frame(Kind::Audio, true, 10).unwrap();
    }
    let broadcast = hub.get(&id()).unwrap();
    assert_eq!(broadcast.discontinuity(), 2);
    let frames = drain(&mut broadcast.source(Kind::Video).unwrap().read(Start::Oldest));
    for pair in frames.windows(2) {
        let step_us = pair[1].dts_us - pair[0].dts_us;
        assert!((FRAME_US - 2..=FRAME_US + 2).contains(&step_us), "{step_us}");
    }
    let audio = drain(&mut broadcast.source(Kind::Audio).unwrap().read(Start::Oldest));
    let last_video_us = frames.last().unwrap().dts_us;
    let skew_us = audio.last().unwrap().dts_us - last_video_us;
    assert!(skew_us.abs() < 50_000, "both tracks jumped alike: {skew_us}");
}

#[test]
fn small_steps_back_are_held_at_their_predecessor() {
    let (hub, mut source) = publishing();
    source.video_gop(3);
    source.dts_us -= 80_000;
    source.frame(Kind::Video, false, 10).unwrap();
    let frames = drain(&mut hub.get(&id()).unwrap().source(Kind::Video).unwrap().read(Start::Oldest));
    assert!(frames.windows(2).all(|pair| pair[0].dts_us < pair[1].dts_us));
    assert!(frames.iter().all(|frame| frame.pts_us >= frame.dts_us));
}

#[test]
fn outputs_choose_the_source_or_what_was_made_for_them() {
    let (hub, mut source) = publishing();
    source.writer.announce(audio()).unwrap();
    let broadcast = hub.get(&id()).unwrap();
    let browser = Delivery::WebRtc(Accepts::EVERYWHERE);
    let path = |kind, delivery| broadcast.choose(kind, delivery).map(|choice| choice.to_string());
    assert_eq!(path(Kind::Video, browser).as_deref(), Some("passthrough"));
    assert_eq!(path(Kind::Audio, Delivery::Mp4).as_deref(), Some("passthrough"));
    assert_eq!(path(Kind::Audio, browser), None, "nobody makes Opus yet");
    source.writer.announce(video(b"a", true)).unwrap();
    assert_eq!(path(Kind::Video, browser).as_deref(), Some("passthrough despite b-frames"));
    broadcast.derive(Conversion::BFrames);
    let to_opus = Conversion::Codec { from: Codec::Aac, to: Codec::Opus };
    broadcast.derive(to_opus);
    assert_eq!(path(Kind::Video, browser).as_deref(), Some("transcode: b-frames"));
    assert_eq!(path(Kind::Audio, browser).as_deref(), Some("transcode: aac→opus"));
    assert_eq!(path(Kind::Video, Delivery::Mp4).as_deref(), Some("passthrough"));
}

#[test]
fn peers_are_given_the_source_where_they_take_its_codec() {
    let (hub, mut source) = publishing();
    let broadcast = hub.get(&id()).unwrap();
    let taking = |codecs: &[Codec]| Delivery::WebRtc(codecs.iter().copied().collect());
    let everywhere = Delivery::WebRtc(Accepts::EVERYWHERE);
    let path = |delivery| broadcast.choose(Kind::Video, delivery).map(|choice| choice.to_string());
    let frame_of = |codec, reorders| Info { codec, ..video(b"a", reorders) };

    for codec in [Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H265] {
        source.writer.announce(frame_of(codec, false)).unwrap();
        let knows = taking(&[Codec::H264, codec]);
        assert_eq!(path(knows).as_deref(), Some("passthrough"));
        assert_eq!(path(everywhere), None, "nobody converts yet");
        let conversion = Conversion::Codec { from: codec, to: Codec::H264 };
        let made = broadcast.derive(conversion);
        let told = format!("transcode: {}→h264", codec.name());
        assert_eq!((path(everywhere).as_ref(), path(knows).as_deref()), (Some(&told), Some("passthrough")));
        assert_eq!(path(taking(&[])), None, "neither the source nor what is made of it");
        let (live, files) = [everywhere, Delivery::Mp4].map(|delivery| broadcast.choose(Kind::Video, delivery)).into();
        if codec == Codec::Vp8 {
            let (live, files) = (live.unwrap().track, files.unwrap().track);
            assert!(Arc::ptr_eq(&live, &files) && Arc::ptr_eq(&live, made.track()), "made once for all outputs");
        }
    }

    source.writer.announce(frame_of(Codec::H265, true)).unwrap();
    assert_eq!(path(taking(&[Codec::H264, Codec::H265])).as_deref(), Some("transcode: h265→h264"), "B-frames");
    assert_eq!(path(taking(&[Codec::H265])).as_deref(), Some("passthrough despite b-frames"));
    source.writer.announce(frame_of(Codec::H264, false)).unwrap();
    assert_eq!(path(taking(&[Codec::Vp8])), None);
}

#[tokio::test]
async fn demand_is_a_value_that_can_be_awaited() {
    let (hub, _source) = publishing();
    let track = hub.get(&id()).unwrap().source(Kind::Video).unwrap();
    let reader = track.read(Start::Live);
    track.wanted().await;
    drop(reader);
    track.unwanted().await;
    assert!(!track.take_keyframe_request());
    track.request_keyframe();
    track.request_keyframe();
    assert!(track.take_keyframe_request());
    assert!(!track.take_keyframe_request());
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_the_writer() {
    let (hub, mut source) = publishing();
    let mut reader = hub.get(&id()).unwrap().source(Kind::Video).unwrap().read(Start::Live);
    let waiting = tokio::spawn(async move { reader.next().await.map(|frame| frame.keyframe) });
    tokio::task::yield_now().await;
    source.video_gop(1);
    assert_eq!(waiting.await.unwrap(), Some(true));
}

#[test]
fn ids_are_checked() {
    assert!(BroadcastId::new("live", "a_b-c.1").is_ok());
    for (app, stream, complaint) in [
        ("live", "", "stream id is empty"),
        ("live", "a b", "stream id contains ' '"),
        ("live", "../x", "stream id contains '/'"),
        ("live", "..", "must not begin with a dot"),
        ("li/ve", "x", "app contains '/'"),
        ("live", "ü", "stream id contains 'ü'"),
    ] {
        let error = BroadcastId::new(app, stream).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
    assert!(BroadcastId::new("live", &"x".repeat(200)).unwrap_err().to_string().contains("200 characters"));
}

#[test]
fn a_claim_made_anew_touches_neither_publisher_nor_viewers() {
    let (hub, mut source) = publishing();
    source.video_gop(3);
    let broadcast = hub.get(&id()).unwrap();
    let mut viewer = broadcast.source(Kind::Video).unwrap().read(Start::Oldest);
    assert!(!hub.renew(&id(), 5, 9, 0, 0), "that claim is not the one that holds it");
    assert!(!hub.renew(&id(), 1, 1, 0, 0), "no newer than what is there");
    assert!(hub.renew(&id(), 1, 4, broadcast.next_gop(), broadcast.discontinuity()));
    source.video_gop(3);
    source.video_gop(3);
    assert_eq!((broadcast.claimed_epoch(), broadcast.epoch(), broadcast.status()), (4, 1, Status::Live));
    let frames: Vec<_> = std::iter::from_fn(|| viewer.try_next()).collect();
    assert_eq!(frames.len(), 9);
    assert!(frames.iter().all(|frame| (frame.gop.epoch, frame.gop.discontinuity) == (1, 0)));
    assert!(frames.windows(2).all(|pair| pair[1].gop.id <= pair[0].gop.id + 1));
    let late = hub.claim(&id(), claim(4), Takeover::Replace, source.now_us).unwrap_err();
    assert!(matches!(late, ClaimError::Outrun { known: 4, .. }), "the newer epoch is what counts: {late}");

    // Somebody else has used numbers meanwhile.
    assert!(hub.renew(&id(), 4, 6, 500, 30));
    source.video_gop(3);
    source.video_gop(3);
    let next = viewer.try_next().unwrap();
    assert_eq!((next.gop.id, next.gop.discontinuity, next.gop.epoch), (500, 30, 1));
    source.writer.finish(source.now_us);
    assert!(!hub.renew(&id(), 6, 8, 0, 0), "it is over");
}

#[test]
fn a_publisher_whose_claim_was_lost_is_turned_away() {
    let (hub, mut source) = publishing();
    source.video_gop(3);
    assert!(!hub.turn_away(&id(), 2, Fenced::Replaced, source.now_us), "not this claim");
    assert!(hub.turn_away(&id(), 1, Fenced::Stopped, source.now_us));
    assert!(!hub.turn_away(&id(), 1, Fenced::Replaced, source.now_us), "it is over");
    assert_eq!(source.frame(Kind::Video, true, 10), Err(Fenced::Stopped));
    let broadcast = hub.get(&id()).unwrap();
    assert_eq!(broadcast.status(), Status::Ended);
    let mut next = Source::publish(&hub, 2, source.now_us);
    assert_eq!((next.writer.check(), source.writer.check()), (Ok(()), Err(Fenced::Replaced)));
    drop(source);
    assert_eq!(broadcast.status(), Status::Live, "the end of the one is not the other one's");
    next.writer.announce(video(b"a", false)).unwrap();
    next.video_gop(1);
}

#[test]
fn who_comes_back_from_elsewhere_goes_on_with_numbers_that_nobody_used() {
    let (hub, mut source) = publishing();
    source.video_gop(3);
    source.video_gop(3);
    let now_us = source.now_us;
    source.writer.finish(now_us);
    let broadcast = hub.get(&id()).unwrap();
    let elsewhere = Claim { next_gop: 300, discontinuity: 12, segment_target_s: Some(6), ..claim(3) };
    let writer = hub.claim(&id(), elsewhere, Takeover::Replace, now_us + 1_000_000).unwrap();
    let mut back = Source { writer, now_us: now_us + 1_000_000, dts_us: 0 };
    back.writer.announce(video(b"a", false)).unwrap();
    back.video_gop(1);
    let newest = broadcast.source(Kind::Video).unwrap().read(Start::Newest).try_next().unwrap();
    assert_eq!((newest.gop.id, newest.gop.discontinuity), (300, 12));

    // Born at another time: another broadcast, and whoever waits for the old one sees its end.
    let mut viewer = broadcast.source(Kind::Video).unwrap().read(Start::Live);
    let now_us = back.now_us;
    back.writer.finish(now_us);
    let anew = Claim { born_us: now_us, segment_target_s: Some(4), ..claim(5) };
    let writer = hub.claim(&id(), anew, Takeover::Replace, now_us).unwrap();
    assert_eq!((writer.broadcast().born_us(), writer.broadcast().segment_target_s()), (now_us, Some(4)));
    assert!(!Arc::ptr_eq(writer.broadcast(), &broadcast));
    let over = viewer.poll_next(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(over, Poll::Ready(None)));
}
