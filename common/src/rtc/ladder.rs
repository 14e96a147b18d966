//! The pictures of one broadcast that viewers can choose from, as a shard sees them: what each takes, and whether it can
//! be had.
//!
//! In: the tracks that a publisher sends side by side, or the source and what is made of it, again and again. Out: those
//! that can be chosen from. Deliberately absent: choosing, and the viewers.
//!
//! What is made on demand takes nothing while nobody reads it, and begins when somebody does: that it stands still says
//! nothing about its life.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::layers::Layer;
use crate::{
    live::{Origin, Track},
    media::{Conversion, Delivery, Shape},
};

/// Rates are measured over this long, and smoothed over some of it: a keyframe must not look like another layer.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
const WEIGHT_OF_NEWEST: f64 = 0.3;
/// A layer without a frame for so long, while others have some, is dead. Browsers stop sending the largest when their own
/// network is too slow.
const SILENT: Duration = Duration::from_millis(700);
/// A rendition never takes more than this part of what its source takes, nor a copy in full size more than this.
const RENDITION_PER_SOURCE: f64 = 0.9;
const COPY_PER_SOURCE: f64 = 1.25;

#[derive(Debug, Default)]
pub(super) struct Ladder {
    rungs: Vec<Rung>,
    known: u32,
}

#[derive(Debug)]
struct Rung {
    id: u32,
    track: Arc<Track>,
    height: u32,
    bits_per_s: f64,
    /// Where its counters stood when they were looked at last.
    bytes: u64,
    measured: Instant,
    frames: u64,
    moved: Instant,
}

impl Ladder {
    pub(super) fn look_at(&mut self, tracks: Vec<Arc<Track>>, now: Instant) {
        self.rungs.retain(|rung| tracks.iter().any(|track| Arc::ptr_eq(track, &rung.track)));
        for track in tracks {
            if let Some(rung) = self.rungs.iter_mut().find(|rung| Arc::ptr_eq(&rung.track, &track)) {
                rung.measure(now);
            } else {
                self.known += 1;
                self.rungs.push(Rung::new(self.known, track, now));
            }
        }
        let source = self.rungs.iter().find(|rung| rung.track.origin() == Origin::Source);
        if let Some((height, bits_per_s)) = source.map(|source| (source.height, source.bits_per_s)) {
            self.rungs.iter_mut().for_each(|rung| rung.foresee(height, bits_per_s));
        }
    }

    /// Whether there is something to choose from, were all of it alive.
    pub(super) fn is_choice(&self) -> bool {
        self.rungs.len() > 1
    }

    /// Those that live, and that a viewer can be sent as they are.
    pub(super) fn layers(&self, delivery: Delivery) -> Vec<Layer<u32>> {
        let suits = |rung: &Rung| match rung.made() {
            Some(conversion) => delivery.takes(conversion.target()),
            None => rung.track.info().is_some_and(|info| info.obstacle(delivery).is_none()),
        };
        // Who takes the source as it is needs no copy of it.
        let passes = self.rungs.iter().any(|rung| rung.track.origin() == Origin::Source && suits(rung));
        let chosen = |rung: &&Rung| self.has_life(rung) && suits(rung) && !(passes && rung.is_copy());
        self.rungs.iter().filter(chosen).map(Rung::layer).collect()
    }

    /// Whether a track lives. `None` if it is no layer.
    pub(super) fn lives(&self, track: &Arc<Track>) -> Option<bool> {
        self.rung_of(track).map(|rung| self.has_life(rung))
    }

    pub(super) fn layer_of(&self, track: &Arc<Track>) -> Option<Layer<u32>> {
        self.rung_of(track).map(Rung::layer)
    }

    fn has_life(&self, rung: &Rung) -> bool {
        if rung.made().is_some() {
            return !rung.track.waiting();
        }
        let newest = self.rungs.iter().map(|rung| rung.moved).max();
        rung.bits_per_s >= 1.0 && newest.is_some_and(|newest| newest - rung.moved < SILENT)
    }

    fn rung_of(&self, track: &Arc<Track>) -> Option<&Rung> {
        self.rungs.iter().find(|rung| Arc::ptr_eq(&rung.track, track))
    }

    pub(super) fn track(&self, id: u32) -> Option<&Arc<Track>> {
        self.rungs.iter().find(|rung| rung.id == id).map(|rung| &rung.track)
    }
}

impl Rung {
    fn new(id: u32, track: Arc<Track>, now: Instant) -> Self {
        let stats = track.stats();
        Self {
            id,
            height: height(&track),
            track,
            bits_per_s: stats.bits_per_second as f64,
            bytes: stats.bytes,
            measured: now,
            frames: stats.frames,
            moved: now,
        }
    }

    fn made(&self) -> Option<Conversion> {
        match self.track.origin() {
            Origin::Derived { conversion } => Some(conversion),
            Origin::Source | Origin::Layer { .. } => None,
        }
    }

    /// The source in its own size, for those who do not take it as it is.
    fn is_copy(&self) -> bool {
        self.made().is_some_and(|conversion| !matches!(conversion, Conversion::Rendition(_)))
    }

    /// What a track that rests will be, as far as its source tells.
    fn foresee(&mut self, source_height: u32, source_bits_per_s: f64) {
        let most = match self.made() {
            None => return,
            Some(Conversion::Rendition(rendition)) => {
                (source_bits_per_s * RENDITION_PER_SOURCE).min(f64::from(rendition.video_kbps) * 1_000.0)
            }
            Some(_) => source_bits_per_s * COPY_PER_SOURCE,
        };
        if self.is_copy() && self.height == 0 {
            self.height = source_height;
        }
        if self.bits_per_s < 1.0 || self.track.readers() == 0 {
            self.bits_per_s = most;
        }
    }

    fn layer(&self) -> Layer<u32> {
        Layer { id: self.id, height: self.height, bits_per_s: self.bits_per_s as u64 }
    }

    fn measure(&mut self, now: Instant) {
        let stats = self.track.stats();
        if stats.frames != self.frames {
            (self.frames, self.moved) = (stats.frames, now);
        }
        let elapsed = now.saturating_duration_since(self.measured);
        if elapsed < MEASURE_EVERY {
            return;
        }
        let newest = (stats.bytes - self.bytes) as f64 * 8.0 / elapsed.as_secs_f64();
        // What stands still says nothing about what it takes when it moves.
        if stats.bytes != self.bytes {
            let weight = if self.bits_per_s < 1.0 { 1.0 } else { WEIGHT_OF_NEWEST };
            self.bits_per_s += (newest - self.bits_per_s) * weight;
        }
        (self.bytes, self.measured) = (stats.bytes, now);
        self.height = height(&self.track);
    }
}

fn height(track: &Track) -> u32 {
    match track.info().map(|info| info.shape) {
        Some(Shape::Video { height, .. }) => height,
        _ => 0,
    }
}
