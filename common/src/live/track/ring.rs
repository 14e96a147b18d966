//! What a track holds of its frames. In: frames, and whether it is to be deep. Out: where readers begin, what the track takes.
//! The oldest gop leaves first. Deliberately absent: locks, and who reads.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc, task::Waker};

use super::Start;
use crate::{
    live::depth::fill_a_playlist,
    media::{Frame, Gop, Info},
};

/// So many target durations of whole segments stay besides the open one: a playlist to begin with when the first HLS
/// player arrives (RFC 8216 section 6.2.2).
const TARGETS: i64 = 3;
/// What those may be shorter together: a target duration is rounded, a gop of 1.9 seconds counts as two.
const TARGETS_SLACK_US: i64 = 500_000;
/// However long segments are, gops older than this go: it is enough for the newest gop of an encoder with OBS's default
/// of 8.3 seconds between keyframes.
const KEEP_US: i64 = 12_000_000;

/// A deep ring keeps so much more than is listed: what a reader begins with must not leave before its other tracks have
/// come, from another node or out of an encoder.
const SPARE_US: i64 = 4_000_000;
/// Gops are a second long or more, apart from those that a discontinuity cuts short.
const GOPS_MAX: usize = 128;

/// Where a ring ends whatever its gops are like.
struct Bounds {
    bytes: usize,
    /// An encoder that never sends a second keyframe keeps this much and no more.
    age_us: i64,
}

const SHALLOW: Bounds = Bounds { bytes: 32 << 20, age_us: 60_000_000 };
/// All that a playlist lists: of gops of two seconds at 20 Mbit/s, of OBS's default at 8. Seven segments of ten seconds, the
/// open one, and what precedes them up to a keyframe.
const DEEP: Bounds = Bounds { bytes: 64 << 20, age_us: 120_000_000 };

/// What a track takes, as its ring shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub bits_per_s: u64,
    /// Of the gop that takes most.
    pub peak_bits_per_s: u64,
    pub frames_per_s: f64,
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) frames: VecDeque<Arc<Frame>>,
    /// Position of `frames[0]` since the track began.
    pub(super) first: u64,
    /// Of the keyframes in the ring: looking into frames as old as these would wait for memory at each append.
    keyframes: VecDeque<Keyframe>,
    /// When the first frame is of, for the same reason.
    oldest_us: Option<i64>,
    /// Each becomes a segment. They are the same on all tracks, so that what stays of one is not without the other.
    gops: VecDeque<Stretch>,
    /// Of a deep ring that holds more than a playlist lists.
    listed_from: Option<u64>,
    pub(super) info: Option<Arc<Info>>,
    pub(super) closed: bool,
    pub(super) wakers: Vec<Waker>,
    pub(super) bytes: usize,
    pub(super) frames_total: u64,
    pub(super) bytes_total: u64,
    /// The track had frames on another node before the first one here.
    pub(super) joined_late: bool,
}

#[derive(Clone, Copy, Debug)]
struct Keyframe {
    position: u64,
    dts_us: i64,
}

/// A gop, as far as it has come.
#[derive(Clone, Debug)]
struct Stretch {
    gop: Arc<Gop>,
    position: u64,
    /// Of its first keyframe.
    keyframe: Option<u64>,
    lasted_us: i64,
}

impl Ring {
    pub(super) fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    pub(super) fn has_keyframe(&self) -> bool {
        !self.keyframes.is_empty()
    }

    /// Of the first frame that who begins there is given.
    pub(super) fn position(&self, start: Start) -> u64 {
        match start {
            Start::Newest => self.newest_keyframe().unwrap_or(self.end()),
            Start::Oldest | Start::Kept => self
                .listed_from
                .filter(|position| *position >= self.first)
                .or(self.keyframes.front().map(|keyframe| keyframe.position))
                .unwrap_or(self.end()),
            Start::Whole => self.newest_whole().or(self.newest_keyframe()).unwrap_or(self.end()),
            Start::Live => self.end(),
            // Time steps back where an owner's clock is behind its predecessor's.
            Start::At { dts_us } => {
                let before = self.frames.iter().rposition(|frame| frame.dts_us < dts_us);
                before.map_or(self.first, |before| self.first + before as u64 + 1)
            }
        }
    }

