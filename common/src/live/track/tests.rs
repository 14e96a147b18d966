use bytes::Bytes;

use super::*;
use crate::media::{Codec, Gop, Shape};

fn empty_track() -> TrackWriter {
    let origin = Origin::Derived { conversion: Conversion::BFrames };
    TrackWriter { track: Track::new("test".to_owned(), Kind::Video, origin) }
}

fn gop(id: u64, start_us: i64) -> Arc<Gop> {
    Arc::new(Gop { id, epoch: 1, start_us, independent: true, has_video: true, ..Gop::default() })
}

fn frame(gop: &Arc<Gop>, dts_us: i64, keyframe: bool) -> Frame {
    let shape = Shape::Video { width: 16, height: 16, reorders: false };
    let info = Arc::new(Info { codec: Codec::H264, config: Bytes::new(), shape });
    let (gop, payload) = (gop.clone(), Bytes::from_static(b"frame"));
    Frame { gop, dts_us, pts_us: dts_us, keyframe, payload, info, rtp: Default::default() }
}

fn track_with(frames: &[(i64, bool)]) -> TrackWriter {
    let mut writer = empty_track();
    let gop = gop(0, 0);
    frames.iter().for_each(|&(dts_us, keyframe)| writer.write(frame(&gop, dts_us, keyframe)));
    writer
}

/// What is left, in milliseconds before the newest frame, after a minute of gops that last so long; `every` frame a
/// keyframe, as sound has it, or only the first of each gop.
fn left_ms(gops_ms: impl Fn(u64) -> i64, every: bool) -> i64 {
    let mut writer = empty_track();
    let (mut now_ms, mut id) = (0, 0);
    while now_ms < 60_000 {
        let gop = gop(id, now_ms * 1_000);
        let end_ms = now_ms + gops_ms(id);
        for ms in (now_ms..end_ms).step_by(20) {
            writer.write(frame(&gop, ms * 1_000, every || ms == now_ms));
        }
        (now_ms, id) = (end_ms, id + 1);
    }
    let mut reader = writer.track().read(Start::Oldest);
    let oldest_us = reader.try_next().unwrap().dts_us;
    now_ms - oldest_us / 1_000
}

#[test]
fn three_segments_stay_besides_the_open_one_and_no_more() {
    for every in [false, true] {
        assert_eq!(left_ms(|_| 2_000, every), 8_000);
        assert_eq!(left_ms(|_| 1_900, every), 4 * 1_900);
        assert_eq!(left_ms(|_| 1_000, every), 7_000, "the shortest target is two seconds");
        assert_eq!(left_ms(|id| if id == 0 { 3_000 } else { 1_000 }, every), 10_000, "the first sets the target");
    }
}

#[test]
fn long_gops_stay_as_long_as_one_of_them_needs() {
    assert_eq!(left_ms(|_| 8_340, false), 2 * 8_340);
    assert!((12_000..12_100).contains(&left_ms(|_| 8_340, true)));
}

#[test]
fn a_reader_knows_how_far_behind_it_is_and_can_skip() {
    let writer = track_with(&[(0, true), (10, false), (20, true), (30, false)]);
    let mut reader = writer.track().read(Start::Oldest);
    assert_eq!(reader.try_next().map(|frame| frame.dts_us), Some(0));
    assert_eq!(reader.behind_us(), 30);
    assert_eq!(reader.skip_to_newest(), 1);
    assert_eq!(reader.try_next().map(|frame| frame.dts_us), Some(20));
    assert_eq!(reader.skip_to_newest(), 0, "the newest keyframe lies behind");
    assert_eq!(reader.try_next().map(|frame| frame.dts_us), Some(30));
    assert_eq!((reader.behind_us(), writer.track().stats().skipped), (0, 1));
}

#[test]
fn a_playlist_begins_with_the_newest_whole_gop_and_rates_are_those_of_whole_gops() {
    let mut writer = track_with(&[]);
    let track = writer.track().clone();
    assert_eq!((track.rates(), track.take_past_request()), (None, false));
    let shape = Shape::Video { width: 16, height: 16, reorders: false };
    let info = Arc::new(Info { codec: Codec::H264, config: Bytes::new(), shape });
    for (id, bytes) in [(0, 100), (1, 300), (2, 200), (3, 100)] {
        let start_us = id as i64 * 1_000_000;
        let gop = gop(id, start_us);
        // Two keyframes in each.
        for at in 0..4 {
            let dts_us = start_us + at * 250_000;
            let (keyframe, payload) = (at % 2 == 0, Bytes::from(vec![0; bytes]));
            let (gop, info) = (gop.clone(), info.clone());
            writer.write(Frame { gop, dts_us, pts_us: dts_us, keyframe, payload, info, rtp: Default::default() });
        }
    }
    let first = |start| track.read(start).try_next().map(|frame| frame.dts_us);
    assert_eq!((first(Start::Whole), first(Start::Newest)), (Some(2_000_000), Some(3_500_000)));
    assert!(!track.take_past_request());
    assert_eq!(first(Start::Oldest), Some(0));
    assert!(track.take_past_request() && !track.take_past_request());
    let rates = track.rates().unwrap();
    assert_eq!((rates.bits_per_s, rates.peak_bits_per_s), (4 * 250 * 8, 4 * 300 * 8));
    assert!((rates.frames_per_s - 4.0).abs() < 0.01, "{rates:?}");
}

#[test]
fn a_cleared_track_shows_nothing_old() {
    let mut writer = track_with(&[(0, true), (10, false)]);
    writer.clear();
    let stats = writer.track().stats();
    assert_eq!((stats.ring_bytes, stats.ring_frames, stats.frames), (0, 0, 2));
    for start in [Start::Newest, Start::Oldest, Start::Live, Start::At { dts_us: 0 }] {
        assert!(writer.track().read(start).try_next().is_none());
    }
}
