//! Where parts and segments begin and end. In: the frames of one video and one audio track, each track in its own
//! order, interleaved in any way. Out: [`Part`]s, and with the last part of a gop the end of its segment. Deliberately
//! absent: bytes, names, clocks, and everything a playlist says.
//!
//! Two edges that were fed the same frames must cut the same parts, however the tracks were interleaved on the way.
//! So every cut depends on media time alone:
//! - A segment is a gop. Video belongs to it by its minted gop; audio by time, from the gop's start up to the next
//!   gop's. The *leading* track is video where the gop has it, else audio.
//! - Within a segment, parts end at multiples of [`PART_US`] after the gop's start. The first frame of the leading track
//!   at or behind such a boundary decides: if it is of the same gop, the part ends at the boundary; if it opens
//!   the next gop, the segment ends with it, and a remainder of at most [`REMAINDER_US_MAX`] joins the last part.
//! - A part is closed when both tracks have passed its end. A track that falls [`SILENT_US`] of media time behind the
//!   other one is taken for silent and not waited for; what it delivers afterwards goes into the part that is open
//!   then. Only there the order of arrival shows.
//! - How far a gop went that died with its node depends on who asks. A part of it is closed by its own frames alone, and
//!   what they don't close is left out: an edge may have fewer parts of it, but never other ones.
//!
//! A consequence worth keeping: when a part is closed, a frame of the next one has been seen. So the name
//! of the next part (the preload hint) is always right while a publisher is there.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use headwater_common::media::{Frame, Gop, Info, Kind};

/// A whole number of pictures at 10, 15, 20, 25, 30, 50 and 60 a second.
pub(super) const PART_US: i64 = 200_000;
/// Timestamps are rounded on their way here: a frame this little ahead of a boundary is meant to be on it.
const JITTER_US: i64 = 5_000;
/// What is left of a segment behind its last boundary and is not worth a request: 30 pictures a second are 33 ms.
const REMAINDER_US_MAX: i64 = 35_000;
/// The announced maximum. Every part but a segment's last one lasts [`PART_US`], which has to be at least 85 % of this
/// (rfc8216bis 4.4.3.7).
pub(super) const PART_TARGET_US: i64 = PART_US + REMAINDER_US_MAX;
/// Publishers interleave within tens of milliseconds, a transcoded track comes some hundred later.
pub(super) const SILENT_US: i64 = 1_000_000;
/// Guesses for a track of which a single frame was seen: a picture at 30 a second, an AAC frame at 48 kHz.
const VIDEO_FRAME_US: i64 = 33_333;
const AUDIO_FRAME_US: i64 = 21_333;
/// An EXTINF rounded to seconds must not exceed the target duration (RFC 8216 4.3.3.1).
const ROUNDING_US: i64 = 499_999;
/// No gop lasts this long (the minter closes it at the segment target); a queue that does holds a broken stream.
const QUEUE_US_MAX: i64 = 30_000_000;

/// The frames of one track in a part.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) frames: Vec<Arc<Frame>>,
    /// When the track's next frame begins, where that is known and the track goes on without a pause.
    pub(super) end_us: Option<i64>,
}

/// What a segment carries; decided with its first part.
#[derive(Clone, Debug, Default)]
pub(super) struct Formats {
    pub(super) video: Option<Arc<Info>>,
    pub(super) audio: Option<Arc<Info>>,
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) gop: Arc<Gop>,
    pub(super) index: u32,
    pub(super) formats: Formats,
    pub(super) duration_us: i64,
    /// Contains a frame that needs no other one.
    pub(super) independent: bool,
    /// Ends its segment.
    pub(super) last: bool,
    pub(super) video: Run,
    pub(super) audio: Run,
}

#[derive(Debug)]
pub(super) struct Cutter {
    target_us: i64,
    /// Gops that begin earlier are not known in full.
    covered_from_us: i64,
    video: Lane,
    audio: Lane,
    /// Gops that were seen and not yet opened.
    gops: BTreeMap<u64, Arc<Gop>>,
    open: Option<Open>,
    /// Gops below were opened or given up.
    next_gop: u64,
    started: bool,
    /// What audio was like under which discontinuity number, should a segment begin in silence.
    audio_before: Option<(u64, Arc<Info>)>,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Arc<Frame>>,
    newest: Option<Arc<Frame>>,
    /// The usual distance of two frames.
    interval_us: Option<i64>,
    /// Somebody delivers here, so it is waited for.
    expected: bool,
}

#[derive(Debug)]
struct Open {
    gop: Arc<Gop>,
    leading: Kind,
    index: u32,
    formats: Option<Formats>,
    last_leading_us: Option<i64>,
}

