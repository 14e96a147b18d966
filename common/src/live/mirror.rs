//! A broadcast that is published on another node: the same objects, filled with what is told from there.
//!
//! In: what the other node says of the broadcast and its tracks, frames with the gops and clocks they were given where
//! they entered the cluster. Out: a [`Broadcast`] in the hub that readers can't tell from one of this node. Nothing is
//! minted here. Deliberately absent: the wire, and when to ask whom.
//!
//! The telling may begin anew at any time, on the same node or on another one, with frames that are here already. A
//! [`Lane`] leaves those out, and goes on without a break where it can be sure that nothing is missing: else at the next
//! keyframe.

use std::sync::{Arc, MutexGuard};

use super::{
    Broadcast, BroadcastId, Hub, Origin, Publisher, Status, Track,
    broadcast::{Hand, Layer, State},
    minter::Minter,
};
use crate::{
    ladder::Rendition,
    media::{Frame, Gop, Info, Kind, Place, RtpCache, Sample},
};

/// What another node says of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub status: Status,
    /// Of the gops that its publisher writes now.
    pub epoch: u64,
    /// Of the claim that holds it: of two owners, the one with the higher epoch is right.
    pub claimed_epoch: u64,
    pub epoch_began_us: i64,
    pub next_gop: u64,
    pub segment_target_s: Option<u32>,
    pub publisher: Publisher,
    /// Nodes it came through, the owner first.
    pub path: Vec<String>,
    /// The renditions that are offered, the largest first.
    pub ladder: Vec<Rendition>,
    /// Its rings hold all that a playlist lists.
    pub deep: bool,
}

/// What another node says of a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub name: String,
    pub kind: Kind,
    pub origin: Origin,
    /// Of a layer: the present publisher sends it.
    pub sent: bool,
    pub info: Option<Info>,
    pub waiting: bool,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum MirrorError {
    #[error("{0} is published on this node")]
    Own(BroadcastId),
    #[error("{id} is known in epoch {known}, what is told is of epoch {told}")]
    Outdated { id: BroadcastId, known: u64, told: u64 },
    #[error("somebody else writes {0} now")]
    Fenced(BroadcastId),
    #[error("a frame is of epoch {epoch}, which nobody has told of")]
    Untold { epoch: u64 },
    #[error("a frame of track {0:?} came before its format")]
    NoFormat(String),
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    Kept,
    /// It is here already, or what it builds upon is missing.
    LeftOut,
}

/// One track of a [`Mirror`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane(usize);

#[derive(Debug)]
struct Line {
    track: Arc<Track>,
    info: Option<Arc<Info>>,
    /// Of the newest frame, which itself may be out of the processor's reach by the time the next one comes.
    last: Option<Place>,
    /// What comes may repeat what is here, or leave out what is not.
    unsure: bool,
}

/// The pen of whoever copies a broadcast. Dropping it leaves the broadcast interrupted.
#[derive(Debug)]
pub struct Mirror {
    broadcast: Arc<Broadcast>,
    number: u64,
    lines: Vec<Line>,
}

impl Hub {
    /// Copies a broadcast from another node. One that is copied already goes on as it is, and whoever copied it so far
    /// is fenced off; one that was born at another time is another one and closes what was here.
    pub fn mirror(&self, id: &BroadcastId, born_us: i64, told: Told, now_us: i64) -> Result<Mirror, MirrorError> {
        let mut broadcasts = self.lock();
        if let Some(known) = broadcasts.get(id) {
            let state = known.lock();
            let is_own = state.hand == Hand::Own;
            if is_own && state.status != Status::Ended {
                return Err(MirrorError::Own(id.clone()));
            }
            // What ended here goes on elsewhere with a claim of its own.
            if told.claimed_epoch < state.claimed_epoch + u64::from(is_own) {
                let (known, told) = (state.claimed_epoch, told.claimed_epoch);
                return Err(MirrorError::Outdated { id: id.clone(), known, told });
            }
            drop(state);
            if known.born_us() != born_us
                && let Some(other) = broadcasts.remove(id)
            {
                other.close();
            }
        }
        let broadcast = broadcasts
            .entry(id.clone())
            .or_insert_with(|| Broadcast::new(id.clone(), born_us, Minter::new(0, 0, None)))
            .clone();
        let mut state = broadcast.lock();
        let number = match state.hand {
            Hand::Own => 0,
            Hand::Copied(number) => number + 1,
        };
        state.hand = Hand::Copied(number);
        state.last_write_us = now_us;
        let lines = state.tracks.iter().cloned().map(Line::new).collect();
        drop(state);
        drop(broadcasts);
        let mut mirror = Mirror { broadcast, number, lines };
        mirror.tell(told, now_us)?;
        self.changed();
        Ok(mirror)
    }

