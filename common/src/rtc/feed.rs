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
/// Frames that are no later than this are sent all the same: players take it for a hiccup of the network.
const LATE_US_MAX: i64 = 500_000;
/// The rate is measured over this long.
const RATE_WINDOW_US: i64 = 1_000_000;

pub(super) struct Feed {
    pub(super) index: usize,
    reader: Reader,
    flag: Arc<Flag>,
    waker: Waker,
    pub(super) subscribers: Vec<usize>,
    /// That was taken.
    newest: Option<Arc<Frame>>,
    /// A keyframe is missing: what comes can't be decoded.
    broken: bool,
    /// What comes is from the past.
    behind: bool,
    /// No more than a ring.
    held: Vec<Arc<Frame>>,
    rest: Option<Vec<Arc<Frame>>>,
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
            newest: None,
            broken: false,
            behind: false,
            held: Vec::new(),
            rest: None,
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
    ///
    /// What comes of a track whose past is still on its way here is held back: a player that was sent it would show it
    /// picture by picture, and stay late.
    pub(super) fn take(&mut self, frames: &mut Vec<Arc<Frame>>) -> bool {
        self.flag.lower();
        let mut cx = Context::from_waker(&self.waker);
        // The end of the past is taken at once.
        let most = if self.behind { usize::MAX } else { FRAMES_PER_TURN };
        for _ in 0..most {
            match self.reader.poll_next(&mut cx) {
                Poll::Ready(Some(frame)) => {
                    self.rate.add(frame.dts_us, frame.payload.len());
                    let goes_on = self.newest.as_ref().is_some_and(|newest| newest.gop.epoch == frame.gop.epoch);
                    self.broken = !frame.keyframe && (self.broken || !goes_on);
                    self.newest = Some(frame.clone());
                    self.behind |= self.reader.is_in_past();
                    match self.broken {
                        true => {}
                        false if self.behind => self.held.push(frame),
                        false => frames.push(frame),
                    }
                }
                Poll::Ready(None) => return false,
                Poll::Pending => {
                    if self.behind && !self.track().has_backlog() {
                        self.come(frames);
                    }
                    return true;
                }
            }
        }
        self.waker.wake_by_ref();
        true
    }

    /// The past is over. What is only a little late goes on as it is.
    fn come(&mut self, frames: &mut Vec<Arc<Frame>>) {
        self.behind = false;
        let mut held = std::mem::take(&mut self.held);
        let span_us = held.first().zip(held.last()).map_or(0, |(first, last)| last.dts_us - first.dts_us);
        if (0..=LATE_US_MAX).contains(&span_us) {
            frames.append(&mut held);
        } else {
            held.drain(..held.iter().rposition(|frame| frame.keyframe).unwrap_or(0));
            self.rest = Some(held);
        }
    }

    /// What brings viewers to the present who were sent everything so far, if the feed has just come there: without it
    /// they would stay late, and a whole gop would show them again what they have seen. Without a keyframe it goes on
    /// where the feed was.
    pub(super) fn take_rest(&mut self) -> Option<Vec<Arc<Frame>>> {
        self.rest.take()
    }

    /// The newest keyframe and what followed, as far as this feed has come.
    pub(super) fn newest_gop(&self) -> Vec<Arc<Frame>> {
        if self.behind {
            return Vec::new();
        }
        let mut reader = self.track().read(Start::Newest);
        let taken = |frame: &Arc<Frame>| self.newest.as_ref().is_some_and(|newest| !newest.precedes(frame));
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        live::{BroadcastId, Declared, Hub, Lane, Mirror, Origin, Publisher, Status, Told},
        media::{Codec, Gop, Info, Sample, Shape},
    };

    fn mirror() -> (Mirror, Lane) {
        let publisher = Publisher { protocol: "rtmp", remote: String::new(), agent: String::new() };
        let told = Told {
            status: Status::Live,
            epoch: 1,
            claimed_epoch: 1,
            epoch_began_us: 0,
            next_gop: 0,
            segment_target_s: None,
            publisher,
            path: Vec::new(),
            ladder: Vec::new(),
            deep: false,
        };
        let mut mirror = Hub::new().mirror(&BroadcastId::new("live", "x").unwrap(), 0, told, 0).unwrap();
        let shape = Shape::Video { width: 640, height: 360, reorders: false };
        let info = Some(Info { codec: Codec::H264, config: Bytes::new(), shape });
        let (name, kind, origin) = ("video".to_owned(), Kind::Video, Origin::Source);
        let lane = mirror.declare(Declared { name, kind, origin, sent: true, info, waiting: false }).unwrap();
        (mirror, lane)
    }

