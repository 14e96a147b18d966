//! Gops: where a broadcast's segments begin, numbered once for the whole cluster.
//!
//! In: the samples of one broadcast in the order they arrived. Out: the [`Gop`] each belongs to. The leading track
//! (video where there is any) decides; other tracks belong to segments by time. The state outlives publishers, so
//! numbers go on where the last publisher stopped. Deliberately absent: payloads and clocks.

use std::sync::Arc;

use super::Reach;
use crate::media::{Gop, Kind};

/// Keyframes closer together than this share a gop: a segment per picture would drown players in requests. A little
/// less than a second, because an encoder's second is 999 milliseconds every now and then.
const GOP_US_MIN: i64 = 950_000;
/// Every audio frame is a keyframe, so audio alone is cut by this clock.
const AUDIO_GOP_US: i64 = 2_000_000;
/// The segment target is what the first gop lasted, within these bounds.
pub(super) const TARGET_S_MIN: i64 = 2;
const TARGET_S_MAX: i64 = 10;
/// A first gop that lasts longer than this is not waited for: the target is then [`TARGET_S_MAX`].
const TARGET_PATIENCE_US: i64 = 4_500_000;
/// A segment may last this much longer than the target: durations are compared rounded to seconds (rfc8216bis
/// 4.4.3.1). What is left to the half second is for timestamps in milliseconds.
const TARGET_SLACK_US: i64 = 495_000;
/// How long audio waits at the start for announced video, and how much longer than the target a gop may go on
/// without a video frame, before the broadcast is taken for audio only.
const VIDEO_PATIENCE_US: i64 = 2_000_000;

#[derive(Debug)]
pub(super) struct Minter {
    epoch: u64,
    next_gop: u64,
    discontinuity: u64,
    current: Option<Arc<Gop>>,
    /// The leading track must start over at a keyframe before anything else is accepted (another publisher, other
    /// parameter sets): what comes before it can't be decoded.
    restart: bool,
    /// The next gop is a discontinuity, but frames until then are fine.
    break_ahead: bool,
    /// Video has delivered within patience. Audio leads while it has not.
    video_alive: bool,
    first_audio_us: Option<i64>,
    pace: Pace,
    target_s: Option<u32>,
    has_video: bool,
    has_audio: bool,
}

/// How far the leading track's frames are apart.
#[derive(Debug, Default)]
struct Pace {
    newest_us: Option<i64>,
    steps_us: [i64; 2],
}

impl Pace {
    /// The smaller of the last two steps, because a single pause is no frame rate.
    fn step(&mut self, dts_us: i64) -> i64 {
        if let Some(newest_us) = self.newest_us.replace(dts_us) {
            self.steps_us = [dts_us - newest_us, self.steps_us[0]];
        }
        self.steps_us[0].min(self.steps_us[1])
    }
}

impl Minter {
    pub(super) fn new(first_gop: u64, first_discontinuity: u64, target_s: Option<u32>) -> Self {
        Self {
            epoch: 0,
            next_gop: first_gop,
            discontinuity: first_discontinuity,
            current: None,
            restart: true,
            break_ahead: false,
            video_alive: false,
            first_audio_us: None,
            pace: Pace::default(),
            target_s,
            has_video: false,
            has_audio: false,
        }
    }

    /// Fixed once known, because a playlist's target duration must never change.
    pub(super) fn target_s(&self) -> Option<u32> {
        self.target_s
    }

    pub(super) fn current(&self) -> Option<&Arc<Gop>> {
        self.current.as_ref()
    }

    pub(super) fn reach(&self) -> Option<Reach> {
        self.current.as_ref().map(|gop| Reach { next_gop: gop.id + 1, discontinuity: gop.discontinuity })
    }

    pub(super) fn next_gop(&self) -> u64 {
        self.next_gop
    }

    /// Another publisher takes over.
    pub(super) fn begin_epoch(&mut self, epoch: u64, target_s: Option<u32>) {
        *self = Self {
            epoch,
            break_ahead: self.current.is_some(),
            current: self.current.take(),
            ..Self::new(self.next_gop, self.discontinuity, self.target_s.or(target_s))
        };
    }

    /// What another node says of its own minting. Numbers only grow, and a target never changes once it is known.
    pub(super) fn told(&mut self, next_gop: u64, target_s: Option<u32>) {
        self.next_gop = self.next_gop.max(next_gop);
        self.target_s = self.target_s.or(target_s);
    }

