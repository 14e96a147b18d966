//! What is there to be played: the segments and parts of one broadcast. In: parts in order, with their bytes. Out:
//! lookups by name, and the stretch that a playlist lists. Deliberately absent: clocks, waiting, text.
//!
//! Bounded by media time, bytes and number; what leaves is what is oldest.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use headwater_common::media::Gop;

use super::{cutter::Part, mux::Init};

/// A playlist lists at least this many segments and this much time, once they were there.
const SEGMENTS_MIN: usize = 6;
const LISTED_US_MIN: i64 = 20_000_000;
/// Half a minute of 40 Mbit/s and then some. Beyond it the playlist gets shorter, down to three segments.
const BYTES_MAX: usize = 192 << 20;
/// Gops are a second long or more, apart from those that a discontinuity cuts short.
const SEGMENTS_MAX: usize = 128;
/// "The server MUST NOT remove a segment if that leaves less than three target durations" (RFC 8216 6.2.2).
const TARGETS_MIN: i64 = 3;

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) gop: Arc<Gop>,
    pub(super) init: Arc<Init>,
    pub(super) parts: Vec<Chunk>,
    pub(super) duration_us: i64,
    pub(super) complete: bool,
}

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) duration_us: i64,
    pub(super) independent: bool,
    pub(super) data: Bytes,
}

#[derive(Debug)]
pub(super) struct Window {
    pub(super) born_us: i64,
    pub(super) target_s: u32,
    /// Oldest first; only the last one may be incomplete.
    segments: VecDeque<Segment>,
    /// Those before it have left the playlist, and stay for players that read about them in time.
    listed_from: usize,
    bytes: usize,
    ended: bool,
}

impl Segment {
    /// It can be played without the one before it.
    pub(super) fn independent(&self) -> bool {
        self.parts.first().is_some_and(|part| part.independent)
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        self.parts.iter().map(|part| &part.data)
    }

    fn bytes(&self) -> usize {
        self.chunks().map(Bytes::len).sum()
    }
}

impl Window {
    pub(super) fn new(born_us: i64, target_s: u32) -> Self {
        Self { born_us, target_s, segments: VecDeque::new(), listed_from: 0, bytes: 0, ended: false }
    }

    pub(super) fn push(&mut self, part: &Part, init: &Arc<Init>, data: Bytes) {
        self.ended = false;
        let Part { gop, index, .. } = part;
        // What was never completed never will be.
        if let Some(open) = self.segments.pop_back_if(|open| !open.complete && (open.gop.id != gop.id || *index == 0)) {
            self.bytes -= open.bytes();
        }
        if *index == 0 {
            let (gop, init) = (gop.clone(), init.clone());
            if self.segments.back().is_some_and(|last| !follows(last, &gop, &init)) {
                self.listed_from = self.segments.len();
            }
            self.segments.push_back(Segment { gop, init, parts: Vec::new(), duration_us: 0, complete: false });
        }
        let Some(open) = self.segments.back_mut().filter(|open| open.gop.id == gop.id && !open.complete) else {
            return;
        };
        if open.parts.len() != *index as usize {
            return;
        }
        self.bytes += data.len();
        open.duration_us += part.duration_us;
        open.parts.push(Chunk { duration_us: part.duration_us, independent: part.independent, data });
        open.complete = part.last;
        self.trim();
    }

    /// Nothing follows, until it does.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// A classic player needs a whole segment.
    pub(super) fn playable(&self) -> bool {
        self.listed().any(|segment| segment.complete)
    }

    pub(super) fn listed(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.range(self.listed_from.min(self.segments.len())..)
    }

    /// Number of the last whole segment and of what comes next.
    pub(super) fn last_complete(&self) -> Option<u64> {
        self.listed().rev().find(|segment| segment.complete).map(|segment| segment.gop.id)
    }

    /// The part that is being made.
    pub(super) fn next_part(&self) -> Option<(u64, u32)> {
        let last = self.segments.back()?;
        Some(if last.complete { (last.gop.id + 1, 0) } else { (last.gop.id, last.parts.len() as u32) })
    }

    /// The newest one that is there.
    pub(super) fn last_part(&self) -> Option<(u64, u32)> {
        let with_parts = self.segments.iter().rev().find(|segment| !segment.parts.is_empty())?;
        Some((with_parts.gop.id, with_parts.parts.len() as u32 - 1))
    }

    /// The playlist lists this segment or part, or a later one.
    pub(super) fn reached(&self, gop: u64, part: Option<u32>) -> bool {
        match part {
            None => self.last_complete().is_some_and(|last| last >= gop),
            // A part number beyond its segment's last means the first of the next segment (rfc8216bis 6.2.5.2).
            Some(part) => self.next_part().is_some_and(|next| next > (gop, part)),
        }
    }

    pub(super) fn segment(&self, gop: u64) -> Option<&Segment> {
        self.find(gop).filter(|segment| segment.complete)
    }

    pub(super) fn part(&self, gop: u64, index: u32) -> Option<(&Init, &Bytes)> {
        let segment = self.find(gop)?;
        Some((&*segment.init, &segment.parts.get(index as usize)?.data))
    }

    pub(super) fn init(&self, discontinuity: u64, digest: u64) -> Option<&Arc<Init>> {
        let mut inits = self.segments.iter().map(|segment| &segment.init);
        inits.find(|init| init.discontinuity == discontinuity && init.digest == digest)
    }

    fn find(&self, gop: u64) -> Option<&Segment> {
        // Numbers grow, with holes where a reader was too slow.
        let at = self.segments.binary_search_by_key(&gop, |segment| segment.gop.id).ok()?;
        self.segments.get(at)
    }

    fn trim(&mut self) {
        let listed_us_min = LISTED_US_MIN.max(TARGETS_MIN * i64::from(self.target_s) * 1_000_000);
        let total = |segments: &mut dyn Iterator<Item = &Segment>| segments.map(|s| s.duration_us).sum::<i64>();
        while self.listed().filter(|segment| segment.complete).count() > SEGMENTS_MIN
            && total(&mut self.listed().skip(1).filter(|segment| segment.complete)) >= listed_us_min
        {
            self.listed_from += 1;
        }
        // "MUST remain available for the duration of the segment plus that of the longest playlist" (RFC 8216 6.2.2).
        let listed_us = total(&mut self.listed());
        while self.listed_from > 0
            && (total(&mut self.segments.iter().take(self.listed_from).skip(1)) >= listed_us
                || self.bytes > BYTES_MAX
                || self.segments.len() > SEGMENTS_MAX)
        {
            self.forget_oldest();
        }
        while (self.bytes > BYTES_MAX || self.segments.len() > SEGMENTS_MAX)
            && self.segments.len() > TARGETS_MIN as usize + 1
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.segments.pop_front() {
            self.bytes -= oldest.bytes();
            self.listed_from = self.listed_from.saturating_sub(1);
        }
    }
}

/// Numbers that jump, or other tracks without a discontinuity, are nothing that a player can be led across.
fn follows(last: &Segment, gop: &Gop, init: &Init) -> bool {
    gop.id == last.gop.id + 1
        && (gop.discontinuity > last.gop.discontinuity
            || (gop.discontinuity == last.gop.discontinuity && init.digest == last.init.digest))
}
