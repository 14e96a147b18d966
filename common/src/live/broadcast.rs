//! One live event: its tracks, its publisher's place in it, and whether it is going on.

mod choice;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

pub use self::{
    choice::Choice,
    writer::{Fenced, Writer, Written},
};
use super::{
    BroadcastId, Claim, Origin, Told, Track, TrackWriter,
    depth::Depth,
    minter::Minter,
    timeline::{Cursor, Timeline},
};
use crate::{
    ladder::Rendition,
    media::{Conversion, Kind},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A publisher holds it.
    Live,
    /// The publisher vanished without a word; readers wait for another one.
    Interrupted,
    /// Over. It stays in the hub for a while, so that players can fetch the end, and may be claimed again.
    Ended,
}

/// Who publishes, for REST and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    pub protocol: &'static str,
    pub remote: String,
    pub agent: String,
}

#[derive(Debug)]
pub struct Broadcast {
    id: BroadcastId,
    born_us: i64,
    pub(super) depth: Arc<Depth>,
    state: Mutex<State>,
    /// Grows with every change of status, tracks or formats; what changed is read from the broadcast itself.
    version: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) status: Status,
    pub(super) epoch: u64,
    /// At least as high as `epoch`.
    pub(super) claimed_epoch: u64,
    pub(super) publisher: Publisher,
    pub(super) epoch_began_us: i64,
    pub(super) last_write_us: i64,
    pub(super) tracks: Vec<Arc<Track>>,
    /// What the present publisher sends side by side. The tracks are among `tracks`, where they outlive it.
    pub(super) layers: Vec<Layer>,
    /// Which renditions of the source are offered; each is a derived track.
    pub(super) ladder: Vec<Rendition>,
    timeline: Timeline,
    video: Cursor,
    audio: Cursor,
    pub(super) minter: Minter,
    pub(super) newest_us: i64,
    dropped: u64,
    pub(super) hand: Hand,
    /// Why its publisher may not go on.
    turned_away: Option<Fenced>,
    /// Nodes it came through, the owner first. Empty where it is published.
    pub(super) path: Vec<String>,
    /// The hub has forgotten it.
    pub(super) closed: bool,
}

/// Who writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    /// A publisher on this node.
    Own,
    /// What another node tells; of several that copy it here, the one with the highest number.
    Copied(u64),
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) track: Arc<Track>,
    cursor: Cursor,
}

impl Layer {
    pub(super) fn new(track: Arc<Track>) -> Self {
        Self { track, cursor: Cursor::default() }
    }
}

impl Broadcast {
    pub(super) fn new(id: BroadcastId, born_us: i64, minter: Minter) -> Arc<Self> {
        Arc::new(Self {
            id,
            born_us,
            depth: Depth::new(minter.target_s()),
            state: Mutex::new(State {
                status: Status::Ended,
                epoch: 0,
                claimed_epoch: 0,
                publisher: Publisher { protocol: "", remote: String::new(), agent: String::new() },
                epoch_began_us: born_us,
                last_write_us: born_us,
                tracks: Vec::new(),
                layers: Vec::new(),
                ladder: Vec::new(),
                timeline: Timeline::new(0),
                video: Cursor::default(),
                audio: Cursor::default(),
                minter,
                newest_us: 0,
                dropped: 0,
                hand: Hand::Own,
                turned_away: None,
                path: Vec::new(),
                closed: false,
            }),
            version: watch::Sender::new(0),
        })
    }

    pub fn id(&self) -> &BroadcastId {
        &self.id
    }

    /// Wall-clock of timestamp zero, in microseconds of the Unix epoch.
    pub fn born_us(&self) -> i64 {
        self.born_us
    }

    pub fn status(&self) -> Status {
        self.lock().status
    }

    /// Of the claim that its publisher came with. It is what gops carry.
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Of the claim that holds it in the registry and among nodes: higher than [`Broadcast::epoch`] where the claim had
    /// to be made anew while the publisher went on.
    pub fn claimed_epoch(&self) -> u64 {
        self.lock().claimed_epoch
    }