    /// A gop that was minted on another node.
    pub(super) fn follow(&mut self, gop: &Arc<Gop>) {
        if self.current.as_ref().is_none_or(|current| current.id < gop.id) {
            self.next_gop = self.next_gop.max(gop.id.saturating_add(1));
            self.discontinuity = gop.discontinuity;
            self.current = Some(gop.clone());
        }
    }

    /// Somebody elsewhere has used numbers that were to come: the first gop after this has these or higher ones.
    pub(super) fn go_on_from(&mut self, next_gop: u64, discontinuity: u64) {
        self.break_ahead |= self.current.is_some() && (next_gop > self.next_gop || discontinuity > self.discontinuity);
        let break_ahead = u64::from(self.break_ahead && self.current.is_some());
        self.next_gop = self.next_gop.max(next_gop);
        self.discontinuity = self.discontinuity.max(discontinuity.saturating_sub(break_ahead));
    }

    pub(super) fn announced(&self, kind: Kind) -> bool {
        match kind {
            Kind::Video => self.has_video,
            Kind::Audio => self.has_audio,
        }
    }

    /// A track appeared, is going to appear, or changed its format.
    pub(super) fn announce(&mut self, kind: Kind) {
        let changed = self.announced(kind);
        match kind {
            Kind::Video => self.has_video = true,
            Kind::Audio => self.has_audio = true,
        }
        if self.current_of_epoch().is_some() {
            self.break_ahead = true;
            self.restart |= changed && kind == Kind::Video;
        }
    }

    /// The source's clock jumped.
    pub(super) fn jumped(&mut self) {
        self.break_ahead = true;
    }

    /// The gop of a sample, or `None` when the sample must be dropped because nothing before it can be decoded.
    pub(super) fn mint(&mut self, kind: Kind, dts_us: i64, keyframe: bool) -> Option<Arc<Gop>> {
        match kind {
            Kind::Video => self.mint_video(dts_us, keyframe),
            Kind::Audio => self.mint_audio(dts_us),
        }
    }

    fn mint_video(&mut self, dts_us: i64, keyframe: bool) -> Option<Arc<Gop>> {
        if self.restart || !self.video_alive {
            if !keyframe {
                return None;
            }
            // Audio led until now: its segments have another init section.
            self.break_ahead |= self.current.as_ref().is_some_and(|gop| !gop.has_video);
            self.restart = false;
            self.video_alive = true;
            return Some(self.open(dts_us, true));
        }
        self.continue_or_open(dts_us, keyframe, GOP_US_MIN)
    }

    fn mint_audio(&mut self, dts_us: i64) -> Option<Arc<Gop>> {
        let first_us = *self.first_audio_us.get_or_insert(dts_us);
        if self.has_video && self.video_alive && !self.restart {
            let gop = self.current_of_epoch()?;
            let silent_after_us =
                i64::from(self.target_s.unwrap_or(TARGET_S_MAX as u32)) * 1_000_000 + VIDEO_PATIENCE_US;
            if dts_us - gop.start_us < silent_after_us {
                return Some(gop);
            }
            self.video_alive = false;
            self.break_ahead = true;
            return Some(self.open(dts_us, true));
        }
        match self.current_of_epoch() {
            None if self.has_video && dts_us - first_us < VIDEO_PATIENCE_US => None,
            None => {
                self.restart = false;
                Some(self.open(dts_us, true))
            }
            // Video restarts with new parameter sets: audio goes on meanwhile.
            Some(gop) if self.video_alive && dts_us - gop.start_us < VIDEO_PATIENCE_US => Some(gop),
            Some(_) => {
                self.video_alive = false;
                self.continue_or_open(dts_us, true, AUDIO_GOP_US)
            }
        }
    }

    fn continue_or_open(&mut self, dts_us: i64, keyframe: bool, shortest_us: i64) -> Option<Arc<Gop>> {
        let step_us = self.pace.step(dts_us);
        let Some(gop) = self.current_of_epoch() else { return Some(self.open(dts_us, keyframe)) };
        let lasted_us = dts_us - gop.start_us;
        let due = keyframe && (lasted_us >= shortest_us || self.break_ahead);
        if self.target_s.is_none() {
            if due {
                let rounded_s = (lasted_us + 500_000) / 1_000_000;
                self.target_s = Some(rounded_s.clamp(TARGET_S_MIN, TARGET_S_MAX) as u32);
            } else if lasted_us >= TARGET_PATIENCE_US {
                self.target_s = Some(TARGET_S_MAX as u32);
            }
        }
        // With the next frame it would be too late.
        let overdue = self.target_s.is_some_and(|s| lasted_us + step_us >= i64::from(s) * 1_000_000 + TARGET_SLACK_US);
        if due || overdue { Some(self.open(dts_us, keyframe)) } else { Some(gop) }
    }

