//! One quality of a broadcast on its way from the hall to the [`Shelf`]. In: the tracks that suit MP4, from the oldest gop on, so
//! that the first playlist is full. Out: parts. The shell around [`Cutter`]: it waits, the cutter decides.
//!
//! It lives while somebody asks: from the first request until [`IDLE_MAX`] after the last one, or until the broadcast
//! leaves the hub.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use headwater_common::{
    live::{Hold, Origin, Reader, Start, Status, Track},
    media::{Delivery, Frame, Kind},
    telemetry::Door,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    cutter::{Cutter, Part, SILENT_US},
    mux::Init,
    shelf::Shelf,
    variant::Variant,
};

/// Longer than any player pauses between two requests (a target duration is ten seconds at most), short enough that
/// a converted track is not made for nobody.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// A rendition is an encoder: it is worth asking for it anew. Longer than the first request may wait.
const RENDITION_IDLE_MAX: Duration = Duration::from_secs(15);
/// How long a track that was announced is waited for at the beginning: a transcoder is started by our reading.
const JOIN_PATIENCE: Duration = Duration::from_secs(3);
/// A track that joins this little after the gop's start is taken for complete: encoders prime.
const JOIN_SLACK_US: i64 = 100_000;
/// A track is held back when the other one is this far behind it: a little less than what makes the cutter go on alone.
const HOLD_US: i64 = SILENT_US * 3 / 4;
/// And for so long. A track that is pulled from another node comes by way of a network, one that is made from another one
/// in its own time.
const HOLD: Duration = Duration::from_secs(1);
/// A transcoder delivers its last frames this long after the source has ended.
const DRAIN: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(250);

pub(super) struct Packager {
    shelf: Arc<Shelf>,
    /// Who begins later, here or elsewhere, has to list the same.
    _hold: Hold,
    door: Door,
    video: Option<Lane>,
    audio: Option<Lane>,
    cutter: Option<Cutter>,
    init: Option<Arc<Init>>,
    began: Instant,
    last_frame: Instant,
    /// Of the frames that went to the cutter.
    newest: Option<Arc<Frame>>,
    /// Since when one track is held back for the other.
    held: Option<Instant>,
    /// Nobody has said how the last publisher ended.
    abandoned: bool,
    finished: bool,
}

struct Lane {
    reader: Reader,
    /// Read and not yet handed to the cutter.
    head: Option<Arc<Frame>>,
    /// Of the frames that went to the cutter.
    newest: Option<Arc<Frame>>,
    /// What was cut up to here, before it joined, is not for it.
    from: Option<Arc<Frame>>,
    /// It has been waited for in vain, and is not until it delivers again.
    silent: bool,
}

enum Event {
    Frames,
    TrackOver,
    Changed,
    Tick,
}