    pub fn publisher(&self) -> Publisher {
        self.lock().publisher.clone()
    }

    /// When the present (or last) publisher took it.
    pub fn epoch_began_us(&self) -> i64 {
        self.lock().epoch_began_us
    }

    /// Samples that could not be used: before the first keyframe, or of a format that changed without one.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Seconds that no segment outlasts. `None` until the first gop has told; it never changes afterwards.
    pub fn segment_target_s(&self) -> Option<u32> {
        self.lock().minter.target_s()
    }

    /// Number of the gop that will come next: what a successor on another node has to go on from.
    pub fn next_gop(&self) -> u64 {
        self.lock().minter.next_gop()
    }

    pub fn discontinuity(&self) -> u64 {
        self.lock().minter.current().map_or(0, |gop| gop.discontinuity)
    }

    /// Published on another node and copied from there.
    pub fn is_mirror(&self) -> bool {
        self.lock().hand != Hand::Own
    }

    /// Everything of it that another node has to know, apart from its tracks.
    pub fn told(&self) -> Told {
        let state = self.lock();
        Told {
            status: state.status,
            epoch: state.epoch,
            claimed_epoch: state.claimed_epoch,
            epoch_began_us: state.epoch_began_us,
            next_gop: state.minter.next_gop(),
            segment_target_s: state.minter.target_s(),
            publisher: state.publisher.clone(),
            path: state.path.clone(),
            ladder: state.ladder.clone(),
            deep: self.depth.is_deep(state.newest_us),
        }
    }

    /// The hub has forgotten it: nothing of it will ever change.
    pub fn is_over(&self) -> bool {
        self.lock().closed
    }

    pub fn tracks(&self) -> Vec<Arc<Track>> {
        self.lock().tracks.clone()
    }

    pub fn source(&self, kind: Kind) -> Option<Arc<Track>> {
        self.lock().source(kind)
    }

    /// What the present publisher sends side by side, the largest picture first. Empty when it sends one picture only.
    pub fn layers(&self) -> Vec<Arc<Track>> {
        let mut layers: Vec<_> = self.lock().layers.iter().map(|layer| layer.track.clone()).collect();
        layers.sort_by_key(|track| std::cmp::Reverse(track.info().map_or(0, |info| info.pixels())));
        layers
    }

    pub fn layer(&self, index: u8) -> Option<Arc<Track>> {
        let state = self.lock();
        let mut layers = state.layers.iter().map(|layer| &layer.track);
        layers.find(|track| track.origin() == Origin::Layer { index }).cloned()
    }

    /// Says which renditions of the source there are to choose from, the largest first. Each was derived before.
    pub fn offer(&self, ladder: Vec<Rendition>) {
        let mut state = self.lock();
        if state.ladder == ladder {
            return;
        }
        state.ladder = ladder;
        drop(state);
        self.changed();
    }

    /// The renditions that are made for whoever reads them, the largest first; without those that have to wait.
    pub fn renditions(&self) -> Vec<(Rendition, Arc<Track>)> {
        let state = self.lock();
        let track = |&rendition: &Rendition| Some((rendition, state.derived(Conversion::Rendition(rendition))?));
        state.ladder.iter().filter_map(track).filter(|(_, track)| !track.waiting()).collect()
    }

    /// The pictures that viewers in real time can choose from: layers where there are several, else the source, what is
    /// made of it in its own size, and its renditions. Empty where there is no choice.
    pub fn pictures(&self) -> Vec<Arc<Track>> {
        let layers = self.layers();
        if layers.len() > 1 {
            return layers;
        }
        let renditions = self.renditions();
        let Some(source) = self.source(Kind::Video).filter(|_| !renditions.is_empty()) else { return Vec::new() };
        let in_full = |track: &Arc<Track>| {
            let made = matches!(track.origin(), Origin::Derived { conversion }
                if !matches!(conversion, Conversion::Rendition(_)));
            track.kind() == Kind::Video && made
        };
        let made = self.tracks().into_iter().filter(in_full);
        std::iter::once(source).chain(made).chain(renditions.into_iter().map(|(_, track)| track)).collect()
    }

