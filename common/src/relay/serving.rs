//! One broadcast for one other node, told as fast as that node reads.
//!
//! In: the broadcast and its news, frames of the tracks that are wanted there, what is said on data channels, wishes. Out:
//! pieces, each made when the connection has room for it. So nothing waits here but one frame of each track: when the other
//! node is slow its cursors stay behind in the hall's rings, and move on to the newest keyframe as any reader's.
//! Deliberately absent: a task of its own (a carrier polls it), other broadcasts, and where pieces go.
//!
//! Tracks are told in the order of their frames' times: an edge that packs segments must not take the track whose ring
//! comes second for a silent one.

mod gops;
mod lane;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use headwater_proto::{Begin, Hold, Keyframe, Live, Run, Said, Want, piece, wish};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_stream::{Stream as _, wrappers::WatchStream};
use tonic::Status;

use self::{gops::Gops, lane::Lane};
use super::wire;
use crate::{
    live::{self, Broadcast, Status as Going, Told},
    media::Kind,
    node::Node,
    rtc::{Corridor, Utterance},
    telemetry::Door,
};

/// A stream that has nothing to tell says so this often. Whoever pulls takes two seconds of silence for a stall.
const BEAT: Duration = Duration::from_millis(400);
/// Told one after the other before news have a turn.
const FRAMES_AT_ONCE: usize = 16;
/// When this node stops, how its broadcasts end is told first.
const STOP_WITHIN: Duration = Duration::from_secs(2);

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Serving {
    broadcast: Arc<Broadcast>,
    news: WatchStream<u64>,
    corridor: Corridor,
    name: Arc<str>,
    door: Door,
    /// In the order of their numbers.
    lanes: Vec<Lane>,
    /// Playlists are made of it at the other node.
    hold: Option<live::Hold>,
    told: Option<Told>,
    /// Tell these before anything else. Never more than what one frame or one look at the broadcast takes.
    ahead: VecDeque<piece::Piece>,
    /// Something of a track was not told yet, because frames from before are on their way.
    postponed: bool,
    /// Frames since all else was looked at.
    in_a_row: usize,
    gops: Gops,
    looked: Instant,
    /// That something was told.
    last: Instant,
    beat: Pin<Box<Sleep>>,
    stopping: Boxed,
    leaving: Option<Boxed>,
}

/// Why a pull ends.
pub(super) enum End {
    /// There will be nothing more of this broadcast.
    Over,
    Refused(Status),
}

impl Serving {
    pub(super) fn new(broadcast: Arc<Broadcast>, corridor: Corridor, node: Node, name: Arc<str>, door: Door) -> Self {
        let news = WatchStream::from_changes(broadcast.watch());
        Self {
            broadcast,
            news,
            corridor,
            name,
            door,
            lanes: Vec::new(),
            hold: None,
            told: None,
            ahead: VecDeque::new(),
            postponed: false,
            in_a_row: 0,
            gops: Gops::default(),
            looked: Instant::now(),
            last: Instant::now(),
            beat: Box::pin(sleep(BEAT)),
            stopping: Box::pin(async move { node.stopping().await }),
            leaving: None,
        }
    }

    /// Never asked again after an end.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<piece::Piece, End>> {
        let piece = ready!(self.poll_next(cx))?;
        self.last = Instant::now();
        Poll::Ready(Ok(piece))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<piece::Piece, End>> {
        // Nearly always it is a frame that wakes it, and all else is looked at once there is no other one.
        let frames_first = self.told.is_some() && self.in_a_row < FRAMES_AT_ONCE;
        if frames_first && let Poll::Ready(piece) = self.poll_media(cx)? {
            return Poll::Ready(Ok(piece));
        }
        self.in_a_row = 0;
        self.poll_stop(cx)?;
        // That a track waits for room, or which gop comes next, is no news to anybody else.
        let mut news = self.told.is_none() || self.looked.elapsed() >= BEAT;
        while let Poll::Ready(Some(_)) = Pin::new(&mut self.news).poll_next(cx) {
            news = true;
        }
        if news {
            self.look()?;
        }
        if let Some(piece) = self.ahead.pop_front() {
            return Poll::Ready(Ok(piece));
        }
        if let Poll::Ready(Utterance { to, binary, data }) = self.corridor.poll_hear(cx) {
            let hearers = wire::from_hearers(to).into();
            return Poll::Ready(Ok(piece::Piece::Said(Said { binary, data, hearers })));
        }
        if !frames_first && let Poll::Ready(piece) = self.poll_media(cx)? {
            return Poll::Ready(Ok(piece));
        }
        if std::mem::take(&mut self.postponed) {
            self.look()?;
            if let Some(piece) = self.ahead.pop_front() {
                return Poll::Ready(Ok(piece));
            }
        }
        self.end()?;
        ready!(self.poll_beat(cx));
        let told = self.broadcast.told();
        let beat = wire::from_told(told.clone(), &self.name);
        self.told = Some(told);
        Poll::Ready(Ok(piece::Piece::State(beat)))
    }