    pub(super) fn newest_keyframe(&self) -> Option<u64> {
        self.keyframes.back().map(|keyframe| keyframe.position)
    }

    /// Where the newest gop begins that another one follows.
    fn newest_whole(&self) -> Option<u64> {
        let newest = self.frames.back()?.gop.id;
        let frame = |keyframe: &Keyframe| self.frames.get((keyframe.position - self.first) as usize);
        let opens = |keyframe: &&Keyframe| {
            frame(keyframe).is_some_and(|frame| frame.gop.id < newest && frame.dts_us == frame.gop.start_us)
        };
        self.keyframes.iter().rev().find(opens).map(|keyframe| keyframe.position)
    }

    pub(super) fn rates(&self) -> Option<Rates> {
        let opening = |index: &usize| self.frames[*index].gop.id != self.frames[index - 1].gop.id;
        let openings: Vec<usize> = (1..self.frames.len()).filter(opening).collect();
        let (&first, &last) = (openings.first()?, openings.last()?);
        let rate = |from: usize, until: usize| {
            let bytes: usize = self.frames.range(from..until).map(|frame| frame.payload.len()).sum();
            let lasted_us = (self.frames[until].dts_us - self.frames[from].dts_us).max(1) as u64;
            (bytes as u64 * 8 * 1_000_000 / lasted_us, lasted_us)
        };
        // The first gop may have lost its beginning, but it is all there is when the second one has just begun.
        let from = if first == last { 0 } else { first };
        let (bits_per_s, lasted_us) = rate(from, last);
        let gops = openings.windows(2).map(|gop| rate(gop[0], gop[1]).0);
        let frames_per_s = (last - from) as f64 * 1e6 / lasted_us as f64;
        Some(Rates { bits_per_s, peak_bits_per_s: gops.fold(bits_per_s, u64::max), frames_per_s })
    }

    pub(super) fn bits_per_second(&self) -> u64 {
        let (Some(oldest), Some(newest)) = (self.frames.front(), self.frames.back()) else { return 0 };
        let span_us = (newest.dts_us - oldest.dts_us).max(0) as u64;
        let bytes = (self.bytes - newest.payload.len()) as u64;
        (bytes * 8 * 1_000_000).checked_div(span_us).unwrap_or(0)
    }

    /// `target_s`: what no segment outlasts, once that is known.
    pub(super) fn append(&mut self, frame: Arc<Frame>, deep: bool, target_s: Option<u32>) {
        let position = self.end();
        let opens = self.follow(&frame, position);
        if frame.keyframe {
            self.keyframes.push_back(Keyframe { position, dts_us: frame.dts_us });
        }
        self.bytes += frame.payload.len();
        self.bytes_total += frame.payload.len() as u64;
        self.frames_total += 1;
        if !self.info.as_ref().is_some_and(|info| Arc::ptr_eq(info, &frame.info)) {
            self.info = Some(frame.info.clone());
        }
        let newest_us = frame.dts_us;
        self.oldest_us = self.oldest_us.or(Some(newest_us));
        self.frames.push_back(frame);
        // Whole gops first: what is left then still begins at a keyframe.
        if opens && let Some(position) = target_s.and_then(|target_s| self.spared_until(deep, target_s)) {
            self.evict_until(position);
        }
        let bounds = if deep { DEEP } else { SHALLOW };
        while let Some(&second) = self.keyframes.get(1) {
            if self.bytes <= bounds.bytes && (deep || newest_us - second.dts_us <= KEEP_US) {
                break;
            }
            self.evict_until(second.position);
        }
        while self.bytes > bounds.bytes || self.oldest_us.is_some_and(|oldest_us| newest_us - oldest_us > bounds.age_us)
        {
            self.evict_until(self.first + 1);
        }
    }

