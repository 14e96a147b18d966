//! How much of what was the rings of a broadcast keep: what a playlist begins with, or all that one lists while somebody
//! makes one. So whoever comes late lists what those list who have been there for long. In: who makes playlists, here and on
//! the nodes that pull from this one; what the node it is pulled from keeps itself. Out: whether rings are deep, and what a
//! playlist needs. It is one measure for all tracks, because what is packed together has to begin together. Deliberately
//! absent: frames, and any time but the media's.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicI64, AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use tokio::sync::watch;

use super::Broadcast;

/// A playlist lists at least this many segments and this much time, once they were there.
const SEGMENTS_MIN: usize = 6;
const LISTED_US_MIN: i64 = 20_000_000;
/// "The server MUST NOT remove a segment if that leaves less than three target durations" (RFC 8216 6.2.2).
const TARGETS_MIN: i64 = 3;
/// Rings stay deep for so long after the last who held them: nodes that pull come back, and so do players.
const LINGER_US: i64 = 30_000_000;

/// Whether these segments are enough for a playlist. If so, those before them leave it.
pub fn fill_a_playlist(segments: usize, lasted_us: i64, target_s: u32) -> bool {
    segments >= SEGMENTS_MIN && lasted_us >= LISTED_US_MIN.max(TARGETS_MIN * i64::from(target_s) * 1_000_000)
}

#[derive(Debug)]
pub(super) struct Depth {
    /// 0: not known yet.
    target_s: AtomicU32,
    holds: watch::Sender<usize>,
    /// The rings of the node it is copied from are deep.
    upstream: AtomicBool,
    /// When rings were held last, by the broadcast's clock.
    held_us: AtomicI64,
}

/// As long as this is there, the rings of a broadcast keep what a playlist lists.
#[derive(Debug)]
pub struct Hold(Arc<Depth>);

impl Broadcast {
    /// As long as the caller keeps what is returned, so do the rings keep what a playlist lists.
    pub fn hold(&self) -> Hold {
        self.depth.hold()
    }

    /// How many hold it.
    pub fn holds(&self) -> watch::Receiver<usize> {
        self.depth.holds.subscribe()
    }

    /// The rings keep what a playlist lists.
    pub fn is_deep(&self) -> bool {
        self.depth.is_deep(self.lock().newest_us)
    }
}

impl Depth {
    pub(super) fn new(target_s: Option<u32>) -> Arc<Self> {
        let (target_s, upstream) = (AtomicU32::new(target_s.unwrap_or(0)), AtomicBool::new(false));
        Arc::new(Self { target_s, holds: watch::Sender::new(0), upstream, held_us: AtomicI64::new(i64::MIN) })
    }

    pub(super) fn target_s(&self) -> Option<u32> {
        Some(self.target_s.load(Relaxed)).filter(|target_s| *target_s > 0)
    }

    pub(super) fn set_target_s(&self, target_s: Option<u32>) {
        self.target_s.store(target_s.unwrap_or(0), Relaxed);
    }

    pub(super) fn set_upstream(&self, deep: bool) {
        self.upstream.store(deep, Release);
    }

    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        self.holds.send_modify(|holds| *holds += 1);
        Hold(self.clone())
    }

    /// Asked with each frame, which is how the time since the last hold is known.
    pub(super) fn is_deep(&self, now_us: i64) -> bool {
        let held = *self.holds.borrow() > 0;
        if held {
            self.held_us.store(now_us, Relaxed);
        }
        held || self.upstream.load(Acquire) || now_us.saturating_sub(self.held_us.load(Relaxed)) < LINGER_US
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.send_modify(|holds| *holds -= 1);
    }
}
