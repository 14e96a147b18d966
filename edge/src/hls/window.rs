//! What is there to be played: the segments and parts of one broadcast. In: parts in order, with their bytes. Out:
//! lookups by name, and the stretch that a playlist lists. Deliberately absent: clocks, waiting, text.
//!
//! The stretch has no holes, because a playlist numbers segments by their place. Where a publisher goes on at another
//! node, the last segment of before is left as far as it is known, and numbers that did not get here are listed as gaps.
//! Any other jump begins the playlist anew, as soon as there is a segment to begin with: until then it stays.
//!
//! Bounded by media time, bytes and number; what leaves is what is oldest.

use std::{collections::VecDeque, num::NonZeroU32, ops::Range, sync::Arc};

use bytes::Bytes;
use headwater_common::{live::fill_a_playlist, media::Gop};

use super::{cutter::Part, mux::Init, name::Piece};

/// Half a minute of 40 Mbit/s and then some. Beyond it the playlist gets shorter, down to three segments.
const BYTES_MAX: usize = 192 << 20;
/// Gops are a second long or more, apart from those that a discontinuity cuts short.
const SEGMENTS_MAX: usize = 128;
/// Whatever they weigh (RFC 8216 section 6.2.2).
const SEGMENTS_MIN: usize = 3;
/// Where another node's clock is behind.
const GAP_US_MIN: i64 = 100_000;
/// So many numbers in a row may be missing. Nodes that are told the same broadcast are a gop or two apart.
const GAPS_MAX: u64 = 6;

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) gop: Arc<Gop>,
    pub(super) init: Arc<Init>,
    pub(super) parts: Vec<Chunk>,
    pub(super) duration_us: i64,
    /// Nothing follows in it. Without parts it is a gap: it never got here.
    pub(super) complete: bool,
    /// It went on, for all that is known.
    broken_off: bool,
    /// The longest playlist that listed it, and once none does, the media's age up to which it can be had.
    listed_us_max: i64,
    stays_until_us: i64,
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
    /// What the playlist is going to begin with, until it is complete.
    ahead: Option<Segment>,
    bytes: usize,
    /// How much media has come: the only clock here.
    age_us: i64,
    ended: bool,
}

impl Segment {
    fn begin(gop: &Arc<Gop>, init: &Arc<Init>) -> Self {
        let (gop, init) = (gop.clone(), init.clone());
        Self {
            gop,
            init,
            parts: Vec::new(),
            duration_us: 0,
            complete: false,
            broken_off: false,
            listed_us_max: 0,
            stays_until_us: 0,
        }
    }

    pub(super) fn is_gap(&self) -> bool {
        self.complete && self.parts.is_empty()
    }

    /// What it is called once it is complete.
    pub(super) fn piece(&self) -> Piece {
        let Gop { epoch, id: gop, .. } = *self.gop;
        match NonZeroU32::new(self.parts.len() as u32).filter(|_| self.broken_off) {
            Some(parts) => Piece::Stump { epoch, gop, parts },
            None => Piece::Segment { epoch, gop },
        }
    }

    fn end_us(&self) -> i64 {
        self.gop.start_us + self.duration_us
    }

    fn take(&mut self, part: &Part, data: Bytes) -> bool {
        let fits = self.gop.id == part.gop.id && !self.complete && self.parts.len() == part.index as usize;
        if fits {
            self.duration_us += part.duration_us;
            self.parts.push(Chunk { duration_us: part.duration_us, independent: part.independent, data });
            self.complete = part.last;
        }
        fits
    }

    /// It can be played without the one before it.
    pub(super) fn independent(&self) -> bool {
        self.is_gap() || self.parts.first().is_some_and(|part| part.independent)
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
        Self {
            born_us,
            target_s,
            segments: VecDeque::new(),
            listed_from: 0,
            ahead: None,
            bytes: 0,
            age_us: 0,
            ended: false,
        }
    }

    pub(super) fn push(&mut self, part: &Part, init: &Arc<Init>, data: Bytes) {
        self.ended = false;
        self.age_us += part.duration_us;
        if part.index == 0 {
            self.begin(&part.gop, init);
        }
        let bytes = data.len();
        if let Some(ahead) = &mut self.ahead {
            ahead.take(part, data);
            if let Some(first) = self.ahead.take_if(|ahead| ahead.complete) {
                self.forget_open();
                self.unlist(self.segments.len());
                self.bytes += first.bytes();
                self.segments.push_back(first);
            }
        } else if self.segments.back_mut().is_some_and(|open| open.take(part, data)) {
            self.bytes += bytes;
        }
        self.trim();
    }

