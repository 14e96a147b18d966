//! Where a recording's frames come from: the two tracks of a broadcast that MP4 can carry, merged.
//!
//! In: a broadcast of the hall, and which rendition of it, if not the source. Out: frames of both tracks in the order of
//! their decoding times, as far as both are there; a track that is late holds nobody up. Deliberately absent: waiting. The
//! hall's ring is the queue, and its lag policy the only one: who reads too slowly goes on at the newest keyframe, and
//! what was skipped is counted.

use std::sync::Arc;

use headwater_common::{
    ladder::Rendition,
    live::{Broadcast, Reader, Start, Track},
    media::{Conversion, Delivery, Frame, Kind},
};

use super::gaps::{Gaps, Missing};

/// From where on a broadcast is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// Everything of the present publisher that the hall still holds.
    Epoch,
    /// The newest gop.
    Newest,
}

#[derive(Debug)]
pub(super) struct Source {
    broadcast: Arc<Broadcast>,
    rendition: Option<Rendition>,
    start: Start,
    epoch: u64,
    /// Older frames are left out: a rendition's track holds what others watched before.
    from_us: i64,
    /// A rendition's sound is not read before its first picture has come, which takes as long as the machine takes.
    awaits_picture: bool,
    withdrawn: bool,
    /// Of a rendition.
    gaps: Gaps,
    lanes: [Lane; 2],
}

#[derive(Debug)]
struct Lane {
    kind: Kind,
    reader: Option<Reader>,
    head: Option<Arc<Frame>>,
    /// Of the newest frame that was handed out.
    position_us: Option<i64>,
    /// By readers that are no more.
    skipped: u64,
}

impl Source {
    pub(super) fn new(broadcast: Arc<Broadcast>, rendition: Option<Rendition>, from: From) -> Self {
        let epoch = broadcast.epoch();
        let (start, wanted) = match (rendition, from) {
            // Who asks for what was makes the encoder begin with a whole gop.
            (Some(_), From::Epoch) => (Start::Oldest, first_picture(&broadcast, epoch, Start::Oldest)),
            (Some(_), From::Newest) => (Start::Oldest, first_picture(&broadcast, epoch, Start::Newest)),
            (None, From::Epoch) => (Start::Oldest, None),
            (None, From::Newest) => (newest_gop(&broadcast).map_or(Start::Oldest, |dts_us| Start::At { dts_us }), None),
        };
        let lanes = [Kind::Video, Kind::Audio].map(|kind| Lane {
            kind,
            reader: None,
            head: None,
            position_us: None,
            skipped: 0,
        });
        let from_us = wanted.as_ref().map_or(i64::MIN, |picture| picture.dts_us);
        let gaps = wanted.as_deref().map(Gaps::since).unwrap_or_default();
        let (awaits_picture, withdrawn) = (rendition.is_some(), false);
        let mut source = Self { broadcast, rendition, start, epoch, from_us, awaits_picture, withdrawn, gaps, lanes };
        source.refresh();
        source
    }

    pub(super) fn broadcast(&self) -> &Arc<Broadcast> {
        &self.broadcast
    }

    pub(super) fn rendition(&self) -> Option<Rendition> {
        self.rendition
    }

    /// The rendition is not made any more.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// Looks again which tracks there are; what was read until now is not read again.
    pub(super) fn refresh(&mut self) {
        self.withdrawn = self.rendition.is_some_and(|rendition| !self.broadcast.told().ladder.contains(&rendition));
        for lane in &mut self.lanes {
            let chosen = match lane.kind {
                Kind::Audio if self.awaits_picture => None,
                kind => track(&self.broadcast, self.rendition, kind),
            };
            lane.follow(chosen, self.start);
        }
    }

    pub(super) fn has(&self, kind: Kind) -> bool {
        self.lanes.iter().any(|lane| lane.kind == kind && lane.reader.is_some())
    }