/// Where the open part ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Boundary,
    Segment {
        /// The segment's declared end.
        end_us: i64,
        /// Frames up to here are of this segment.
        until_us: i64,
    },
    /// Gops are missing behind this one, or what follows was minted elsewhere, so how it ended is not known: another edge
    /// may have cut more of it.
    Unknown,
}

impl Cutter {
    /// `covered_from_us`: from when on every track is known in full.
    pub(super) fn new(target_s: u32, covered_from_us: i64) -> Self {
        Self {
            target_us: i64::from(target_s) * 1_000_000,
            covered_from_us,
            video: Lane::default(),
            audio: Lane::default(),
            gops: BTreeMap::new(),
            open: None,
            next_gop: 0,
            started: false,
            audio_before: None,
        }
    }

    /// Says whether somebody delivers frames of this kind.
    pub(super) fn expect(&mut self, kind: Kind, expected: bool) {
        self.lane_mut(kind).expected = expected;
    }

    pub(super) fn push(&mut self, kind: Kind, frame: Arc<Frame>, parts: &mut Vec<Part>) {
        if frame.gop.id >= self.next_gop {
            self.gops.entry(frame.gop.id).or_insert_with(|| frame.gop.clone());
        }
        self.lane_mut(kind).push(frame);
        while self.advance(false, parts) {}
    }

    /// Nothing follows: closes what is open. Frames of a later publisher may be pushed all the same.
    pub(super) fn finish(&mut self, parts: &mut Vec<Part>) {
        while self.advance(true, parts) {}
    }

    /// Closes one part or opens the next gop; false when more frames are needed for that.
    fn advance(&mut self, finishing: bool, parts: &mut Vec<Part>) -> bool {
        let Some(open) = self.open.take() else { return self.begin() };
        match self.find_end(&open, finishing) {
            Some(end) => {
                self.open = self.close(open, end, parts);
                true
            }
            None => {
                self.open = Some(open);
                false
            }
        }
    }

    /// Opens the oldest gop that is known from its first frame on.
    fn begin(&mut self) -> bool {
        while let Some((id, gop)) = self.gops.pop_first() {
            let leading = if gop.has_video && self.video.expected { Kind::Video } else { Kind::Audio };
            let started = self.started;
            let without_picture = gop.has_video && leading == Kind::Audio;
            let lane = self.lane_mut(leading);
            lane.queue.retain(|frame| frame.gop.id >= id || (without_picture && frame.dts_us >= gop.start_us));
            if !started {
                let Some(first) = lane.queue.front() else {
                    self.gops.insert(id, gop);
                    return false;
                };
                // A reader may have joined in the middle of the gop.
                let begins = match without_picture {
                    true => first.dts_us >= gop.start_us,
                    false => first.gop.id == id && first.dts_us == gop.start_us,
                };
                let whole = begins && gop.start_us >= self.covered_from_us;
                self.next_gop = id + 1;
                if !whole {
                    continue;
                }
                self.audio.queue.retain(|frame| frame.dts_us >= gop.start_us);
                self.started = true;
            }
            self.next_gop = id + 1;
            self.open = Some(Open { gop, leading, index: 0, formats: None, last_leading_us: None });
            return true;
        }
        false
    }

    fn find_end(&self, open: &Open, finishing: bool) -> Option<End> {
        let gop = &open.gop;
        let (leading, other) = self.lanes(open.leading);
        let boundary_us = open.start_us() + PART_US;
        // The decider's gop, or one before it that the other track leads: that one has been seen when the other track
        // has got there, which is waited for below.
        let next = self.gops.first_key_value().map(|(_, gop)| gop);
        let waited_for = other.expected && open.leading == Kind::Video && gop.has_audio;
        if next.is_some_and(|next| next.detached) {
            let proven_us = boundary_us - JITTER_US;
            let proven = leading.holds(gop, proven_us) && (!waited_for || other.holds(gop, proven_us));
            return Some(if proven { End::Boundary } else { End::Unknown });
        }
        // Sound alone, of a broadcast with pictures: it lies in their gops by time, whatever gop it was minted into.
        let without_picture = gop.has_video && open.leading == Kind::Audio;
        let next_us = next.map_or(i64::MAX, |next| next.start_us);
        let decider = leading.queue.iter().find(|f| match without_picture {
            true => f.dts_us >= next_us.min(boundary_us - JITTER_US),
            false => f.gop.id > gop.id || f.dts_us >= boundary_us - JITTER_US,
        });
        let end = match decider {
            Some(_) if without_picture => {
                next.map_or(End::Boundary, |next| self.segment_end(open, leading, next, boundary_us))
            }
            Some(frame) if frame.gop.id <= gop.id => End::Boundary,
            Some(frame) => self.segment_end(open, leading, next.unwrap_or(&frame.gop), boundary_us),
            None if finishing => match next {
                Some(next) => self.segment_end(open, leading, next, boundary_us),
                None => self.final_end(open, leading, boundary_us),
            },
            // The leading track is silent.
            None if other.passed(gop, boundary_us + SILENT_US) => match next {
                Some(next) => self.segment_end(open, leading, next, boundary_us),
                None if boundary_us + REMAINDER_US_MAX > self.latest_end_us(gop) => return None,
                None => End::Boundary,
            },
            None => return None,
        };
        let until_us = match (end, next) {
            (End::Segment { until_us, .. }, _) => until_us,
            (End::Unknown, Some(next)) => next.start_us,
            (End::Boundary | End::Unknown, _) => boundary_us - JITTER_US,
        };
        let complete = match (waited_for, without_picture) {
            (true, _) => other.passed(gop, until_us) || leading.passed(gop, until_us.saturating_add(SILENT_US)),
            (false, true) => leading.passed(gop, until_us),
            (false, false) => true,
        };
        let settled = finishing || complete;
        settled.then_some(end)
    }