    fn begin(&mut self, gop: &Arc<Gop>, init: &Arc<Init>) {
        let segment = Segment::begin(gop, init);
        self.ahead = None;
        if gop.detached {
            self.break_off();
            self.fill_up_to(gop);
        }
        let before = self.segments.iter().rev().find(|segment| segment.complete);
        if before.is_none_or(|before| follows(before, gop, init)) {
            self.forget_open();
            self.segments.push_back(segment);
        } else {
            self.ahead = Some(segment);
        }
    }

    /// How the open segment went on is not known to everybody: what is here of it has to do.
    pub(super) fn break_off(&mut self) {
        if let Some(open) = self.segments.back_mut().filter(|open| !open.complete) {
            (open.complete, open.broken_off) = (true, true);
        }
    }

    /// What was never completed never will be.
    fn forget_open(&mut self) {
        if let Some(open) = self.segments.pop_back_if(|open| !open.complete) {
            self.bytes -= open.bytes();
        }
    }

    /// Lists the numbers that did not get here before those of another node, with the time that went by.
    fn fill_up_to(&mut self, gop: &Gop) {
        let Some(last) = self.segments.back().filter(|last| gop.discontinuity > last.gop.discontinuity) else { return };
        let missing = gop.id.saturating_sub(last.gop.id + 1);
        if !(1..=GAPS_MAX).contains(&missing) {
            return;
        }
        let target_us = i64::from(self.target_s) * 1_000_000;
        let duration_us = ((gop.start_us - last.end_us()) / missing as i64).clamp(GAP_US_MIN, target_us);
        let (init, end_us, last) = (last.init.clone(), last.end_us(), last.gop.clone());
        for (nth, id) in (0..).zip(last.id + 1..gop.id) {
            let gop = Gop { id, start_us: end_us + nth * duration_us, ..Gop::clone(&last) };
            let gap = Segment { duration_us, complete: true, ..Segment::begin(&Arc::new(gop), &init) };
            self.segments.push_back(gap);
        }
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

    /// What that is going to be called.
    pub(super) fn hint(&self) -> Option<Piece> {
        let ((gop, index), epoch) = (self.next_part()?, self.segments.back()?.gop.epoch);
        Some(Piece::Part { epoch, gop, index })
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

    /// As it was minted, in full.
    pub(super) fn segment(&self, epoch: u64, gop: u64) -> Option<&Segment> {
        self.find(epoch, gop).filter(|segment| segment.complete && !segment.broken_off && !segment.is_gap())
    }

    /// Some parts of a segment, with what plays them.
    pub(super) fn parts(&self, epoch: u64, gop: u64, parts: Range<u32>) -> Option<(&Init, &[Chunk])> {
        let segment = self.find(epoch, gop)?;
        Some((&*segment.init, segment.parts.get(parts.start as usize..parts.end as usize)?))
    }

    pub(super) fn init(&self, discontinuity: u64, digest: u64) -> Option<&Arc<Init>> {
        let mut inits = self.segments.iter().map(|segment| &segment.init);
        inits.find(|init| init.discontinuity == discontinuity && init.digest == digest)
    }

    fn find(&self, epoch: u64, gop: u64) -> Option<&Segment> {
        // Numbers grow, with holes where a reader was too slow.
        let at = self.segments.binary_search_by_key(&gop, |segment| segment.gop.id).ok()?;
        self.segments.get(at).filter(|segment| segment.gop.epoch == epoch)
    }

    fn is_full_without_the_oldest(&self) -> bool {
        let rest = self.listed().skip(1).filter(|segment| segment.complete);
        let sum = |(segments, us), segment: &Segment| (segments + 1, us + segment.duration_us);
        let (segments, lasted_us) = rest.fold((0, 0), sum);
        fill_a_playlist(segments, lasted_us, self.target_s)
    }

    fn trim(&mut self) {
        while self.is_full_without_the_oldest() {
            self.unlist(self.listed_from + 1);
        }
        let listed_us = self.listed().map(|segment| segment.duration_us).sum();
        for segment in self.segments.iter_mut().skip(self.listed_from) {
            segment.listed_us_max = segment.listed_us_max.max(listed_us);
        }
        while self.listed_from > 0
            && (self.segments.front().is_some_and(|oldest| oldest.stays_until_us <= self.age_us)
                || self.bytes > BYTES_MAX
                || self.segments.len() > SEGMENTS_MAX)
        {
            self.forget_oldest();
        }
        while (self.bytes > BYTES_MAX || self.segments.len() > SEGMENTS_MAX) && self.segments.len() > SEGMENTS_MIN + 1 {
            self.forget_oldest();
        }
    }

    /// "MUST remain available for the duration of the segment plus that of the longest playlist" that listed it (RFC
    /// 8216bis 6.2.2), also when all leave at once because a playlist begins anew.
    fn unlist(&mut self, listed_from: usize) {
        for segment in self.segments.iter_mut().take(listed_from).skip(self.listed_from) {
            segment.stays_until_us = self.age_us + segment.duration_us + segment.listed_us_max;
        }
        self.listed_from = listed_from;
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
