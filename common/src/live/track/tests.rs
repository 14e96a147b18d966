use bytes::Bytes;

use super::*;
use crate::media::{Codec, Gop, Shape};

fn empty_track(target_s: Option<u32>) -> TrackWriter {
    let origin = Origin::Derived { conversion: Conversion::BFrames };
    TrackWriter { track: Track::new("test".to_owned(), Kind::Video, origin, Depth::new(target_s)) }
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
    let mut writer = empty_track(None);
    let gop = gop(0, 0);
    frames.iter().for_each(|&(dts_us, keyframe)| writer.write(frame(&gop, dts_us, keyframe)));
    writer
}

/// A track with a frame every 20 milliseconds.
struct Tape {
    writer: TrackWriter,
    now_ms: i64,
    next_gop: u64,
    /// As sound has it; else only the first of each gop.
    all_keyframes: bool,
}

impl Tape {
    fn new(target_s: u32, all_keyframes: bool) -> Self {
        Self { writer: empty_track(Some(target_s)), now_ms: 0, next_gop: 0, all_keyframes }
    }

    fn gop(&mut self, lasts_ms: i64, bytes: usize) {
        let gop = gop(self.next_gop, self.now_ms * 1_000);
        for ms in (self.now_ms..self.now_ms + lasts_ms).step_by(20) {
            let frame = frame(&gop, ms * 1_000, self.all_keyframes || ms == self.now_ms);
            self.writer.write(Frame { payload: Bytes::from(vec![0; bytes]), ..frame });
        }
        self.now_ms += lasts_ms;
        self.next_gop += 1;
    }

    fn gops(&mut self, lasts_ms: i64, until_ms: i64) {
        while self.now_ms < until_ms {
            self.gop(lasts_ms, 5);
        }
    }

    /// What is left, in milliseconds before the end of the newest frame.
    fn left_ms(&self) -> i64 {
        self.since_ms(Start::At { dts_us: i64::MIN })
    }

    fn since_ms(&self, start: Start) -> i64 {
        self.now_ms - self.writer.track().read(start).try_next().unwrap().dts_us / 1_000
    }
}

fn left_ms(target_s: u32, gops_ms: i64, all_keyframes: bool) -> i64 {
    let mut tape = Tape::new(target_s, all_keyframes);
    tape.gops(gops_ms, 60_000);
    tape.left_ms()
}

#[test]
fn three_target_durations_stay_besides_the_open_segment_and_no_more() {
    for all_keyframes in [false, true] {
        assert_eq!(left_ms(2, 2_000, all_keyframes), 8_000);
        assert_eq!(left_ms(2, 1_900, all_keyframes), 4 * 1_900);
        assert_eq!(left_ms(2, 1_000, all_keyframes), 7_000);
        assert_eq!(left_ms(3, 1_000, all_keyframes), 10_000);
    }
}

#[test]
fn long_gops_stay_as_long_as_one_of_them_needs() {
    assert_eq!(left_ms(10, 8_340, false), 2 * 8_340);
    assert!((12_000..12_100).contains(&left_ms(10, 8_340, true)));
}

/// Besides that: the open segment, and a few seconds for whoever begins to read just before they leave.
#[test]
fn as_long_as_playlists_are_made_all_that_they_list_stays() {
    for all_keyframes in [false, true] {
        for (target_s, gop_ms, listed, spare) in [
            (2, 2_000, 10, 2),
            (2, 1_000, 20, 4),
            (2, 1_900, 11, 3),
            (10, 8_340, 6, 1),
            // The first one was longer.
            (10, 2_000, 15, 2),
        ] {
            let left_ms = (listed + spare + 1) * gop_ms;
            let mut tape = Tape::new(target_s, all_keyframes);
            tape.gops(gop_ms, 40_000);
            let (before_ms, began_ms) = (tape.left_ms(), tape.now_ms);
            let hold = tape.writer.track().depth.hold();
            tape.gops(gop_ms, began_ms + 10_000);
            assert_eq!(tape.left_ms(), (before_ms + tape.now_ms - began_ms).min(left_ms), "it grows as it goes on");
            tape.gops(gop_ms, 150_000);
            assert_eq!(tape.left_ms(), left_ms, "gops of {gop_ms} ms");
            for start in [Start::Oldest, Start::Kept] {
                assert_eq!(tape.since_ms(start), (listed + 1) * gop_ms, "gops of {gop_ms} ms");
            }
            let mut late = tape.writer.track().read(Start::Oldest);
            (0..spare).for_each(|_| tape.gop(gop_ms, 5));
            assert_eq!((late.try_next().is_some(), late.skipped()), (true, 0), "it is still there");

            drop(hold);
            let left_at_ms = tape.now_ms;
            tape.gops(gop_ms, left_at_ms + 20_000);
            assert_eq!(tape.left_ms(), left_ms, "somebody may come back");
            tape.gops(gop_ms, left_at_ms + 60_000);
            assert_eq!(tape.left_ms(), before_ms);
        }
    }
}

#[test]
fn a_deep_ring_is_bounded_whatever_its_gops_are_like() {
    let mut tape = Tape::new(2, false);
    let _hold = tape.writer.track().depth.hold();
    // 40 Mbit/s.
    for _ in 0..20 {
        tape.gop(2_000, 100_000);
    }
    let stats = tape.writer.track().stats();
    assert!((50 << 20..=64 << 20).contains(&stats.ring_bytes), "{stats:?}");
    assert_eq!(tape.left_ms() % 2_000, 0, "whole gops");
    let mut endless = Tape::new(10, false);
    let _hold = endless.writer.track().depth.hold();
    endless.gop(600_000, 5);
    assert!(endless.writer.track().stats().ring_frames <= 50 * 121, "{:?}", endless.writer.track().stats());
}

/// As from a clock that jumps with every frame.
#[test]
fn gops_that_take_no_time_are_not_kept_for_a_playlist() {
    let mut writer = empty_track(Some(2));
    let _hold = writer.track().depth.hold();
    for id in 0..10_000 {
        let gop = Gop { discontinuity: id, ..Gop::clone(&gop(id, id as i64)) };
        writer.write(frame(&Arc::new(gop), id as i64, true));
    }
    assert_eq!(writer.track().stats().ring_frames, 2 * 128 + 1);
}

/// Pictures open gops, and sound that came just ahead of one has the number of the gop before.
#[test]
fn sound_stays_with_the_segment_that_it_is_heard_in() {
    let mut writer = empty_track(Some(2));
    for id in 0..20 {
        let start_us = id as i64 * 2_000_000;
        let (gop, next) = (gop(id, start_us), start_us + 2_000_000);
        (0..100).map(|n| start_us + 20_000 + n * 20_000).for_each(|us| writer.write(frame(&gop, us, true)));
        assert_eq!(writer.track().newest().unwrap().dts_us, next);
    }
    let oldest = writer.track().read(Start::Oldest).try_next().unwrap();
    assert_eq!((oldest.dts_us, oldest.gop.id), (32_000_000, 15));
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