    /// Pictures at these milliseconds, a keyframe each second.
    fn write(mirror: &mut Mirror, lane: Lane, ms: impl Iterator<Item = i64>) {
        for ms in ms {
            let (id, dts_us) = (ms as u64 / 1_000, ms * 1_000);
            let gop = Gop {
                id,
                epoch: 1,
                start_us: id as i64 * 1_000_000,
                independent: true,
                has_video: true,
                ..Gop::default()
            };
            let payload = Bytes::from_static(b"picture");
            let sample = Sample { dts_us, pts_us: dts_us, keyframe: ms % 1_000 == 0, payload };
            mirror.append(lane, Arc::new(gop), sample, 0).unwrap();
        }
    }

    fn in_ms(frames: Vec<Arc<Frame>>) -> Vec<i64> {
        frames.iter().map(|frame| frame.dts_us / 1_000).collect()
    }

    fn taken_ms(feed: &mut Feed) -> Vec<i64> {
        let mut frames = Vec::new();
        while feed.take(&mut frames) && frames.len() >= FRAMES_PER_TURN {}
        in_ms(frames)
    }

    #[test]
    fn a_past_that_comes_from_another_node_is_shown_as_its_newest_gop_and_then_goes_on() {
        let (mut mirror, lane) = mirror();
        let mut feed = Feed::open(mirror.track(lane), 0, &Arc::default());
        mirror.begin_run(lane, false);
        write(&mut mirror, lane, (0..3_500).step_by(20));
        assert!(taken_ms(&mut feed).is_empty() && feed.take_rest().is_none() && feed.newest_gop().is_empty());
        write(&mut mirror, lane, (3_500..4_200).step_by(20));
        mirror.is_live(lane);
        assert!(taken_ms(&mut feed).is_empty());
        let newest: Vec<_> = (4_000..4_200).step_by(20).collect();
        assert_eq!(feed.take_rest().map(in_ms), Some(newest.clone()));
        assert!(feed.take_rest().is_none());
        assert_eq!(in_ms(feed.newest_gop()), newest);
        write(&mut mirror, lane, (4_200..4_260).step_by(20));
        assert_eq!(taken_ms(&mut feed), [4_200, 4_220, 4_240]);
    }

    /// A shard with much to do looks when all of it has come.
    #[test]
    fn a_past_that_has_come_with_what_follows_it_is_shown_no_later() {
        let (mut mirror, lane) = mirror();
        let mut feed = Feed::open(mirror.track(lane), 0, &Arc::default());
        mirror.begin_run(lane, false);
        write(&mut mirror, lane, (0..3_500).step_by(20));
        mirror.is_live(lane);
        write(&mut mirror, lane, (3_500..3_560).step_by(20));
        // Where there is more than a turn takes, it says that it wants another one.
        for _turn in 0..2 {
            assert!(taken_ms(&mut feed).is_empty());
        }
        let newest: Vec<_> = (3_000..3_560).step_by(20).collect();
        assert_eq!(feed.take_rest().map(in_ms), Some(newest.clone()));
        write(&mut mirror, lane, (3_560..3_600).step_by(20));
        assert_eq!(taken_ms(&mut feed), [3_560, 3_580]);

        // And who opens a feed of what was the past a moment ago.
        let mut late = Feed::open(mirror.track(lane), 0, &Arc::default());
        assert!(taken_ms(&mut late).is_empty());
        assert_eq!(late.take_rest().map(in_ms), Some((3_000..3_600).step_by(20).collect()));
    }

    #[test]
    fn what_is_told_again_or_a_little_late_makes_no_difference() {
        let (mut mirror, lane) = mirror();
        let mut feed = Feed::open(mirror.track(lane), 0, &Arc::default());
        mirror.begin_run(lane, false);
        mirror.is_live(lane);
        write(&mut mirror, lane, (0..1_000).step_by(20));
        assert_eq!(taken_ms(&mut feed).len(), 50);
        mirror.begin_run(lane, false);
        write(&mut mirror, lane, (0..1_200).step_by(20));
        assert!(taken_ms(&mut feed).is_empty());
        mirror.is_live(lane);
        assert_eq!(taken_ms(&mut feed), (1_000..1_200).step_by(20).collect::<Vec<_>>());
        assert!(feed.take_rest().is_none());
    }

    #[test]
    fn nothing_is_shown_twice_after_a_stall_however_long_ago_the_keyframe_was() {
        let (mut mirror, lane) = mirror();
        let mut feed = Feed::open(mirror.track(lane), 0, &Arc::default());
        mirror.begin_run(lane, false);
        mirror.is_live(lane);
        write(&mut mirror, lane, (0..300).step_by(20));
        assert_eq!(taken_ms(&mut feed).len(), 15);
        mirror.begin_run(lane, false);
        write(&mut mirror, lane, (0..960).step_by(20));
        assert!(taken_ms(&mut feed).is_empty());
        mirror.is_live(lane);
        assert!(taken_ms(&mut feed).is_empty());
        assert_eq!(feed.take_rest().map(in_ms), Some((300..960).step_by(20).collect()));
        // Who has come meanwhile has seen nothing yet.
        assert_eq!(in_ms(feed.newest_gop()), (0..960).step_by(20).collect::<Vec<_>>());
    }
}