    pub(super) fn obey(&mut self, wish: wish::Wish) -> Result<(), End> {
        match wish {
            wish::Wish::Open(_) => Err(End::refused("a broadcast was named already")),
            wish::Wish::Leave(_) => Err(End::Over),
            wish::Wish::Want(Want { track, wanted, present }) => {
                let lane = self.lane(track)?;
                if !wanted {
                    lane.leave();
                } else if lane.begin(present) {
                    let whole = lane.is_whole();
                    self.ahead.push_back(piece::Piece::Run(Run { track, whole }));
                }
                Ok(())
            }
            wish::Wish::Keyframe(Keyframe { track }) => {
                self.lane(track)?.track.request_keyframe();
                Ok(())
            }
            wish::Wish::Hold(Hold { held }) => {
                self.hold = held.then(|| self.broadcast.hold());
                Ok(())
            }
            wish::Wish::Said(said) => {
                let to = wire::to_hearers(&said).map_err(|error| End::refused(&error.to_string()))?;
                let utterance = Utterance { to, binary: said.binary, data: said.data };
                let said = self.corridor.say(utterance, std::time::Instant::now());
                said.map_err(|error| End::refused(&error.to_string()))
            }
        }
    }

    fn lane(&mut self, track: u32) -> Result<&mut Lane, End> {
        let known = self.lanes.len();
        let lane = self.lanes.get_mut(track as usize);
        lane.ok_or_else(|| End::refused(&format!("track {track} of {known} was never told of")))
    }

    /// Finds out what of the broadcast has changed, and what has to be told of it.
    fn look(&mut self) -> Result<(), End> {
        self.looked = Instant::now();
        let (told, tracks, layers) = (self.broadcast.told(), self.broadcast.tracks(), self.broadcast.layers());
        if self.lanes.iter().any(|lane| !tracks.iter().any(|track| Arc::ptr_eq(track, &lane.track))) {
            // The other node has to hear of it, and all that could be said is what there is.
            return Err(End::Refused(Status::aborted("a track is not made any more: the telling has to begin anew")));
        }
        let mut news = Vec::new();
        for track in &tracks {
            let at = self.lanes.iter().position(|lane| Arc::ptr_eq(&lane.track, track)).unwrap_or(self.lanes.len());
            let is_new = at == self.lanes.len();
            if is_new {
                self.lanes.push(Lane::new(track));
            }
            let lane = &mut self.lanes[at];
            let sent = layers.iter().any(|layer| Arc::ptr_eq(layer, track));
            let mut changed = (lane.waiting, lane.sent) != (track.waiting(), sent);
            (lane.waiting, lane.sent) = (track.waiting(), sent);
            if lane.is_under_way() {
                self.postponed = true;
            } else if let Some(info) = track.info().filter(|info| !lane.told(info)) {
                lane.info = Some(info);
                changed = true;
            }
            if is_new || changed {
                news.push(wire::from_track(at as u32, track, &layers, lane.info.as_deref()));
            }
        }
        let state = wire::from_told(told.clone(), &self.name);
        match self.told.replace(told) {
            None => {
                let born_us = self.broadcast.born_us();
                self.ahead.push_back(piece::Piece::Begin(Begin { born_us, state: Some(state), tracks: news }));
            }
            Some(before) => {
                if self.told.as_ref() != Some(&before) {
                    self.ahead.push_back(piece::Piece::State(state));
                }
                self.ahead.extend(news.into_iter().map(piece::Piece::Track));
            }
        }
        Ok(())
    }

