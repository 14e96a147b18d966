//! Sequence numbers and timestamps of one outgoing RTP stream, without a break whatever happens behind it: another
//! publisher, another track, a gop sent twice.
//!
//! In: frames. Out: RTP times. Deliberately absent: the peer and the network.
//!
//! RTP time is the broadcast's own clock in ticks of the codec, plus a random start (RFC 3550 section 5.1). That makes
//! it the same for every viewer and publisher, and lets video and audio be laid side by side. Where another node takes
//! the broadcast over and its clock says something else, the viewer's own time goes on (`seam`), and both streams with it.

use std::sync::Arc;

use crate::media::{Frame, opus};

/// Sound that is this close to where the last packet ended follows it without a gap: rounding in the source's
/// timestamps would otherwise be heard.
const SNAP_TICKS: i64 = 720;

#[derive(Debug)]
pub(super) struct Outgoing {
    ticks_per_s: i64,
    /// On top of the broadcast's clock.
    shift_us: i64,
    start: u32,
    seq: u64,
    /// The latest time that was given out.
    latest: i64,
    /// Times up to here were squeezed or belong to another track: nothing may be stamped earlier.
    floor: i64,
    /// Where the next sound belongs.
    expected: Option<i64>,
}

impl Outgoing {
    pub(super) fn new(ticks_per_s: i64, random: u32) -> Self {
        Self {
            ticks_per_s,
            shift_us: 0,
            start: random.wrapping_mul(0x9e37_79b1),
            // The first half of the range: a receiver must not guess the rollover counter wrong.
            seq: u64::from(random & 0x7fff),
            latest: i64::MIN / 2,
            floor: i64::MIN / 2,
            expected: None,
        }
    }

    fn ticks(&self, pts_us: i64) -> i64 {
        ((i128::from(pts_us) + i128::from(self.shift_us)) * i128::from(self.ticks_per_s) / 1_000_000) as i64
    }

    /// What comes is of a clock that is this much behind the viewer's.
    pub(super) fn shift(&mut self, shift_us: i64) {
        if self.shift_us != shift_us {
            self.shift_us = shift_us;
            self.switched();
        }
    }

    /// Microseconds of the viewer's clock: the inverse of what was given out.
    pub(super) fn media_us(&self, rtp_time: i64) -> i64 {
        (i128::from(rtp_time) * 1_000_000 / i128::from(self.ticks_per_s)) as i64
    }

    pub(super) fn picture(&mut self, frame: &Frame) -> i64 {
        let natural = self.ticks(frame.pts_us);
        if natural <= self.floor {
            self.floor += 1;
        }
        // Pictures may leave out of order (B-frames), so only the floor counts.
        let time = natural.max(self.floor);
        self.latest = self.latest.max(time);
        time
    }

    pub(super) fn sound(&mut self, frame: &Frame) -> i64 {
        let natural = self.ticks(frame.pts_us);
        let time = match self.expected {
            Some(expected) if (natural - expected).abs() <= SNAP_TICKS => expected,
            _ => natural.max(self.floor + 1).max(self.latest + 1),
        };
        self.latest = self.latest.max(time);
        self.expected = opus::packet_samples(&frame.payload).map(|ticks| time + i64::from(ticks));
        time
    }

    /// Times for a gop that is sent late: one tick apart, ending where its last picture belongs.
    pub(super) fn squeezed(&mut self, gop: &[Arc<Frame>]) -> Vec<i64> {
        let Some(last) = gop.iter().map(|frame| self.ticks(frame.pts_us)).max() else { return Vec::new() };
        let first = (last - (gop.len() as i64 - 1)).max(self.latest + 1);
        let times: Vec<i64> = (first..).take(gop.len()).collect();
        self.latest = first + gop.len() as i64 - 1;
        self.floor = self.latest;
        times
    }

    /// What comes next is of another track, which may be behind the one so far.
    pub(super) fn switched(&mut self) {
        self.floor = self.latest;
        self.expected = None;
    }