    fn open(&mut self, start_us: i64, independent: bool) -> Arc<Gop> {
        if std::mem::take(&mut self.break_ahead) && self.current.is_some() {
            self.discontinuity += 1;
        }
        let detached = self.current.as_ref().is_none_or(|gop| gop.id + 1 != self.next_gop);
        let gop = Arc::new(Gop {
            id: self.next_gop,
            epoch: self.epoch,
            discontinuity: self.discontinuity,
            start_us,
            independent,
            has_video: self.has_video && self.video_alive,
            has_audio: self.has_audio,
            detached,
        });
        self.next_gop += 1;
        self.current = Some(gop.clone());
        gop
    }

    fn current_of_epoch(&self) -> Option<Arc<Gop>> {
        self.current.clone().filter(|gop| gop.epoch == self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When gops begin, for video frames at these times.
    fn starts(times_us: impl Iterator<Item = i64>, keyframe: impl Fn(usize) -> bool) -> Vec<i64> {
        let mut minter = Minter::new(0, 0, None);
        minter.announce(Kind::Video);
        let mut starts: Vec<i64> =
            times_us.enumerate().map(|(n, us)| minter.mint(Kind::Video, us, keyframe(n)).unwrap().start_us).collect();
        starts.dedup();
        starts
    }

    #[test]
    fn a_gop_without_an_end_is_closed_before_it_rounds_to_more_than_the_target() {
        for frames_per_s in [1.0, 1.1, 2.3, 5.0, 12.5, 15.0, 23.976, 25.0, 29.97, 30.0, 50.0, 59.94, 60.0, 120.0] {
            // As RTMP tells the time: in milliseconds.
            let times_us = (0..).map(|n| (f64::from(n) * 1e3 / frames_per_s) as i64 * 1_000);
            let second = (2.0 * frames_per_s).round() as usize;
            let starts = starts(times_us.take_while(|us| *us < 60_000_000), |n| n == 0 || n == second);
            assert!(starts.len() > 20, "{frames_per_s} a second: {starts:?}");
            for pair in starts.windows(2) {
                let lasted_us = pair[1] - pair[0];
                assert!((lasted_us + 500_000) / 1_000_000 <= 2, "{frames_per_s} a second: {lasted_us} µs");
            }
        }
    }

    #[test]
    fn a_gop_is_detached_where_the_one_before_it_was_minted_elsewhere() {
        let mut minter = Minter::new(7, 2, None);
        minter.announce(Kind::Video);
        let open = |minter: &mut Minter, us: i64| {
            let gop = minter.mint(Kind::Video, us, true).unwrap();
            (gop.id, gop.discontinuity, gop.detached)
        };
        assert_eq!(open(&mut minter, 0), (7, 2, true));
        assert_eq!(open(&mut minter, 2_000_000), (8, 2, false));
        let again = |minter: &mut Minter, epoch, next_gop, discontinuity| {
            minter.begin_epoch(epoch, None);
            minter.announce(Kind::Video);
            minter.go_on_from(next_gop, discontinuity);
        };
        again(&mut minter, 2, 9, 3);
        assert_eq!(open(&mut minter, 4_000_000), (9, 3, false), "another publisher here");
        again(&mut minter, 3, 15, 5);
        assert_eq!(open(&mut minter, 9_000_000), (15, 5, true), "somebody else had it meanwhile");
        assert_eq!(minter.reach(), Some(Reach { next_gop: 16, discontinuity: 5 }));
    }

    #[test]
    fn a_keyframe_that_comes_late_but_in_time_is_waited_for() {
        // 62 frames at 25 a second are 2.48 s.
        let starts = starts((0..620).map(|n| n * 40_000), |n| n % 62 == 0);
        assert_eq!(starts, (0..10).map(|n| n * 2_480_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_pause_does_not_cut_a_gop_short() {
        // Nothing between 1.1 s and 1.9 s of each gop.
        let times_us = (0..1000).map(|n| n * 20_000).filter(|us| !(1_100_000..1_900_000).contains(&(us % 2_000_000)));
        let times_us: Vec<_> = times_us.collect();
        let starts = starts(times_us.iter().copied(), |n| times_us[n] % 2_000_000 == 0);
        assert_eq!(starts, (0..10).map(|n| n * 2_000_000).collect::<Vec<_>>());
    }
}
