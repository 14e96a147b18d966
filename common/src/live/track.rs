//! One ring of frames: a writer appends, readers follow with a cursor of their own.
//!
//! The one lag policy: the [`ring`] is bounded by bytes and by age, the oldest gop leaves first, and a [`reader`] whose next
//! frame has left moves on to the newest keyframe and is counted. Writers never wait for anybody.

mod reader;
mod ring;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use tokio::sync::{Notify, watch};

use self::ring::Ring;
pub use self::{
    reader::{Impatient, Reader, Start},
    ring::Rates,
};
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
    ring: Mutex<Ring>,
    readers: watch::Sender<usize>,
    keyframe_wanted: AtomicBool,
    past_wanted: AtomicBool,
    keyframe_asked: Notify,
    waiting: AtomicBool,
    has_backlog: AtomicBool,
    skipped: AtomicU64,
}

impl Track {
    pub(super) fn new(name: String, kind: Kind, origin: Origin) -> Arc<Self> {
        Arc::new(Self {
            name,
            kind,
            origin,
            ring: Mutex::default(),
            readers: watch::Sender::new(0),
            keyframe_wanted: AtomicBool::new(false),
            past_wanted: AtomicBool::new(false),
            keyframe_asked: Notify::new(),
            waiting: AtomicBool::new(false),
            has_backlog: AtomicBool::new(false),
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
        self.has_backlog.load(Relaxed)
    }

    pub(super) fn set_backlog(&self, has_backlog: bool) {
        if self.has_backlog.swap(has_backlog, Relaxed) && !has_backlog {
            let wakers = std::mem::take(&mut self.lock().wakers);
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
        let wakers = {
            let mut ring = self.lock();
            ring.append(frame);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::{Codec, Gop, Shape};

    fn empty_track() -> TrackWriter {
        let origin = Origin::Derived { conversion: Conversion::BFrames };
        TrackWriter { track: Track::new("test".to_owned(), Kind::Video, origin) }
    }

    fn gop(id: u64, start_us: i64) -> Arc<Gop> {
        Arc::new(Gop { id, epoch: 1, start_us, independent: true, has_video: true, ..Gop::default() })
    }

    fn frame(gop: &Arc<Gop>, dts_us: i64, keyframe: bool) -> Frame {
        let shape = Shape::Video { width: 16, height: 16, reorders: false };
        let info = Arc::new(Info { codec: Codec::H264, config: Bytes::new(), shape });
        let (gop, payload) = (gop.clone(), Bytes::from_static(b"frame"));
        Frame { gop, dts_us, pts_us: dts_us, keyframe, payload, info, rtp: Default::default() }
    }

    fn track_with(frames: &[(i64, bool)]) -> TrackWriter {
        let mut writer = empty_track();
        let gop = gop(0, 0);
        frames.iter().for_each(|&(dts_us, keyframe)| writer.write(frame(&gop, dts_us, keyframe)));
        writer
    }

    /// What is left, in milliseconds before the newest frame, after a minute of gops that last so long; `every` frame a
    /// keyframe, as sound has it, or only the first of each gop.
    fn left_ms(gops_ms: impl Fn(u64) -> i64, every: bool) -> i64 {
        let mut writer = empty_track();
        let (mut now_ms, mut id) = (0, 0);
        while now_ms < 60_000 {
            let gop = gop(id, now_ms * 1_000);
            let end_ms = now_ms + gops_ms(id);
            for ms in (now_ms..end_ms).step_by(20) {
                writer.write(frame(&gop, ms * 1_000, every || ms == now_ms));
            }
            (now_ms, id) = (end_ms, id + 1);
        }
        let mut reader = writer.track().read(Start::Oldest);
        let oldest_us = reader.try_next().unwrap().dts_us;
        now_ms - oldest_us / 1_000
    }

    #[test]
    fn three_segments_stay_besides_the_open_one_and_no_more() {
        for every in [false, true] {
            assert_eq!(left_ms(|_| 2_000, every), 8_000);
            assert_eq!(left_ms(|_| 1_900, every), 4 * 1_900);
            assert_eq!(left_ms(|_| 1_000, every), 7_000, "the shortest target is two seconds");
            assert_eq!(left_ms(|id| if id == 0 { 3_000 } else { 1_000 }, every), 10_000, "the first sets the target");
        }
    }

    #[test]
    fn long_gops_stay_as_long_as_one_of_them_needs() {
        assert_eq!(left_ms(|_| 8_340, false), 2 * 8_340);
        assert!((12_000..12_100).contains(&left_ms(|_| 8_340, true)));
    }

    #[test]
    fn a_reader_knows_how_far_behind_it_is_and_can_skip() {
        let writer = track_with(&[(0, true), (10, false), (20, true), (30, false)]);
        let mut reader = writer.track().read(Start::Oldest);
        assert_eq!(reader.try_next().map(|frame| frame.dts_us), Some(0));
        assert_eq!(reader.behind_us(), 30);
        assert_eq!(reader.skip_to_newest(), 1);
        assert_eq!(reader.try_next().map(|frame| frame.dts_us), Some(20));
        assert_eq!(reader.skip_to_newest(), 0, "the newest keyframe lies behind");
        assert_eq!(reader.try_next().map(|frame| frame.dts_us), Some(30));
        assert_eq!((reader.behind_us(), writer.track().stats().skipped), (0, 1));
    }

    #[test]
    fn a_playlist_begins_with_the_newest_whole_gop_and_rates_are_those_of_whole_gops() {
        let mut writer = track_with(&[]);
        let track = writer.track().clone();
        assert_eq!((track.rates(), track.take_past_request()), (None, false));
        let shape = Shape::Video { width: 16, height: 16, reorders: false };
        let info = Arc::new(Info { codec: Codec::H264, config: Bytes::new(), shape });
        for (id, bytes) in [(0, 100), (1, 300), (2, 200), (3, 100)] {
            let start_us = id as i64 * 1_000_000;
            let gop = gop(id, start_us);
            // Two keyframes in each.
            for at in 0..4 {
                let dts_us = start_us + at * 250_000;
                let (keyframe, payload) = (at % 2 == 0, Bytes::from(vec![0; bytes]));
                let (gop, info) = (gop.clone(), info.clone());
                writer.write(Frame { gop, dts_us, pts_us: dts_us, keyframe, payload, info, rtp: Default::default() });
            }
        }
        let first = |start| track.read(start).try_next().map(|frame| frame.dts_us);
        assert_eq!((first(Start::Whole), first(Start::Newest)), (Some(2_000_000), Some(3_500_000)));
        assert!(!track.take_past_request());
        assert_eq!(first(Start::Oldest), Some(0));
        assert!(track.take_past_request() && !track.take_past_request());
        let rates = track.rates().unwrap();
        assert_eq!((rates.bits_per_s, rates.peak_bits_per_s), (4 * 250 * 8, 4 * 300 * 8));
        assert!((rates.frames_per_s - 4.0).abs() < 0.01, "{rates:?}");
    }

    #[test]
    fn a_cleared_track_shows_nothing_old() {
        let mut writer = track_with(&[(0, true), (10, false)]);
        writer.clear();
        let stats = writer.track().stats();
        assert_eq!((stats.ring_bytes, stats.ring_frames, stats.frames), (0, 0, 2));
        for start in [Start::Newest, Start::Oldest, Start::Live, Start::At { dts_us: 0 }] {
            assert!(writer.track().read(start).try_next().is_none());
        }
    }
}
