//! The publisher's hold on a broadcast. In: samples as they came, and what they carry. Out: frames on the broadcast's clock,
//! in gops that were minted for them, until somebody else has claimed it. Deliberately absent: protocols.

use std::sync::{Arc, MutexGuard};

use super::{Broadcast, Layer, State, Status, kind_name};
use crate::{
    live::{Origin, Track, timeline::Placed},
    media::{Frame, Gop, Info, Kind, RtpCache, Sample},
};

/// The publisher's hold on a broadcast. Dropping it without [`Writer::finish`] leaves the broadcast interrupted.
#[derive(Debug)]
pub struct Writer {
    broadcast: Arc<Broadcast>,
    epoch: u64,
    finished: bool,
}

/// Why a publisher may not go on.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Fenced {
    #[error("broadcast was taken over by another publisher")]
    Replaced,
    #[error("broadcast was stopped by the operator")]
    Stopped,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Kept,
    /// Nothing that it could be decoded with precedes it, or its track was never announced.
    Dropped,
}

impl Writer {
    pub(super) fn new(broadcast: Arc<Broadcast>, epoch: u64) -> Self {
        Self { broadcast, epoch, finished: false }
    }

    pub fn broadcast(&self) -> &Arc<Broadcast> {
        &self.broadcast
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether its publisher may go on.
    pub fn check(&self) -> Result<(), Fenced> {
        self.lock().map(drop)
    }

    /// Says that there will be samples of this kind, before it is known what they carry: those of another kind wait for
    /// them for a moment.
    pub fn expect(&mut self, kind: Kind) -> Result<(), Fenced> {
        self.lock()?.minter.announce(kind);
        Ok(())
    }

    /// Says what the samples of this kind carry from now on. Must precede the first sample of its kind.
    pub fn announce(&mut self, info: Info) -> Result<(), Fenced> {
        let mut state = self.lock()?;
        let kind = info.kind();
        let known = state.source(kind);
        // That a B-frame was seen is news to outputs, but the stream goes on as before.
        let same_stream = state.minter.announced(kind)
            && known.as_ref().and_then(|track| track.info()).is_some_and(|old| same_stream(&old, &info));
        if !same_stream {
            state.minter.announce(kind);
        }
        let track = known.unwrap_or_else(|| {
            let track = Track::new(kind_name(kind).to_owned(), kind, Origin::Source, self.broadcast.depth.clone());
            state.tracks.push(track.clone());
            track
        });
        track.announce(Arc::new(info));
        drop(state);
        self.broadcast.changed();
        Ok(())
    }

    /// Says what the samples of one of several layers carry from now on. The best layer is written as the source too:
    /// outputs that take one picture read that.
    pub fn announce_layer(&mut self, index: u8, name: &str, info: Info) -> Result<(), Fenced> {
        let mut state = self.lock()?;
        let origin = Origin::Layer { index };
        let known = state.tracks.iter().find(|track| track.origin() == origin).cloned();
        let track = known.unwrap_or_else(|| {
            let track = Track::new(format!("video:{name}"), Kind::Video, origin, self.broadcast.depth.clone());
            state.tracks.push(track.clone());
            track
        });
        track.announce(Arc::new(info));
        if !state.layers.iter().any(|layer| Arc::ptr_eq(&layer.track, &track)) {
            state.layers.push(Layer::new(track));
        }
        drop(state);
        self.broadcast.changed();
        Ok(())
    }

    /// Puts one sample of a layer into the hall, into the gop that the source is in.
    pub fn write_layer(&mut self, index: u8, sample: Sample, now_us: i64) -> Result<Written, Fenced> {
        let born_us = self.broadcast.born_us;
        let mut guard = self.lock()?;
        let state = &mut *guard;
        state.last_write_us = now_us;
        let gop = state.minter.current().filter(|gop| gop.epoch == self.epoch).cloned();
        let layer = state.layers.iter_mut().find(|layer| layer.track.origin() == Origin::Layer { index });
        let (Some(gop), Some(layer)) = (gop, layer) else { return Ok(Written::Dropped) };
        let Some(info) = layer.track.info() else { return Ok(Written::Dropped) };
        let placed = state.timeline.place(&mut layer.cursor, sample.dts_us, sample.pts_us, now_us - born_us);
        layer.track.append(Arc::new(placed.frame(gop, sample, info)));
        Ok(Written::Kept)
    }

    /// Puts one sample of the publisher into the hall.
    pub fn write(&mut self, kind: Kind, sample: Sample, now_us: i64) -> Result<Written, Fenced> {
        let born_us = self.broadcast.born_us;
        let mut guard = self.lock()?;
        let state = &mut *guard;
        state.last_write_us = now_us;
        let Some(track) = state.source(kind).filter(|_| state.minter.announced(kind)) else {
            state.dropped += 1;
            return Ok(Written::Dropped);
        };
        let Some(info) = track.info() else {
            state.dropped += 1;
            return Ok(Written::Dropped);
        };
        let cursor = match kind {
            Kind::Video => &mut state.video,
            Kind::Audio => &mut state.audio,
        };
        let placed = state.timeline.place(cursor, sample.dts_us, sample.pts_us, now_us - born_us);
        if placed.jumped {
            state.minter.jumped();
        }
        let target_was_known = state.minter.target_s().is_some();
        let Some(gop) = state.minter.mint(kind, placed.dts_us, sample.keyframe) else {
            state.dropped += 1;
            return Ok(Written::Dropped);
        };
        state.newest_us = state.newest_us.max(placed.dts_us);
        let target_is_new = !target_was_known && state.minter.target_s().is_some();
        if target_is_new {
            self.broadcast.depth.set_target_s(state.minter.target_s());
        }
        // Appended under the lock: an older epoch's frame must not slip in after a takeover.
        track.append(Arc::new(placed.frame(gop, sample, info)));
        drop(guard);
        if target_is_new {
            self.broadcast.changed();
        }
        Ok(Written::Kept)
    }

    /// The publisher said that it is done.
    pub fn finish(mut self, now_us: i64) {
        self.finished = true;
        self.broadcast.end(self.epoch, now_us, Status::Ended);
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>, Fenced> {
        let state = self.broadcast.lock();
        match state.turned_away {
            _ if state.epoch != self.epoch => Err(Fenced::Replaced),
            Some(why) => Err(why),
            None if state.status == Status::Live => Ok(state),
            None => Err(Fenced::Replaced),
        }
    }
}

impl Broadcast {
    /// Ends what is published here under this claim. False when that does not hold the broadcast any more.
    pub(in crate::live) fn turn_away(&self, held: u64, why: Fenced, now_us: i64) -> bool {
        let mut state = self.lock();
        if state.claimed_epoch != held || state.status == Status::Ended {
            return false;
        }
        state.status = Status::Ended;
        state.turned_away = Some(why);
        state.last_write_us = now_us.max(state.last_write_us);
        drop(state);
        self.changed();
        true
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            self.broadcast.end(self.epoch, i64::MIN, Status::Interrupted);
        }
    }
}

impl Placed {
    fn frame(self, gop: Arc<Gop>, sample: Sample, info: Arc<Info>) -> Frame {
        let Sample { keyframe, payload, .. } = sample;
        Frame { gop, dts_us: self.dts_us, pts_us: self.pts_us, keyframe, payload, info, rtp: RtpCache::default() }
    }
}

fn same_stream(old: &Info, new: &Info) -> bool {
    old.codec == new.codec && old.config == new.config
}
