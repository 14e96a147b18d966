//! Gops: where a broadcast's segments begin, numbered once for the whole cluster.
//!
//! In: the samples of one broadcast in the order they arrived. Out: the [`Gop`] each belongs to. The leading track
//! (video where there is any) decides; other tracks belong to segments by time. The state outlives publishers, so
//! numbers go on where the last publisher stopped. Deliberately absent: payloads and clocks.

use std::sync::Arc;

use crate::media::{Gop, Kind};

/// Keyframes closer together than this share a gop: a segment per picture would drown players in requests. A little
/// less than a second, because an encoder's second is 999 milliseconds every now and then.
const GOP_US_MIN: i64 = 950_000;
/// Every audio frame is a keyframe, so audio alone is cut by this clock.
const AUDIO_GOP_US: i64 = 2_000_000;
/// The segment target is what the first gop lasted, within these bounds.
const TARGET_S_MIN: i64 = 2;
const TARGET_S_MAX: i64 = 10;
/// A first gop that lasts longer than this is not waited for: the target is then [`TARGET_S_MAX`].
const TARGET_PATIENCE_US: i64 = 4_500_000;
/// A segment may last this much longer than the target: RFC 8216 compares durations rounded to seconds.
const TARGET_SLACK_US: i64 = 490_000;
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
    target_s: Option<u32>,
    has_video: bool,
    has_audio: bool,
}

impl Minter {
    pub(super) fn new(first_gop: u64, first_discontinuity: u64) -> Self {
        Self {
            epoch: 0,
            next_gop: first_gop,
            discontinuity: first_discontinuity,
            current: None,
            restart: true,
            break_ahead: false,
            video_alive: false,
            first_audio_us: None,
            target_s: None,
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

    pub(super) fn next_gop(&self) -> u64 {
        self.next_gop
    }

    /// Another publisher takes over.
    pub(super) fn begin_epoch(&mut self, epoch: u64) {
        *self = Self {
            epoch,
            break_ahead: self.current.is_some(),
            current: self.current.take(),
            target_s: self.target_s,
            ..Self::new(self.next_gop, self.discontinuity)
        };
    }

    pub(super) fn announced(&self, kind: Kind) -> bool {
        match kind {
            Kind::Video => self.has_video,
            Kind::Audio => self.has_audio,
        }
    }

    /// A track appeared or changed its format.
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
        let overdue = self.target_s.is_some_and(|s| lasted_us >= i64::from(s) * 1_000_000 + TARGET_SLACK_US);
        if due || overdue { Some(self.open(dts_us, keyframe)) } else { Some(gop) }
    }

    fn open(&mut self, start_us: i64, independent: bool) -> Arc<Gop> {
        if std::mem::take(&mut self.break_ahead) && self.current.is_some() {
            self.discontinuity += 1;
        }
        let gop = Arc::new(Gop {
            id: self.next_gop,
            epoch: self.epoch,
            discontinuity: self.discontinuity,
            start_us,
            independent,
            has_video: self.has_video && self.video_alive,
            has_audio: self.has_audio,
        });
        self.next_gop += 1;
        self.current = Some(gop.clone());
        gop
    }

    fn current_of_epoch(&self) -> Option<Arc<Gop>> {
        self.current.clone().filter(|gop| gop.epoch == self.epoch)
    }
}