    /// Closes a copy that nobody here wants any more; what this node publishes stays.
    pub fn forget_mirror(&self, broadcast: &Arc<Broadcast>) {
        let mut broadcasts = self.lock();
        let held = broadcasts.get(broadcast.id()).is_some_and(|held| Arc::ptr_eq(held, broadcast));
        if held && broadcast.is_mirror() {
            broadcasts.remove(broadcast.id());
            broadcast.close();
            drop(broadcasts);
            self.changed();
        }
    }
}

impl Mirror {
    pub fn broadcast(&self) -> &Arc<Broadcast> {
        &self.broadcast
    }

    /// How the broadcast is now.
    pub fn tell(&mut self, told: Told, now_us: i64) -> Result<(), MirrorError> {
        let id = self.broadcast.id().clone();
        let mut state = self.lock()?;
        if told.claimed_epoch < state.claimed_epoch {
            return Err(MirrorError::Outdated { id, known: state.claimed_epoch, told: told.claimed_epoch });
        }
        let target_s = state.minter.target_s();
        state.minter.told(told.next_gop, told.segment_target_s);
        let news = (state.status, state.epoch, state.claimed_epoch) != (told.status, told.epoch, told.claimed_epoch)
            || (&state.publisher, &state.path, &state.ladder, target_s)
                != (&told.publisher, &told.path, &told.ladder, state.minter.target_s());
        if told.epoch != state.epoch {
            state.layers.clear();
        }
        if told.status != state.status {
            state.last_write_us = now_us;
        }
        state.status = told.status;
        state.epoch = told.epoch;
        state.claimed_epoch = told.claimed_epoch;
        state.epoch_began_us = told.epoch_began_us;
        state.publisher = told.publisher;
        state.path = told.path;
        state.ladder = told.ladder;
        self.broadcast.depth.set_target_s(state.minter.target_s());
        self.broadcast.depth.set_upstream(told.deep);
        drop(state);
        if news {
            self.broadcast.changed();
        }
        Ok(())
    }

    /// How a track is now. Tracks are known by where they come from, so one that another node declares goes on here.
    pub fn declare(&mut self, declared: Declared) -> Result<Lane, MirrorError> {
        let Declared { name, kind, origin, sent, info, waiting } = declared;
        let mut state = self.lock()?;
        let mut news = false;
        let known = state.tracks.iter().find(|track| (track.kind(), track.origin()) == (kind, origin)).cloned();
        let track = known.unwrap_or_else(|| {
            let track = Track::new(name, kind, origin, self.broadcast.depth.clone());
            track.join(true);
            state.tracks.push(track.clone());
            news = true;
            track
        });
        let listed = state.layers.iter().any(|layer| Arc::ptr_eq(&layer.track, &track));
        if matches!(origin, Origin::Layer { .. }) && listed != sent {
            state.layers.retain(|layer| !Arc::ptr_eq(&layer.track, &track));
            if sent {
                state.layers.push(Layer::new(track.clone()));
            }
            news = true;
        }
        track.set_waiting(waiting);
        let old = track.info();
        let info = match (old, info) {
            (Some(old), Some(new)) if *old == new => Some(old),
            (_, Some(new)) => {
                let new = Arc::new(new);
                track.announce(new.clone());
                news = true;
                Some(new)
            }
            (old, None) => old,
        };
        drop(state);
        if news {
            self.broadcast.changed();
        }
        let at = self.lines.iter().position(|line| Arc::ptr_eq(&line.track, &track)).unwrap_or(self.lines.len());
        match self.lines.get_mut(at) {
            Some(line) => line.info = info,
            None => self.lines.push(Line::new(track)),
        }
        Ok(Lane(at))
    }