    /// The next frame, if there is one now.
    pub(super) fn next(&mut self) -> Option<Arc<Frame>> {
        for lane in &mut self.lanes {
            lane.fill(self.epoch, self.from_us);
        }
        if self.awaits_picture {
            // The publisher had sent none when this began.
            if !self.gaps.has_begun()
                && let Some(wanted) = first_picture(&self.broadcast, self.epoch, Start::Oldest)
            {
                self.gaps = Gaps::since(&wanted);
            }
            self.from_us = self.lanes[0].first_keyframe(self.epoch, self.from_us)?;
            self.awaits_picture = false;
            self.refresh();
            self.lanes[1].fill(self.epoch, self.from_us);
        }
        let [video, audio] = &mut self.lanes;
        let order = |frame: &Arc<Frame>| (frame.gop.epoch, frame.dts_us);
        match (&video.head, &audio.head) {
            (Some(picture), Some(sound)) if order(sound) < order(picture) => audio.take(),
            (Some(picture), _) => {
                if self.rendition.is_some() {
                    self.gaps.take(&self.broadcast, picture);
                }
                video.take()
            }
            (None, _) => audio.take(),
        }
    }

    /// Nothing more is read.
    pub(super) fn end(&mut self) {
        if self.rendition.is_some() {
            self.gaps.end(&self.broadcast);
        }
    }

    /// What is being left out of the rendition now.
    pub(super) fn open_gap(&self) -> Option<Missing> {
        self.rendition.and_then(|_| self.gaps.open(&self.broadcast))
    }

    /// What has turned out to be missing from the rendition since the last call.
    pub(super) fn poll_missing(&mut self) -> Option<Missing> {
        self.gaps.poll()
    }

    /// Frames that were gone before they could be read.
    pub(super) fn skipped(&self) -> u64 {
        let of = |lane: &Lane| lane.skipped + lane.reader.as_ref().map_or(0, Reader::skipped);
        self.lanes.iter().map(of).sum()
    }
}

impl Lane {
    fn follow(&mut self, chosen: Option<Arc<Track>>, start: Start) {
        let same = match (&self.reader, &chosen) {
            (Some(reader), Some(track)) => Arc::ptr_eq(reader.track(), track),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        self.skipped += self.reader.take().map_or(0, |reader| reader.skipped());
        let start = self.position_us.map_or(start, |position_us| Start::At { dts_us: position_us + 1 });
        self.reader = chosen.map(|track| track.read(start));
    }

    fn fill(&mut self, epoch: u64, from_us: i64) {
        let Some(reader) = &mut self.reader else { return };
        // What MP4 can't carry is left over in a track that carried something else before.
        let useless = |head: &Arc<Frame>| {
            head.gop.epoch < epoch || head.dts_us < from_us || head.info.obstacle(Delivery::Mp4).is_some()
        };
        while self.head.as_ref().is_none_or(useless) {
            let Some(frame) = reader.try_next() else {
                self.head = None;
                return;
            };
            self.head = Some(frame);
        }
    }

    /// Leaves out what comes before a keyframe; says when that is.
    fn first_keyframe(&mut self, epoch: u64, from_us: i64) -> Option<i64> {
        while self.head.as_ref().is_some_and(|head| !head.keyframe) {
            self.head = None;
            self.fill(epoch, from_us);
        }
        self.head.as_ref().map(|head| head.dts_us)
    }

    fn take(&mut self) -> Option<Arc<Frame>> {
        let frame = self.head.take()?;
        self.position_us = Some(frame.dts_us);
        Some(frame)
    }
}

fn track(broadcast: &Broadcast, rendition: Option<Rendition>, kind: Kind) -> Option<Arc<Track>> {
    let passed = || broadcast.choose(kind, Delivery::Mp4).map(|choice| choice.track);
    match (rendition, kind) {
        (Some(rendition), Kind::Video) => broadcast.derived(Conversion::Rendition(rendition)),
        (Some(Rendition { audio_kbps: kbps @ 1.., .. }), Kind::Audio) => {
            broadcast.source(Kind::Audio)?;
            broadcast.derived(Conversion::Sound { kbps }).or_else(passed)
        }
        _ => passed(),
    }
}

/// Of the source's present publisher, when a reader begins there.
fn first_picture(broadcast: &Broadcast, epoch: u64, start: Start) -> Option<Arc<Frame>> {
    let mut pictures = broadcast.source(Kind::Video)?.read(start);
    std::iter::from_fn(|| pictures.try_next()).find(|picture| picture.gop.epoch >= epoch)
}

/// Where the newest gop begins, pictures deciding where there are any.
fn newest_gop(broadcast: &Broadcast) -> Option<i64> {
    let newest = |kind| broadcast.choose(kind, Delivery::Mp4)?.track.read(Start::Newest).try_next();
    let picture = newest(Kind::Video).map(|frame| frame.dts_us);
    picture.or_else(|| newest(Kind::Audio).map(|frame| frame.gop.start_us))
}
