//! One ring of frames: a writer appends, readers follow with a cursor of their own.
//!
//! The one lag policy: the [`ring`] is bounded by bytes and by age (how deep it is, the broadcast's [`Depth`] says), the
//! oldest gop leaves first, and a [`reader`] whose next frame has left moves on to the newest keyframe and is counted.
//! Writers never wait for anybody.

mod reader;
mod ring;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::Waker,
};

use tokio::sync::{Notify, watch};

use self::ring::Ring;
pub use self::{
    reader::{Impatient, Reader, Start},
    ring::Rates,
};
use super::depth::Depth;
use crate::media::{Conversion, Frame, Info, Kind};

/// Where a track comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The publisher; where it sends several layers, the best of them that arrives.
    Source,
    /// One of the qualities that the publisher sends side by side (simulcast), in the order it named them.
    Layer { index: u8 },
    /// Made from the source, whoever needs it.
    Derived { conversion: Conversion },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackStats {
    pub frames: u64,
    pub bytes: u64,
    /// Frames that some reader never saw because it was too slow.
    pub skipped: u64,
    pub readers: usize,
    /// Over what the ring holds.
    pub bits_per_second: u64,
    pub ring_bytes: usize,
    pub ring_frames: usize,
}

#[derive(Debug)]
pub struct Track {
    name: String,
    kind: Kind,
    origin: Origin,
    depth: Arc<Depth>,
    ring: Mutex<Ring>,
    readers: watch::Sender<usize>,
    keyframe_wanted: AtomicBool,
    past_wanted: AtomicBool,
    keyframe_asked: Notify,
    waiting: AtomicBool,
    has_backlog: AtomicBool,
    /// Positions below this were written from the past.
    past_until: AtomicU64,
    skipped: AtomicU64,
}

impl Track {
    pub(super) fn new(name: String, kind: Kind, origin: Origin, depth: Arc<Depth>) -> Arc<Self> {
        Arc::new(Self {
            name,
            kind,
            origin,
            depth,
            ring: Mutex::default(),
            readers: watch::Sender::new(0),
            keyframe_wanted: AtomicBool::new(false),
            past_wanted: AtomicBool::new(false),
            keyframe_asked: Notify::new(),
            waiting: AtomicBool::new(false),
            has_backlog: AtomicBool::new(false),
            past_until: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        })
    }

    /// Unique within the broadcast; appears in REST, metrics and logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the track carries now: what its newest frame carries, or what was announced ahead of the first one.
    /// A derived track that nobody has asked for yet has none.
    pub fn info(&self) -> Option<Arc<Info>> {
        self.lock().info.clone()
    }

    pub fn stats(&self) -> TrackStats {
        let ring = self.lock();
        TrackStats {
            frames: ring.frames_total,
            bytes: ring.bytes_total,
            skipped: self.skipped.load(Relaxed),
            readers: self.readers(),
            bits_per_second: ring.bits_per_second(),
            ring_bytes: ring.bytes,
            ring_frames: ring.frames.len(),
        }
    }

    /// Over the whole gops in the ring; `None` as long as there is none.
    pub fn rates(&self) -> Option<Rates> {
        self.lock().rates()
    }

    pub fn read(self: &Arc<Self>, start: Start) -> Reader {
        if start == Start::Oldest {
            self.past_wanted.store(true, Relaxed);
        }
        let next = {
            let ring = self.lock();
            if !ring.has_keyframe() && start != Start::Live {
                self.request_keyframe();
            }
            ring.position(start)
        };
        self.readers.send_modify(|readers| *readers += 1);
        Reader::new(self.clone(), next)
    }

    pub fn readers(&self) -> usize {
        *self.readers.borrow()
    }

    /// Resolves when somebody reads.
    pub async fn wanted(&self) {
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = self.readers.subscribe().wait_for(|readers| *readers > 0).await;
    }

    /// Resolves when nobody reads.
    pub async fn unwanted(&self) {
        let _ = self.readers.subscribe().wait_for(|readers| *readers == 0).await;
    }