    /// Forgets all frames.
    pub(super) fn clear(&mut self) {
        self.evict_until(self.end());
    }

    /// Notes what gop the frame belongs to; true if it opens one.
    fn follow(&mut self, frame: &Frame, position: u64) -> bool {
        let (gop, keyframe) = (&frame.gop, frame.keyframe.then_some(position));
        if let Some(last) = self.gops.back_mut() {
            if (last.gop.id, last.gop.epoch) == (gop.id, gop.epoch) {
                last.keyframe = last.keyframe.or(keyframe);
                last.lasted_us = last.lasted_us.max(frame.dts_us - gop.start_us);
                return false;
            }
            // Between two publishers there is time that belongs to nobody.
            if last.gop.id + 1 == gop.id && last.gop.discontinuity == gop.discontinuity {
                last.lasted_us = (gop.start_us - last.gop.start_us).max(0);
            }
        }
        self.gops.push_back(Stretch { gop: gop.clone(), position, keyframe, lasted_us: 0 });
        true
    }

    /// Finds out what a playlist lists, and where the gops begin that have to stay.
    fn spared_until(&mut self, deep: bool, target_s: u32) -> Option<u64> {
        let targets_us = TARGETS * i64::from(target_s) * 1_000_000 - TARGETS_SLACK_US;
        let open = self.gops.len() - 1;
        if !deep {
            self.listed_from = None;
            let kept = self.stretch_before(open, |_, lasted_us| lasted_us >= targets_us)?;
            return self.first_picture(1..=kept);
        }
        let listed = self.stretch_before(open, |gops, lasted_us| fill_a_playlist(gops, lasted_us, target_s));
        self.listed_from = listed.and_then(|listed| self.first_picture(0..=listed));
        let kept = self.stretch_before(listed?, |_, lasted_us| lasted_us >= SPARE_US)?;
        self.first_picture(1..=kept)
    }

    /// The first of those gops right before this one that are enough.
    fn stretch_before(&self, end: usize, enough: impl Fn(usize, i64) -> bool) -> Option<usize> {
        let (mut gops, mut lasted_us) = (0, 0);
        let found = self.gops.range(..end).enumerate().rev().find(|(_, gop)| {
            gops += 1;
            lasted_us += gop.lasted_us;
            enough(gops, lasted_us) || gops == GOPS_MAX
        });
        found.map(|(at, _)| at)
    }

    /// Where the last one of these gops begins that begins with a keyframe.
    fn first_picture(&self, gops: RangeInclusive<usize>) -> Option<u64> {
        let opening = |stretch: &Stretch| stretch.keyframe.map(|keyframe| self.opening(&stretch.gop, keyframe));
        self.gops.range(gops).rev().find_map(opening)
    }

    /// Where a gop begins by time: sound that arrived ahead of the picture that opened it is part of its segment.
    fn opening(&self, gop: &Gop, mut position: u64) -> u64 {
        let belongs =
            |frame: &Arc<Frame>| frame.keyframe && frame.dts_us >= gop.start_us && frame.gop.epoch == gop.epoch;
        while position > self.first && self.frames.get((position - 1 - self.first) as usize).is_some_and(belongs) {
            position -= 1;
        }
        position
    }

    fn evict_until(&mut self, position: u64) {
        while self.first < position {
            let Some(frame) = self.frames.pop_front() else { break };
            self.bytes -= frame.payload.len();
            self.first += 1;
        }
        self.oldest_us = self.frames.front().map(|frame| frame.dts_us);
        while self.keyframes.front().is_some_and(|keyframe| keyframe.position < self.first) {
            self.keyframes.pop_front();
        }
        let end = self.end();
        while self.gops.front().is_some() && self.gops.get(1).map_or(end, |next| next.position) <= self.first {
            self.gops.pop_front();
        }
    }
}