    /// The gop is followed by another one.
    fn segment_end(&self, open: &Open, leading: &Lane, next: &Gop, boundary_us: i64) -> End {
        let gop = &open.gop;
        if next.id != gop.id + 1 {
            return End::Unknown;
        }
        // Between two publishers, or where a source fell silent, there is time that belongs to nobody.
        let gap = next.discontinuity != gop.discontinuity || next.start_us > self.latest_end_us(gop);
        let media_end_us = self.media_end(open, leading);
        // Another owner's clock may say that it was earlier.
        let stepped_back = next.epoch != gop.epoch && next.start_us < open.last_us(leading).unwrap_or(gop.start_us);
        let end_us = match (stepped_back, gap) {
            (true, _) => media_end_us,
            (false, true) => media_end_us.min(next.start_us),
            (false, false) => next.start_us,
        };
        if end_us > boundary_us + REMAINDER_US_MAX {
            return End::Boundary;
        }
        End::Segment { end_us, until_us: if stepped_back { end_us } else { next.start_us } }
    }

    /// The gop is the last one.
    fn final_end(&self, open: &Open, leading: &Lane, boundary_us: i64) -> End {
        let end_us = self.media_end(open, leading);
        if end_us > boundary_us + REMAINDER_US_MAX {
            return End::Boundary;
        }
        End::Segment { end_us, until_us: i64::MAX }
    }

    /// When the last frame of the leading track has been shown; where a source slows down just there, as much of that
    /// as the target leaves room for.
    fn media_end(&self, open: &Open, leading: &Lane) -> i64 {
        let gop = &open.gop;
        let frame_us = leading.interval_us.unwrap_or(match open.leading {
            Kind::Video => VIDEO_FRAME_US,
            Kind::Audio => AUDIO_FRAME_US,
        });
        let end_us = open.last_us(leading).unwrap_or(gop.start_us) + frame_us;
        end_us.max(open.start_us() + frame_us).min(self.latest_end_us(gop))
    }

    fn latest_end_us(&self, gop: &Gop) -> i64 {
        gop.start_us + self.target_us + ROUNDING_US
    }

