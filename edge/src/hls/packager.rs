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
    live::{Hub, Origin, Reader, Start, Status, Track},
    media::{Delivery, Frame, Kind},
    telemetry::Door,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    cutter::{Cutter, Part},
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
/// A transcoder delivers its last frames this long after the source has ended.
const DRAIN: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(250);

pub(super) struct Packager {
    hub: Arc<Hub>,
    shelf: Arc<Shelf>,
    door: Door,
    video: Option<Lane>,
    audio: Option<Lane>,
    cutter: Option<Cutter>,
    init: Option<Arc<Init>>,
    began: Instant,
    last_frame: Instant,
    /// Of the frames that went to the cutter.
    newest_us: Option<i64>,
    finished: bool,
}

struct Lane {
    reader: Reader,
    /// Read and not yet handed to the cutter.
    head: Option<Arc<Frame>>,
    /// The ring holds the track from its first frame on.
    whole: bool,
}

enum Event {
    Frames,
    TrackOver,
    Changed,
    Tick,
}

impl Packager {
    pub(super) fn new(hub: Arc<Hub>, shelf: Arc<Shelf>, door: Door) -> Self {
        let now = Instant::now();
        Self {
            hub,
            shelf,
            door,
            video: None,
            audio: None,
            cutter: None,
            init: None,
            began: now,
            last_frame: now,
            newest_us: None,
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
                Event::Changed if self.left() => return,
                Event::Changed => {
                    self.choose();
                    self.begin();
                }
                Event::Tick if self.shelf.idle() > self.idle_max() || self.withdrawn() => return,
                Event::Tick => {
                    self.begin();
                    self.finish();
                }
            }
        }
    }

    /// The hub has forgotten the broadcast, or holds another one of the same name.
    fn left(&self) -> bool {
        let broadcast = self.shelf.broadcast();
        !self.hub.get(broadcast.id()).is_some_and(|held| Arc::ptr_eq(&held, broadcast))
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
                *lane = track.map(|track| Lane::new(&track, self.newest_us));
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
        let cutting = self.cutter.is_some();
        let (mut read, mut held) = (false, false);
        for lane in self.lanes() {
            while lane.head.is_none() {
                match lane.reader.poll_next(cx) {
                    // The source changed to something that needs conversion, and the news has not got here yet.
                    Poll::Ready(Some(frame)) if frame.info.obstacle(Delivery::Mp4).is_some() => {}
                    Poll::Ready(Some(frame)) => {
                        lane.head = Some(frame);
                        read = true;
                    }
                    Poll::Ready(None) => return Poll::Ready(Event::TrackOver),
                    Poll::Pending => break,
                }
            }
            held |= lane.head.is_some();
        }
        if read || (held && cutting) { Poll::Ready(Event::Frames) } else { Poll::Pending }
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
        self.cutter = Some(cutter);
        self.shelf.open(target_s);
    }

    /// Hands the older of the two heads to the cutter: a reader that catches up must not look silent to the other.
    fn deliver(&mut self) {
        let Some(cutter) = &mut self.cutter else { return };
        let dts_us = |lane: &Option<Lane>| lane.as_ref()?.head.as_ref().map(|frame| frame.dts_us);
        let (kind, lane) = match (dts_us(&self.video), dts_us(&self.audio)) {
            (Some(video_us), Some(audio_us)) if audio_us < video_us => (Kind::Audio, &mut self.audio),
            (Some(_), _) => (Kind::Video, &mut self.video),
            (None, _) => (Kind::Audio, &mut self.audio),
        };
        let Some(frame) = lane.as_mut().and_then(|lane| lane.head.take()) else { return };
        self.newest_us = self.newest_us.max(Some(frame.dts_us));
        self.finished = false;
        let mut parts = Vec::new();
        cutter.push(kind, frame, &mut parts);
        self.put(parts);
    }

    fn finish(&mut self) {
        let over = self.shelf.broadcast().status() == Status::Ended && self.last_frame.elapsed() >= DRAIN;
        let Some(cutter) = self.cutter.as_mut().filter(|_| over && !self.finished) else { return };
        let mut parts = Vec::new();
        cutter.finish(&mut parts);
        self.put(parts);
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
    /// `newest_us`: what has been cut already, if this one joins late.
    fn new(track: &Arc<Track>, newest_us: Option<i64>) -> Self {
        let start = newest_us.map_or(Start::Oldest, |newest_us| Start::At { dts_us: newest_us + 1 });
        let reader = track.read(start);
        let stats = track.stats();
        let whole = track.origin() == Origin::Source && stats.frames == stats.ring_frames as u64;
        Self { reader, head: None, whole }
    }

    fn covered_from_us(&self) -> i64 {
        match &self.head {
            Some(head) if !self.whole => head.dts_us.saturating_sub(JOIN_SLACK_US),
            _ => i64::MIN,
        }
    }
}