    /// Takes tracks that nobody would fill any more out of the choice: those that were made from the source, and that
    /// are not among these. Who reads one goes on waiting there until it chooses anew.
    pub fn keep_only(&mut self, declared: &[Lane]) -> Result<(), MirrorError> {
        let kept: Vec<_> = declared.iter().filter_map(|lane| self.lines.get(lane.0)).map(|line| &line.track).collect();
        let mut state = self.lock()?;
        let before = state.tracks.len();
        state.tracks.retain(|track| {
            !matches!(track.origin(), Origin::Derived { .. }) || kept.iter().any(|kept| Arc::ptr_eq(kept, track))
        });
        let news = state.tracks.len() != before;
        drop(state);
        if news {
            self.broadcast.changed();
        }
        Ok(())
    }

    pub fn track(&self, lane: Lane) -> &Arc<Track> {
        &self.lines[lane.0].track
    }

    /// What comes of this track from now on begins at the oldest keyframe that the other node has.
    pub fn begin_run(&mut self, lane: Lane, whole: bool) {
        let line = &mut self.lines[lane.0];
        line.unsure = true;
        line.track.join(!whole);
        line.track.set_backlog(true);
    }

    /// What comes of this track from now on has just been written.
    pub fn is_live(&mut self, lane: Lane) {
        self.lines[lane.0].track.set_backlog(false);
    }

    /// Puts a frame into the hall as it was minted elsewhere.
    pub fn append(&mut self, lane: Lane, gop: Arc<Gop>, sample: Sample, now_us: i64) -> Result<Copied, MirrorError> {
        let Self { broadcast, number, lines } = self;
        let line = &mut lines[lane.0];
        let Some(info) = line.info.clone() else { return Err(MirrorError::NoFormat(line.track.name().to_owned())) };
        let Sample { dts_us, pts_us, keyframe, payload } = sample;
        let frame = Frame { gop, dts_us, pts_us, keyframe, payload, info, rtp: RtpCache::default() };
        let mut state = write(broadcast, *number)?;
        if frame.gop.epoch > state.claimed_epoch {
            return Err(MirrorError::Untold { epoch: frame.gop.epoch });
        }
        state.last_write_us = now_us;
        if !line.takes(&frame) {
            return Ok(Copied::LeftOut);
        }
        state.minter.follow(&frame.gop);
        state.newest_us = state.newest_us.max(frame.dts_us);
        line.last = Some(frame.place());
        // Under the lock, so that nobody who was fenced off slips something in.
        line.track.append(Arc::new(frame));
        Ok(Copied::Kept)
    }

    /// Forgets the frames of a track that is not copied for now: a reader who comes later must not begin with them.
    pub fn clear(&mut self, lane: Lane) {
        let line = &mut self.lines[lane.0];
        line.last = None;
        line.unsure = true;
        line.track.clear();
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>, MirrorError> {
        write(&self.broadcast, self.number)
    }
}

fn write(broadcast: &Broadcast, number: u64) -> Result<MutexGuard<'_, State>, MirrorError> {
    let state = broadcast.lock();
    if state.hand == Hand::Copied(number) && !state.closed {
        Ok(state)
    } else {
        Err(MirrorError::Fenced(broadcast.id().clone()))
    }
}

impl Line {
    fn new(track: Arc<Track>) -> Self {
        Self { info: track.info(), last: track.newest().map(|newest| newest.place()), track, unsure: true }
    }

    fn takes(&mut self, frame: &Frame) -> bool {
        let place = frame.place();
        let Some(last) = self.last else {
            self.unsure &= !frame.keyframe;
            return frame.keyframe;
        };
        if !last.precedes(place) {
            // A conversion that was begun anew has other bytes at the same time: nothing of it fits to what is here.
            let is_newest = || self.track.newest().is_some_and(|newest| newest.payload == frame.payload);
            if !place.precedes(last) && is_newest() {
                self.unsure = false;
            }
            return false;
        }
        self.unsure |= place.epoch != last.epoch;
        self.unsure &= !frame.keyframe;
        !self.unsure
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if let Ok(mut state) = self.lock()
            && state.status == Status::Live
        {
            state.status = Status::Interrupted;
            drop(state);
            self.broadcast.changed();
        }
    }
}