impl Packager {
    pub(super) fn new(shelf: Arc<Shelf>, door: Door) -> Self {
        let now = Instant::now();
        let hold = shelf.broadcast().hold();
        Self {
            shelf,
            _hold: hold,
            door,
            video: None,
            audio: None,
            cutter: None,
            init: None,
            began: now,
            last_frame: now,
            newest: None,
            held: None,
            abandoned: false,
            finished: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut changes = self.shelf.broadcast().watch();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.choose();
        loop {
            let event = tokio::select! {
                biased;
                event = poll_fn(|cx| self.poll_frames(cx)) => event,
                _ = changes.changed() => Event::Changed,
                _ = ticks.tick() => Event::Tick,
            };
            match event {
                Event::Frames => {
                    self.last_frame = Instant::now();
                    self.begin();
                    self.deliver();
                }
                Event::TrackOver => return,
                // The hub has forgotten it.
                Event::Changed if self.shelf.broadcast().is_over() => return,
                Event::Changed => {
                    match self.shelf.broadcast().status() {
                        Status::Live => self.abandoned = false,
                        Status::Interrupted => self.abandoned = true,
                        Status::Ended => {}
                    }
                    self.choose();
                    self.begin();
                }
                Event::Tick if self.shelf.idle() > self.idle_max() || self.withdrawn() => return,
                Event::Tick => {
                    self.begin();
                    self.stop_waiting();
                    self.finish();
                }
            }
        }
    }

    fn idle_max(&self) -> Duration {
        match self.shelf.variant() {
            Variant::Rendition(_) => RENDITION_IDLE_MAX,
            Variant::Source | Variant::Sound => IDLE_MAX,
        }
    }

    /// The rendition is not offered any more: its players have to be told, so that they take another one.
    fn withdrawn(&self) -> bool {
        matches!(self.shelf.variant(), Variant::Rendition(_))
            && self.shelf.broadcast().status() != Status::Ended
            && self.shelf.variant().track(self.shelf.broadcast(), Kind::Video).is_none()
    }

    /// Follows the tracks that suit now.
    fn choose(&mut self) {
        for kind in [Kind::Video, Kind::Audio] {
            let track = self.shelf.variant().track(self.shelf.broadcast(), kind);
            let lane = match kind {
                Kind::Video => &mut self.video,
                Kind::Audio => &mut self.audio,
            };
            if lane.as_ref().map(|lane| Arc::as_ptr(lane.reader.track())) != track.as_ref().map(Arc::as_ptr) {
                *lane = track.map(|track| Lane::new(&track, self.newest.clone()));
            }
            if let Some(cutter) = &mut self.cutter {
                cutter.expect(kind, lane.is_some());
            }
        }
    }

    fn lanes(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.video.iter_mut().chain(&mut self.audio)
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut read = false;
        for lane in self.lanes() {
            while lane.head.is_none() {
                match lane.reader.poll_next(cx) {
                    // The source changed to something that needs conversion, and the news has not got here yet.
                    Poll::Ready(Some(frame)) if frame.info.obstacle(Delivery::Mp4).is_some() => {}
                    Poll::Ready(Some(frame)) if lane.from.as_ref().is_some_and(|from| !from.precedes(&frame)) => {}
                    Poll::Ready(Some(frame)) => {
                        lane.head = Some(frame);
                        lane.silent = false;
                        read = true;
                    }
                    Poll::Ready(None) => return Poll::Ready(Event::TrackOver),
                    Poll::Pending => break,
                }
            }
        }
        let cuts = self.cutter.is_some() && self.next().is_some();
        if read || cuts { Poll::Ready(Event::Frames) } else { Poll::Pending }
    }

    /// Starts cutting when the segment target is known and every track has shown where it begins.
    fn begin(&mut self) {
        if self.cutter.is_some() {
            return;
        }
        let Some(target_s) = self.shelf.broadcast().segment_target_s() else { return };
        let patient = self.began.elapsed() < JOIN_PATIENCE;
        if self.lanes().all(|lane| lane.head.is_none()) || (patient && self.lanes().any(|lane| lane.head.is_none())) {
            return;
        }
        let covered_from_us = self.lanes().map(|lane| lane.covered_from_us()).max().unwrap_or(i64::MIN);
        let mut cutter = Cutter::new(target_s, covered_from_us);
        cutter.expect(Kind::Video, self.video.is_some());
        cutter.expect(Kind::Audio, self.audio.is_some());
        self.lanes().for_each(|lane| lane.silent = lane.head.is_none());
        self.cutter = Some(cutter);
        self.shelf.open(target_s);
    }

    /// The older of the two heads. One that is far ahead of what the other track has delivered waits for that, because a
    /// track that is still on its way here must not look silent to the cutter.
    fn next(&self) -> Option<Kind> {
        let (video, audio) = (self.video.as_ref(), self.audio.as_ref());
        let (picture, sound) =
            (video.and_then(|lane| lane.head.as_deref()), audio.and_then(|lane| lane.head.as_deref()));
        match (picture, sound) {
            (Some(picture), Some(sound)) if sound.precedes(picture) => Some(Kind::Audio),
            (Some(_), Some(_)) => Some(Kind::Video),
            (Some(picture), None) => {
                let waits = picture.gop.has_audio && audio.is_some_and(|audio| audio.is_awaited(picture));
                (!waits).then_some(Kind::Video)
            }
            (None, Some(sound)) => {
                let waits = sound.gop.has_video && video.is_some_and(|video| video.is_awaited(sound));
                (!waits).then_some(Kind::Audio)
            }
            (None, None) => None,
        }
    }

    /// Who waits has waited long enough.
    fn stop_waiting(&mut self) {
        let holds = self.cutter.is_some() && self.next().is_none() && self.lanes().any(|lane| lane.head.is_some());
        self.held = self.held.filter(|_| holds).or(holds.then(Instant::now));
        let patience = if self.shelf.broadcast().status() == Status::Ended { DRAIN } else { HOLD };
        if self.held.is_some_and(|since| since.elapsed() >= patience) {
            self.held = None;
            self.lanes().for_each(|lane| lane.silent = lane.head.is_none());
        }
    }

    fn deliver(&mut self) {
        let next = self.next();
        let lane = match next {
            Some(Kind::Video) => &mut self.video,
            Some(Kind::Audio) => &mut self.audio,
            None => return,
        };
        let (Some(cutter), Some(kind), Some(lane)) = (&mut self.cutter, next, lane) else { return };
        let Some(frame) = lane.head.take() else { return };
        self.held = None;
        lane.newest = Some(frame.clone());
        if self.newest.as_ref().is_none_or(|newest| newest.precedes(&frame)) {
            self.newest = lane.newest.clone();
        }
        self.finished = false;
        let mut parts = Vec::new();
        cutter.push(kind, frame, &mut parts);
        self.put(parts);
    }

    fn finish(&mut self) {
        let over = self.shelf.broadcast().status() == Status::Ended
            && self.last_frame.elapsed() >= DRAIN
            && self.lanes().all(|lane| lane.head.is_none());
        let Some(cutter) = self.cutter.as_mut().filter(|_| over && !self.finished) else { return };
        if self.abandoned && self.shelf.broadcast().is_mirror() {
            // Other nodes may have heard a little more or less of it.
            self.shelf.break_off();
        } else {
            let mut parts = Vec::new();
            cutter.finish(&mut parts);
            self.put(parts);
        }
        self.shelf.end();
        self.finished = true;
    }

    fn put(&mut self, parts: Vec<Part>) {
        let made: Vec<_> = parts.into_iter().filter_map(|part| self.mux(part)).collect();
        if !made.is_empty() {
            self.shelf.push(made.into_iter());
        }
    }

    fn mux(&mut self, part: Part) -> Option<(Part, Arc<Init>, bytes::Bytes)> {
        let known = self.init.take_if(|init| init.suits(part.gop.discontinuity, &part.formats));
        let init = match known.map_or_else(|| Init::new(part.gop.discontinuity, &part.formats), Ok) {
            Ok(init) => init,
            Err(error) => {
                self.door.dropped.inc();
                let broadcast = self.shelf.broadcast().id();
                tracing::warn!(%broadcast, gop = part.gop.id, part = part.index, %error, "hls part left out");
                return None;
            }
        };
        self.init = Some(init.clone());
        let data = init.fragment(&part);
        Some((part, init, data))
    }
}

impl Lane {
    /// `from`: what has been cut already, if this one joins late.
    fn new(track: &Arc<Track>, from: Option<Arc<Frame>>) -> Self {
        let start = from.as_ref().map_or(Start::Oldest, |from| Start::At { dts_us: from.dts_us + 1 });
        Self { reader: track.read(start), head: None, newest: from.clone(), from, silent: false }
    }

    /// Whether it may still deliver something that belongs to a frame of the other track.
    fn is_awaited(&self, frame: &Frame) -> bool {
        let has_come = |newest: &Arc<Frame>| match newest.gop.epoch == frame.gop.epoch {
            true => frame.dts_us - newest.dts_us <= HOLD_US,
            false => newest.gop.id > frame.gop.id,
        };
        !self.silent && !self.newest.as_ref().is_some_and(has_come)
    }

    fn covered_from_us(&self) -> i64 {
        let whole = self.reader.track().origin() == Origin::Source && self.reader.is_whole();
        match &self.head {
            Some(head) if !whole => head.dts_us.saturating_sub(JOIN_SLACK_US),
            _ => i64::MIN,
        }
    }
}
