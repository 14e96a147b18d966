//! Who follows a track, at a pace of its own. In: the ring. Out: frame after frame, or that some were missed. Deliberately
//! absent: what is done with them.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed},
    },
    task::{Context, Poll, Waker},
};

use super::{Track, ring::Ring};
use crate::media::Frame;

/// Where a new reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the newest keyframe, so that a picture can be shown at once.
    Newest,
    /// At the oldest keyframe the ring still holds; of a deep ring at the first one that a playlist lists, because the
    /// oldest is about to leave. Whoever makes the track while somebody reads it begins with the newest whole gop of its
    /// source then.
    Oldest,
    /// At the same, but nobody has to make anything of the past for this.
    Kept,
    /// At the beginning of the newest gop that is there in full; without one, at the newest keyframe.
    Whole,
    /// With the next frame that is written.
    Live,
    /// At the first frame that is not earlier than this.
    At { dts_us: i64 },
}

/// Follows one track. Dropping it is leaving.
#[derive(Debug)]
pub struct Reader {
    track: Arc<Track>,
    began: u64,
    next: u64,
    skipped: u64,
}

impl Reader {
    /// Its track counts it already.
    pub(super) fn new(track: Arc<Track>, next: u64) -> Self {
        Self { track, began: next, next, skipped: 0 }
    }

    pub fn track(&self) -> &Arc<Track> {
        &self.track
    }

    /// It began with the first frame that the track ever had, on whatever node.
    pub fn is_whole(&self) -> bool {
        self.began == 0 && self.track.is_whole()
    }

    /// Frames that this reader never saw because it was too slow.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next frame, or `None` when the track is over.
    pub async fn next(&mut self) -> Option<Arc<Frame>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next frame if it is already there.
    pub fn try_next(&mut self) -> Option<Arc<Frame>> {
        let track = self.track.clone();
        let mut ring = track.lock();
        self.take(&mut ring)
    }

    /// How much later the track's newest frame is than the one this reader got last: 0 at the live edge only.
    pub fn behind_us(&self) -> i64 {
        let ring = self.track.lock();
        let (Some(oldest), Some(newest)) = (ring.frames.front(), ring.frames.back()) else { return 0 };
        if self.next >= ring.end() {
            return 0;
        }
        let last = self.next.checked_sub(ring.first + 1).and_then(|index| ring.frames.get(index as usize));
        (newest.dts_us - last.unwrap_or(oldest).dts_us).max(1)
    }

    /// What was taken last was written from the past, be that over by now or not.
    pub fn is_in_past(&self) -> bool {
        self.track.has_backlog() || self.next <= self.track.past_until.load(Acquire)
    }

    /// Moves on to the newest keyframe if that lies ahead. Returns how many frames that leaves out.
    pub fn skip_to_newest(&mut self) -> u64 {
        let newest = self.track.lock().newest_keyframe().unwrap_or(self.next);
        let left_out = newest.saturating_sub(self.next);
        self.next += left_out;
        self.track.skipped.fetch_add(left_out, Relaxed);
        left_out
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<Frame>>> {
        let track = self.track.clone();
        let mut ring = track.lock();
        if let Some(frame) = self.take(&mut ring) {
            return Poll::Ready(Some(frame));
        }
        if ring.closed {
            return Poll::Ready(None);
        }
        // A reader that is polled without being woken (one task, several tracks) must not pile up wakers.
        if !ring.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            ring.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits on the calling thread, for readers that own one (encoders). Returns early with `Err` after `patience`.
    pub fn next_blocking(&mut self, patience: std::time::Duration) -> Result<Option<Arc<Frame>>, Impatient> {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        let mut parked = false;
        loop {
            match self.poll_next(&mut cx) {
                Poll::Ready(frame) => return Ok(frame),
                Poll::Pending if parked => return Err(Impatient),
                Poll::Pending => {
                    parked = true;
                    std::thread::park_timeout(patience);
                }
            }
        }
    }

    fn take(&mut self, ring: &mut Ring) -> Option<Arc<Frame>> {
        if self.next < ring.first {
            let resume = ring.newest_keyframe().unwrap_or(ring.first);
            self.skipped += resume - self.next;
            self.track.skipped.fetch_add(resume - self.next, Relaxed);
            self.next = resume;
        }
        let frame = ring.frames.get((self.next - ring.first) as usize)?.clone();
        self.next += 1;
        Some(frame)
    }
}

/// Nothing was written while the reader waited.
#[derive(Debug, PartialEq, Eq)]
pub struct Impatient;

impl Drop for Reader {
    fn drop(&mut self) {
        self.track.readers.send_modify(|readers| *readers -= 1);
    }
}