    /// The next extended sequence number, and a time as it goes into the header.
    pub(super) fn stamp(&mut self, rtp_time: i64) -> (u64, u32) {
        let seq = self.seq;
        self.seq += 1;
        (seq, self.start.wrapping_add(rtp_time as u32))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::{Codec, Gop, Info, Shape};

    fn frame(pts_us: i64, codec: Codec) -> Arc<Frame> {
        let shape = Shape::Video { width: 640, height: 360, reorders: false };
        Arc::new(Frame {
            gop: Arc::new(Gop { epoch: 1, independent: true, has_video: true, has_audio: true, ..Gop::default() }),
            dts_us: pts_us,
            pts_us,
            keyframe: pts_us == 0,
            payload: Bytes::from_static(&[0xfc, 1, 2]),
            info: Arc::new(Info { codec, config: Bytes::new(), shape }),
            rtp: Default::default(),
        })
    }

    fn pictures(pts_us: impl IntoIterator<Item = i64>) -> Vec<Arc<Frame>> {
        pts_us.into_iter().map(|pts_us| frame(pts_us, Codec::H264)).collect()
    }

    #[test]
    fn a_late_gop_ends_at_the_live_edge() {
        let mut out = Outgoing::new(90_000, 1);
        let gop = pictures((0..60).map(|i| i * 33_333));
        let times = out.squeezed(&gop);
        assert_eq!(times.last(), Some(&(59 * 33_333 * 90 / 1_000)));
        assert!(times.windows(2).all(|pair| pair[1] == pair[0] + 1));
        let next = out.picture(&frame(60 * 33_333, Codec::H264));
        assert_eq!(next, 60 * 33_333 * 90 / 1_000);
    }

    #[test]
    fn a_gop_sent_twice_lies_between_what_was_and_what_comes() {
        let mut out = Outgoing::new(90_000, 1);
        let gop = pictures((0..60).map(|i| i * 33_333));
        let latest = gop.iter().map(|frame| out.picture(frame)).max().unwrap();
        let again = out.squeezed(&gop);
        assert!(again[0] > latest);
        let next = out.picture(&frame(60 * 33_333, Codec::H264));
        assert!(next > *again.last().unwrap());
        assert_eq!(next, 60 * 33_333 * 90 / 1_000);
    }

    #[test]
    fn another_track_that_is_behind_never_goes_back_in_time() {
        let mut out = Outgoing::new(90_000, 1);
        let first = out.picture(&frame(1_000_000, Codec::H264));
        out.switched();
        let mut before = first;
        for pts_us in [800_000, 833_000, 866_000, 1_033_000] {
            let time = out.picture(&frame(pts_us, Codec::H264));
            assert!(time > before);
            before = time;
        }
        assert_eq!(before, 92_970);
    }

    #[test]
    fn b_frames_keep_their_times() {
        let mut out = Outgoing::new(90_000, 1);
        let times: Vec<i64> = [0, 100_000, 33_333, 66_666].map(|us| out.picture(&frame(us, Codec::H264))).into();
        assert_eq!(times, [0, 9_000, 2_999, 5_999]);
    }

    #[test]
    fn sound_is_seamless_despite_rounded_timestamps_and_jumps_where_it_really_does() {
        let mut out = Outgoing::new(48_000, 1);
        let times: Vec<i64> =
            [0, 20_000, 41_000, 60_000, 5_000_000].map(|us| out.sound(&frame(us, Codec::Opus))).into();
        assert_eq!(times, [0, 960, 1_920, 2_880, 240_000]);
    }

    #[test]
    fn another_clock_goes_on_where_the_last_one_was() {
        let mut out = Outgoing::new(90_000, 1);
        out.picture(&frame(10_000_000, Codec::H264));
        out.shift(5_040_000);
        assert_eq!(out.picture(&frame(5_000_000, Codec::H264)), 10_040 * 90);
        out.shift(-90_000_000);
        assert_eq!(out.picture(&frame(100_080_000, Codec::H264)), 10_080 * 90);
        // Less than where it was: it still never goes back.
        out.shift(-95_000_000);
        assert_eq!(out.picture(&frame(100_120_000, Codec::H264)), 10_080 * 90 + 1);
    }

    #[test]
    fn sequence_numbers_start_low_and_count() {
        for random in [0, 0x7fff, 0x8000, u32::MAX] {
            let mut out = Outgoing::new(90_000, random);
            let (first, _) = out.stamp(0);
            assert!(first < 0x8000);
            assert_eq!(out.stamp(0).0, first + 1);
        }
    }
}