    fn lane_mut(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::Video => &mut self.video,
            Kind::Audio => &mut self.audio,
        }
    }

    /// The leading one and the other one.
    fn lanes(&self, leading: Kind) -> (&Lane, &Lane) {
        match leading {
            Kind::Video => (&self.video, &self.audio),
            Kind::Audio => (&self.audio, &self.video),
        }
    }

    /// Cuts a part; what is returned stays open.
    fn close(&mut self, mut open: Open, end: End, parts: &mut Vec<Part>) -> Option<Open> {
        let gop = open.gop.clone();
        let start_us = open.start_us();
        let (end_us, until_us, last) = match end {
            End::Boundary => (start_us + PART_US, start_us + PART_US - JITTER_US, false),
            End::Segment { end_us, until_us } => (end_us, until_us, true),
            End::Unknown => {
                if self.gops.first_key_value().is_some_and(|(_, next)| next.detached) {
                    self.video.forget(&gop);
                    self.audio.forget(&gop);
                }
                return None;
            }
        };
        let (mut video, mut audio) = (Run::default(), Run::default());
        if open.leading == Kind::Video {
            video = self.video.take(&gop, |frame| frame.gop.id <= gop.id && (last || frame.dts_us < until_us));
        }
        if gop.has_audio {
            audio = self.audio.take(&gop, |frame| frame.dts_us < until_us);
        }
        let formats = open.formats.get_or_insert_with(|| {
            let before = self.audio_before.take_if(|(discontinuity, _)| *discontinuity == gop.discontinuity);
            // Sound that starts a little later belongs into the same init section: players that are not made for
            // another one in mid-stream take its packets for pictures.
            let next =
                self.audio.queue.front().filter(|frame| gop.has_audio && frame.gop.discontinuity == gop.discontinuity);
            let audio = audio.frames.first().or(next).map(|frame| frame.info.clone());
            Formats {
                video: video.frames.first().map(|frame| frame.info.clone()),
                audio: audio.or(before.map(|(_, info)| info)),
            }
        });
        // The init section is out by now: a track that joins in the middle waits for the next segment.
        video.retain(formats.video.as_deref());
        audio.retain(formats.audio.as_deref());
        if formats.video.is_none() && formats.audio.is_none() {
            return None;
        }
        let leading = if open.leading == Kind::Video { &video } else { &audio };
        open.last_leading_us = leading.frames.last().map(|frame| frame.dts_us).or(open.last_leading_us);
        let independent = leading.frames.iter().any(|frame| frame.keyframe);
        self.audio_before = formats.audio.clone().map(|info| (gop.discontinuity, info));
        let formats = formats.clone();
        let duration_us = (end_us - start_us).max(1_000);
        parts.push(Part { gop, index: open.index, formats, duration_us, independent, last, video, audio });
        open.index += 1;
        (!last).then_some(open)
    }
}

impl Open {
    /// Of the open part.
    fn start_us(&self) -> i64 {
        self.gop.start_us + i64::from(self.index) * PART_US
    }

    /// Of the leading track's last frame that is known to belong here.
    fn last_us(&self, leading: &Lane) -> Option<i64> {
        let queued = leading.queue.iter().rev().find(|frame| frame.gop.id <= self.gop.id);
        queued.map(|frame| frame.dts_us).or(self.last_leading_us)
    }
}

impl Lane {
    fn push(&mut self, frame: Arc<Frame>) {
        if let Some(newest) = &self.newest {
            let step_us = frame.dts_us - newest.dts_us;
            if (1..=SILENT_US).contains(&step_us) {
                self.interval_us = Some(step_us);
            }
        }
        self.newest = Some(frame.clone());
        self.queue.push_back(frame);
        // Full: the oldest frames go, as they do in the hall.
        while let (Some(first), Some(newest)) = (self.queue.front(), self.queue.back())
            && newest.dts_us - first.dts_us > QUEUE_US_MAX
        {
            self.queue.pop_front();
        }
    }

    /// Whether it has come to this time on the clock of this gop, or to a later publisher, whose clock is another one.
    fn passed(&self, gop: &Gop, us: i64) -> bool {
        self.newest.as_ref().is_some_and(|newest| match newest.gop.epoch == gop.epoch {
            true => newest.dts_us >= us,
            false => newest.gop.id > gop.id,
        })
    }

    /// Frames at this time or later, of the publisher who wrote this gop, wait to be cut.
    fn holds(&self, gop: &Gop, us: i64) -> bool {
        self.queue.iter().any(|frame| frame.gop.epoch == gop.epoch && frame.dts_us >= us)
    }

    /// Drops what would have belonged to a gop that is not cut any further.
    fn forget(&mut self, gop: &Gop) {
        while self.queue.pop_front_if(|frame| frame.gop.id <= gop.id).is_some() {}
    }

    /// Removes the frames at the front that satisfy the condition, and those of older publishers without a word.
    fn take(&mut self, gop: &Gop, belongs: impl Fn(&Frame) -> bool) -> Run {
        let mut frames: Vec<Arc<Frame>> = Vec::new();
        let comes = |frame: &Frame| frame.gop.epoch == gop.epoch || frame.gop.id < gop.id;
        while let Some(frame) = self.queue.pop_front_if(|frame| comes(frame) && belongs(frame)) {
            if frame.gop.epoch == gop.epoch {
                frames.push(frame);
            }
        }
        let next = self.queue.front().filter(|next| {
            frames.last().is_some_and(|last| {
                next.gop.discontinuity == last.gop.discontinuity && next.dts_us - last.dts_us <= SILENT_US
            })
        });
        Run { end_us: next.map(|next| next.dts_us), frames }
    }
}

impl Run {
    /// Keeps what an init section of this format can play.
    fn retain(&mut self, format: Option<&Info>) {
        self.frames.retain(|frame| format.is_some_and(|info| same_stream(info, &frame.info)));
    }
}

/// That a B-frame was seen changes the info and not the stream.
pub(super) fn same_stream(old: &Info, new: &Info) -> bool {
    old.codec == new.codec && old.config == new.config
}