    fn poll_media(&mut self, cx: &mut Context<'_>) -> Poll<Result<piece::Piece, End>> {
        if let Some(piece) = self.ahead.pop_front() {
            return Poll::Ready(Ok(piece));
        }
        let piece = ready!(self.poll_frame(cx))?;
        self.in_a_row += 1;
        Poll::Ready(Ok(piece))
    }

    /// The earliest frame of those that are there, behind what has to be known of it.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<piece::Piece, End>> {
        self.fill(cx)?;
        if self.lanes.iter().any(Lane::lags) {
            self.skip();
            self.fill(cx)?;
        }
        for (track, lane) in (0..).zip(&mut self.lanes) {
            if lane.caught_up && !lane.told_live {
                lane.told_live = true;
                return Poll::Ready(Ok(piece::Piece::Live(Live { track })));
            }
        }
        let heads = self.lanes.iter().enumerate().filter_map(|(at, lane)| Some((at, lane.head.as_deref()?)));
        let earliest = heads.reduce(|first, next| if next.1.precedes(first.1) { next } else { first });
        let Some((at, _)) = earliest else { return Poll::Pending };
        let Some(frame) = self.lanes[at].head.take() else { return Poll::Pending };
        let opens = !self.gops.knows(&frame.gop);
        // With each gop a ring lets go of older ones: the other node's must not, if those here don't any more.
        let outdated =
            |told: &Told| told.claimed_epoch < frame.gop.epoch || (opens && told.deep != self.broadcast.is_deep());
        if self.told.as_ref().is_none_or(outdated) {
            self.look()?;
        }
        let lane = &mut self.lanes[at];
        if !lane.told(&frame.info) {
            lane.info = Some(frame.info.clone());
            let told = wire::from_track(at as u32, &lane.track, &self.broadcast.layers(), Some(&frame.info));
            self.ahead.push_back(piece::Piece::Track(told));
        }
        if opens {
            self.gops.tell(&frame.gop);
            self.ahead.push_back(piece::Piece::Gop(wire::from_gop(&frame.gop)));
        }
        self.door.sent.inc();
        let frame = piece::Piece::Frame(wire::from_frame(at as u32, &frame));
        Poll::Ready(Ok(match self.ahead.pop_front() {
            Some(first) => {
                self.ahead.push_back(frame);
                first
            }
            None => frame,
        }))
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let all = self.lanes.iter_mut().all(|lane| lane.fill(cx));
        if all { Ok(()) } else { Err(End::Over) }
    }

    /// Goes on at the newest picture that needs no other one, and with the sound that belongs to it.
    fn skip(&mut self) {
        let (mut pictures, mut resume_us, mut skipped) = (false, None, 0);
        for lane in self.lanes.iter_mut().filter(|lane| lane.reads(Kind::Video)) {
            pictures = true;
            skipped += lane.skip_to_newest();
            resume_us = resume_us.max(lane.head.as_ref().map(|head| head.dts_us));
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.reads(Kind::Audio)) {
            match resume_us {
                Some(dts_us) if skipped > 0 => lane.skip_to(dts_us),
                None if !pictures => skipped += lane.skip_to_newest(),
                _ => {}
            }
        }
        self.door.dropped.inc_by(skipped);
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if self.leaving.is_none() && self.stopping.as_mut().poll(cx).is_ready() {
            self.leaving = Some(Box::pin(sleep(STOP_WITHIN)));
        }
        let late = self.leaving.as_mut().is_some_and(|leaving| leaving.as_mut().poll(cx).is_ready());
        if late { Err(stops()) } else { Ok(()) }
    }

    /// Everything has been told so far.
    fn end(&self) -> Result<(), End> {
        let ended = self.told.as_ref().is_some_and(|told| told.status == Going::Ended);
        if self.broadcast.is_over() {
            Err(End::Over)
        } else if ended && self.leaving.is_some() {
            Err(stops())
        } else {
            Ok(())
        }
    }

    fn poll_beat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.beat.as_mut().poll(cx));
            // Setting a timer anew with each frame would cost more than this.
            let due = self.last + BEAT;
            if due <= Instant::now() {
                self.beat = Box::pin(sleep(BEAT));
                return Poll::Ready(());
            }
            self.beat = Box::pin(sleep_until(due));
        }
    }
}

impl End {
    pub(super) fn refused(why: &str) -> Self {
        Self::Refused(Status::invalid_argument(why))
    }
}

fn stops() -> End {
    End::Refused(Status::unavailable("this node stops"))
}