    /// Somebody can't show a picture before the next keyframe. Coalesced until the writer takes it.
    pub fn request_keyframe(&self) {
        if !self.keyframe_wanted.swap(true, Relaxed) {
            self.keyframe_asked.notify_one();
        }
    }

    /// Resolves when a keyframe was asked for since the last call. For one listener: the one that takes the request.
    pub async fn keyframe_asked(&self) {
        self.keyframe_asked.notified().await;
    }

    pub fn take_keyframe_request(&self) -> bool {
        self.keyframe_wanted.swap(false, Relaxed)
    }

    /// Whether somebody began to read it since this was asked last who wants what was, not only what is.
    pub fn take_past_request(&self) -> bool {
        self.past_wanted.swap(false, Relaxed)
    }

    /// Whether somebody reads it and the machine has no room to make it.
    pub fn waiting(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    pub fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Relaxed);
    }

    pub(super) fn has_frames(&self) -> bool {
        !self.lock().frames.is_empty()
    }

    /// The ring holds every frame that the track ever had, on whatever node.
    pub fn is_whole(&self) -> bool {
        let ring = self.lock();
        ring.first == 0 && !ring.joined_late
    }

    /// What is written is from the past, as fast as it can be had: the ring of another node comes here. Readers that show
    /// things as they happen wait until that is over; they are woken then.
    pub fn has_backlog(&self) -> bool {
        self.has_backlog.load(Acquire)
    }

    pub(super) fn set_backlog(&self, has_backlog: bool) {
        if has_backlog {
            self.has_backlog.store(true, Release);
        } else if self.has_backlog() {
            // In one lock: who finds nothing to read either finds that this is over, or is woken.
            let wakers = {
                let mut ring = self.lock();
                self.past_until.store(ring.end(), Release);
                self.has_backlog.store(false, Release);
                std::mem::take(&mut ring.wakers)
            };
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn newest(&self) -> Option<Arc<Frame>> {
        self.lock().frames.back().cloned()
    }

    pub(super) fn announce(&self, info: Arc<Info>) {
        self.lock().info = Some(info);
    }

    /// Says whether a track that is copied is known from its first frame on. Too late once frames have come or gone.
    pub(super) fn join(&self, late: bool) {
        let mut ring = self.lock();
        if ring.end() == 0 {
            ring.joined_late = late;
        }
    }

    /// Forgets all frames.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn append(&self, frame: Arc<Frame>) {
        // No playlist is made of a layer: the best one is written as the source, too.
        let deep = !matches!(self.origin, Origin::Layer { .. }) && self.depth.is_deep(frame.dts_us);
        let wakers = {
            let mut ring = self.lock();
            ring.append(frame, deep, self.depth.target_s());
            std::mem::take(&mut ring.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// No more frames, ever: readers see the end after what is left.
    pub(super) fn close(&self) {
        let wakers = {
            let mut ring = self.lock();
            ring.closed = true;
            std::mem::take(&mut ring.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Nothing panics while holding it; should it ever, a ring is never left half-changed.
        self.ring.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Appends to a derived track. The source's tracks are written through [`super::Writer`], which mints.
#[derive(Debug)]
pub struct TrackWriter {
    pub(super) track: Arc<Track>,
}

impl TrackWriter {
    pub fn track(&self) -> &Arc<Track> {
        &self.track
    }

    /// Says what frames will carry as soon as somebody wants them. What was written says it better.
    pub fn foretell(&self, info: Info) {
        if !self.track.has_frames() {
            self.track.announce(Arc::new(info));
        }
    }

    /// Frames keep the gop and the clock of the source frame they were made from.
    pub fn write(&mut self, frame: Frame) {
        self.track.append(Arc::new(frame));
    }

    /// Forgets all frames. Whoever makes frames only while somebody reads does this when it stops: the next reader
    /// would begin with a picture from long ago.
    pub fn clear(&mut self) {
        self.track.clear();
    }
}
