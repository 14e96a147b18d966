//! What a track holds of its frames. In: frames. Out: where readers begin, what the track takes. The oldest gop leaves first.
//! Deliberately absent: locks, and who reads.

use std::{collections::VecDeque, sync::Arc, task::Waker};

use super::Start;
use crate::{
    live::minter::TARGET_S_MIN,
    media::{Frame, Gop, Info},
};

/// So many whole segments stay besides the open one: a full playlist when the first HLS player arrives ("three target
/// durations", RFC 8216 section 6.2.2). More are of no use to anybody.
const SEGMENTS: i64 = 3;
/// What those may be shorter together: a target duration is rounded, a gop of 1.9 seconds counts as two.
const SEGMENTS_SLACK_US: i64 = 500_000;
/// However long segments are, gops older than this go: it is enough for the newest gop of an encoder with OBS's default
/// of 8.3 seconds between keyframes.
const KEEP_US: i64 = 12_000_000;
/// An encoder that never sends a second keyframe keeps this much and no more.
const AGE_US_MAX: i64 = 60_000_000;
const BYTES_MAX: usize = 32 << 20;

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
    /// The first keyframe of each gop, with the time when the gop began: the same on all tracks, so that what stays
    /// of one is not without the other.
    segments: VecDeque<Keyframe>,
    pub(super) info: Option<Arc<Info>>,
    /// The longest gop so far, rounded as segment targets are (`minter`): the first one sets the target.
    segment_us: Option<i64>,
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
            Start::Oldest => self.keyframes.front().map_or(self.end(), |keyframe| keyframe.position),
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

    pub(super) fn append(&mut self, frame: Arc<Frame>) {
        if frame.keyframe {
            let position = self.end();
            self.keyframes.push_back(Keyframe { position, dts_us: frame.dts_us });
            if self.segments.back().is_none_or(|last| last.dts_us != frame.gop.start_us) {
                self.segments.push_back(Keyframe { position, dts_us: frame.gop.start_us });
            }
        }
        self.measure_segment(&frame.gop);
        self.bytes += frame.payload.len();
        self.bytes_total += frame.payload.len() as u64;
        self.frames_total += 1;
        self.info = Some(frame.info.clone());
        let (newest_us, open_us) = (frame.dts_us, frame.gop.start_us);
        let segments_us = self.segment_us.map_or(i64::MAX, |segment_us| segment_us * SEGMENTS - SEGMENTS_SLACK_US);
        self.frames.push_back(frame);
        // Whole gops first: what is left then still begins at a keyframe.
        while let Some(second) = self.segments.get(1).filter(|second| open_us - second.dts_us >= segments_us) {
            self.evict_until(second.position);
        }
        while let Some(&second) = self.keyframes.get(1) {
            if self.bytes <= BYTES_MAX && newest_us - second.dts_us <= KEEP_US {
                break;
            }
            self.evict_until(second.position);
        }
        while self.bytes > BYTES_MAX || self.frames.front().is_some_and(|f| newest_us - f.dts_us > AGE_US_MAX) {
            self.evict_until(self.first + 1);
        }
    }

    /// Forgets all frames.
    pub(super) fn clear(&mut self) {
        self.evict_until(self.end());
    }

    /// Looks at the gop before the one that begins.
    fn measure_segment(&mut self, gop: &Gop) {
        let Some(last) = self.frames.back().map(|frame| &frame.gop) else { return };
        if last.id + 1 == gop.id && last.discontinuity == gop.discontinuity {
            let rounded_s = (gop.start_us - last.start_us + 500_000) / 1_000_000;
            let segment_us = rounded_s.max(TARGET_S_MIN) * 1_000_000;
            self.segment_us = self.segment_us.max(Some(segment_us));
        }
    }

    fn evict_until(&mut self, position: u64) {
        while self.first < position {
            let Some(frame) = self.frames.pop_front() else { return };
            self.bytes -= frame.payload.len();
            self.first += 1;
        }
        for starts in [&mut self.keyframes, &mut self.segments] {
            while starts.front().is_some_and(|start| start.position < self.first) {
                starts.pop_front();
            }
        }
    }
}
