//! One track as a shard follows it: read once, however many of the shard's sessions are sent it.
//!
//! In: a track of the hall. Out: its new frames, its newest gop. Deliberately absent: sessions, except for their keys.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::sync::watch;

use super::{
    inbox::{Flag, Inbox, Mark},
    ladder::Ladder,
    viewing::index,
};
use crate::{
    live::{Broadcast, Reader, Start, Track},
    media::{Frame, Kind},
};

/// Frames taken in one turn; the rest is taken in the next, so that one track can't hold up all others.
const FRAMES_PER_TURN: usize = 64;
/// The rate is measured over this long.
const RATE_WINDOW_US: i64 = 1_000_000;

pub(super) struct Feed {
    pub(super) index: usize,
    reader: Reader,
    flag: Arc<Flag>,
    waker: Waker,
    pub(super) subscribers: Vec<usize>,
    /// Of the newest frame that was taken.
    newest_us: i64,
    epoch: u64,
    /// A keyframe is missing: what comes can't be decoded.
    broken: bool,
    rate: Rate,
}

impl Feed {
    pub(super) fn open(track: &Arc<Track>, key: usize, inbox: &Arc<Inbox>) -> Self {
        let (flag, waker) = Flag::new(inbox, Mark::Feed(key));
        let start = match track.kind() {
            Kind::Video => Start::Newest,
            // Sound begins at the live edge.
            Kind::Audio => Start::Live,
        };
        Self {
            index: index(track.kind()),
            reader: track.read(start),
            flag,
            waker,
            subscribers: Vec::new(),
            newest_us: i64::MIN,
            epoch: 0,
            broken: false,
            rate: Rate::default(),
        }
    }

    pub(super) fn track(&self) -> &Arc<Track> {
        self.reader.track()
    }

    /// Bytes per second.
    pub(super) fn rate(&self) -> i64 {
        self.rate.bytes_per_s
    }

    /// Appends the new frames. `false` when the track is over.
    pub(super) fn take(&mut self, frames: &mut Vec<Arc<Frame>>) -> bool {
        self.flag.lower();
        let mut cx = Context::from_waker(&self.waker);
        for _ in 0..FRAMES_PER_TURN {
            match self.reader.poll_next(&mut cx) {
                Poll::Ready(Some(frame)) => {
                    self.newest_us = frame.dts_us;
                    self.rate.add(frame.dts_us, frame.payload.len());
                    self.broken = !frame.keyframe && (self.broken || self.epoch != frame.gop.epoch);
                    self.epoch = frame.gop.epoch;
                    if !self.broken {
                        frames.push(frame);
                    }
                }
                Poll::Ready(None) => return false,
                Poll::Pending => return true,
            }
        }
        self.waker.wake_by_ref();
        true
    }

    /// The newest keyframe and what followed, as far as this feed has come.
    pub(super) fn newest_gop(&self) -> Vec<Arc<Frame>> {
        let mut reader = self.track().read(Start::Newest);
        let taken = |frame: &Arc<Frame>| (frame.gop.epoch, frame.dts_us) <= (self.epoch, self.newest_us);
        std::iter::from_fn(|| reader.try_next()).take_while(taken).collect()
    }
}

#[derive(Debug, Default)]
struct Rate {
    since_us: Option<i64>,
    bytes: i64,
    bytes_per_s: i64,
}

impl Rate {
    fn add(&mut self, at_us: i64, bytes: usize) {
        let since_us = *self.since_us.get_or_insert(at_us);
        let elapsed_us = at_us - since_us;
        // Time steps back where an owner's clock is behind its predecessor's.
        if !(0..RATE_WINDOW_US).contains(&elapsed_us) {
            self.bytes_per_s = self.bytes * 1_000_000 / elapsed_us.max(RATE_WINDOW_US);
            self.since_us = Some(at_us);
            self.bytes = 0;
        }
        self.bytes += bytes as i64;
    }
}

/// The sessions of one broadcast on a shard, and the news of that broadcast.
pub(super) struct Audience {
    pub(super) broadcast: Arc<Broadcast>,
    pub(super) sessions: Vec<usize>,
    pub(super) ladder: Ladder,
    flag: Arc<Flag>,
    waker: Waker,
    news: Pin<Box<dyn Future<Output = watch::Receiver<u64>>>>,
}

async fn next(mut receiver: watch::Receiver<u64>) -> watch::Receiver<u64> {
    // The sender is part of the broadcast, which the audience holds.
    let _ = receiver.changed().await;
    receiver
}

impl Audience {
    pub(super) fn open(broadcast: &Arc<Broadcast>, key: usize, inbox: &Arc<Inbox>) -> Self {
        let (flag, waker) = Flag::new(inbox, Mark::Audience(key));
        let news = Box::pin(next(broadcast.watch()));
        let mut audience =
            Self { broadcast: broadcast.clone(), sessions: Vec::new(), ladder: Ladder::default(), flag, waker, news };
        audience.has_news();
        audience
    }

    /// Whether the broadcast changed since this was asked last.
    pub(super) fn has_news(&mut self) -> bool {
        self.flag.lower();
        let mut cx = Context::from_waker(&self.waker);
        let mut news = false;
        while let Poll::Ready(receiver) = self.news.as_mut().poll(&mut cx) {
            self.news = Box::pin(next(receiver));
            news = true;
        }
        news
    }
}
