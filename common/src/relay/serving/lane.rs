//! One track of a broadcast on its way to another node. In: its frames as its reader finds them. Out: the next one, and how
//! far it has come. Deliberately absent: the other tracks, and what is told of it.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    live::{Reader, Start, Track},
    media::{Frame, Info, Kind},
};

/// A node that was at the live edge and is this far behind now has a connection that carries less than the broadcast:
/// it goes on at the newest keyframe.
const LAG_US_MAX: i64 = 4_000_000;

pub(super) struct Lane {
    pub(super) track: Arc<Track>,
    /// As it was told.
    pub(super) info: Option<Arc<Info>>,
    pub(super) waiting: bool,
    pub(super) sent: bool,
    reader: Option<Reader>,
    pub(super) head: Option<Arc<Frame>>,
    /// It has been at the live edge.
    pub(super) caught_up: bool,
    /// And the other node knows.
    pub(super) told_live: bool,
}

impl Lane {
    pub(super) fn new(track: &Arc<Track>) -> Self {
        Self {
            track: track.clone(),
            info: None,
            waiting: track.waiting(),
            sent: false,
            reader: None,
            head: None,
            caught_up: false,
            told_live: false,
        }
    }

    /// It is wanted, from the oldest picture on. False if it was already. `present`: nothing has to be made of the past.
    pub(super) fn begin(&mut self, present: bool) -> bool {
        let begins = self.reader.is_none();
        if begins {
            let start = if present { Start::Kept } else { Start::Oldest };
            self.reader = Some(self.track.read(start));
            (self.caught_up, self.told_live) = (false, false);
        }
        begins
    }

    /// From its first frame on.
    pub(super) fn is_whole(&self) -> bool {
        self.reader.as_ref().is_some_and(Reader::is_whole)
    }

    pub(super) fn leave(&mut self) {
        self.reader = None;
        self.head = None;
    }

    pub(super) fn told(&self, info: &Arc<Info>) -> bool {
        self.info.as_ref().is_some_and(|told| Arc::ptr_eq(told, info) || told == info)
    }

    /// There are frames that were not told yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.head.is_some() || self.reader.as_ref().is_some_and(|reader| reader.behind_us() > 0)
    }

    /// Takes the next frame if there is one. False when the track is over.
    pub(super) fn fill(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(reader) = self.reader.as_mut().filter(|_| self.head.is_none()) else { return true };
        match reader.poll_next(cx) {
            Poll::Ready(Some(frame)) => self.head = Some(frame),
            Poll::Ready(None) => return false,
            Poll::Pending => self.caught_up = true,
        }
        true
    }

    pub(super) fn lags(&self) -> bool {
        self.caught_up && self.reader.as_ref().is_some_and(|reader| reader.behind_us() > LAG_US_MAX)
    }

    pub(super) fn reads(&self, kind: Kind) -> bool {
        self.reader.is_some() && self.track.kind() == kind
    }

    /// Returns how many frames that leaves out. If any, it counts as catching up from now on.
    pub(super) fn skip_to_newest(&mut self) -> u64 {
        let Some(reader) = &mut self.reader else { return 0 };
        let skipped = reader.skip_to_newest();
        if skipped > 0 {
            self.head = reader.try_next();
            self.caught_up = false;
        }
        skipped
    }

    pub(super) fn skip_to(&mut self, dts_us: i64) {
        self.reader = Some(self.track.read(Start::At { dts_us }));
        self.head = None;
        self.caught_up = false;
    }
}