    /// The track that this conversion makes, if it was declared.
    pub fn derived(&self, conversion: Conversion) -> Option<Arc<Track>> {
        self.lock().derived(conversion)
    }

    /// A track made from the source, to be written by the caller alone.
    pub fn derive(&self, conversion: Conversion) -> TrackWriter {
        let mut state = self.lock();
        let track = state.derived(conversion).unwrap_or_else(|| {
            let kind = conversion.target().kind();
            let name = format!("{}:{conversion}", kind_name(kind));
            let track = Track::new(name, kind, Origin::Derived { conversion }, self.depth.clone());
            state.tracks.push(track.clone());
            track
        });
        drop(state);
        self.changed();
        TrackWriter { track }
    }

    /// Resolves when status, tracks or formats changed since the receiver last looked.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn begin_epoch(self: &Arc<Self>, claim: Claim, now_us: i64) -> Writer {
        let mut state = self.lock();
        let epoch = claim.epoch;
        state.status = Status::Live;
        state.epoch = epoch;
        state.claimed_epoch = epoch;
        state.publisher = claim.publisher;
        state.epoch_began_us = now_us;
        state.last_write_us = now_us;
        // A millisecond of room, so that no clamping is needed where two publishers meet.
        state.timeline = Timeline::new(state.newest_us + 1_000);
        state.video = Cursor::default();
        state.audio = Cursor::default();
        state.layers.clear();
        state.minter.begin_epoch(epoch, claim.segment_target_s);
        state.minter.go_on_from(claim.next_gop, claim.discontinuity);
        self.depth.set_target_s(state.minter.target_s());
        self.depth.set_upstream(false);
        state.hand = Hand::Own;
        state.turned_away = None;
        state.path.clear();
        drop(state);
        self.changed();
        Writer::new(self.clone(), epoch)
    }

    /// The claim was made anew. Its publisher goes on and so do its gops, with higher numbers if somebody else had the
    /// broadcast meanwhile. False when another publisher has come since.
    pub(super) fn renew(&self, held: u64, epoch: u64, next_gop: u64, discontinuity: u64) -> bool {
        let mut state = self.lock();
        if state.claimed_epoch != held || epoch <= held || state.status == Status::Ended {
            return false;
        }
        state.claimed_epoch = epoch;
        state.minter.go_on_from(next_gop, discontinuity);
        drop(state);
        self.changed();
        true
    }

    /// How long the publisher that holds it has written nothing; `None` when nobody holds it.
    pub fn silent_for_us(&self, now_us: i64) -> Option<i64> {
        let state = self.lock();
        (state.status == Status::Live).then_some((now_us - state.last_write_us).max(0))
    }

    /// For the hub: since when nobody has published.
    pub(super) fn idle_since_us(&self) -> Option<(Status, i64)> {
        let state = self.lock();
        (state.status != Status::Live).then_some((state.status, state.last_write_us))
    }

    pub(super) fn end(&self, epoch: u64, now_us: i64, status: Status) {
        let mut state = self.lock();
        if state.epoch != epoch || state.status == Status::Ended {
            return;
        }
        state.status = status;
        state.last_write_us = now_us.max(state.last_write_us);
        drop(state);
        self.changed();
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.tracks.iter().for_each(|track| track.close());
        drop(state);
        self.changed();
    }

    pub(super) fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn source(&self, kind: Kind) -> Option<Arc<Track>> {
        self.tracks.iter().find(|track| track.kind() == kind && track.origin() == Origin::Source).cloned()
    }

    fn derived(&self, conversion: Conversion) -> Option<Arc<Track>> {
        self.tracks.iter().find(|track| track.origin() == Origin::Derived { conversion }).cloned()
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Video => "video",
        Kind::Audio => "audio",
    }
}
