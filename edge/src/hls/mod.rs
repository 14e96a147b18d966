//! Low-latency HLS, cut in memory. In: frames from the hall. Out: playlists, parts and segments over HTTP, to players
//! old and new from the same playlist. Deliberately absent: files, transcoding, access control.
//!
//! ```text
//! hall ─► packager ─► cutter ─► mux ─► window ─► playlist, pieces ─► http
//!         (a task per quality)         (on the shelf)
//! ```
//!
//! A packager starts with the first request for a quality of a broadcast and serves all of them. All qualities are cut
//! alike, so that a player can go from one to another at any segment. Everything a player is told is
//! derived from what was minted where the broadcast entered the cluster: any edge can answer any request.

mod chunks;
mod cutter;
mod http;
#[doc(hidden)]
pub mod lint;
mod mux;
mod name;
mod packager;
mod playlist;
mod qualities;
mod range;
mod shelf;
mod variant;
mod viewers;
mod window;

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod ladder_tests;
#[cfg(test)]
mod takeover_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    hash::RandomState,
    sync::{Arc, Mutex, MutexGuard},
};

use headwater_common::{
    finder::Finder,
    live::{Broadcast, BroadcastId},
    node::Node,
    telemetry::{Door, Telemetry},
};

pub use http::router;
use packager::Packager;
use playlist::Report;
use shelf::Shelf;
use variant::Variant;

/// The broadcasts that are watched by HLS on this node.
pub struct Hls {
    finder: Finder,
    node: Node,
    door: Door,
    /// Of each broadcast those qualities that somebody asks for.
    shelves: Mutex<HashMap<BroadcastId, Vec<Arc<Shelf>>>>,
    hasher: RandomState,
}

impl Hls {
    pub fn new(finder: Finder, node: Node, telemetry: &Telemetry) -> Arc<Self> {
        let (door, shelves, hasher) = (telemetry.door("hls"), Mutex::default(), RandomState::new());
        Arc::new(Self { finder, node, door, shelves, hasher })
    }

    /// About how many players followed this broadcast in the last seconds.
    pub fn viewers(&self, id: &BroadcastId) -> usize {
        let shelves = self.lock().get(id).cloned().unwrap_or_default();
        let mut seen = HashSet::new();
        shelves.iter().for_each(|shelf| shelf.viewers(&mut seen));
        seen.len()
    }

    /// The same of all broadcasts.
    pub fn all_viewers(&self) -> usize {
        let ids: Vec<_> = self.lock().keys().cloned().collect();
        ids.iter().map(|id| self.viewers(id)).sum()
    }

    /// Whether this player followed this broadcast in the last seconds, in whatever quality.
    fn knows(&self, id: &BroadcastId, viewer: u64) -> bool {
        let shelves = self.lock().get(id).cloned().unwrap_or_default();
        shelves.iter().any(|shelf| shelf.knows(viewer))
    }

    /// The shelf of a quality of a broadcast, filled by a packager from now on.
    fn shelf(self: &Arc<Self>, broadcast: Arc<Broadcast>, variant: Variant) -> Arc<Shelf> {
        let mut shelves = self.lock();
        let known = shelves.entry(broadcast.id().clone()).or_default();
        known.retain(|shelf| !shelf.closed() && Arc::ptr_eq(shelf.broadcast(), &broadcast));
        if let Some(shelf) = known.iter().find(|shelf| shelf.variant() == variant) {
            shelf.touch();
            return shelf.clone();
        }
        let shelf = Shelf::new(broadcast, variant);
        known.push(shelf.clone());
        drop(shelves);
        tokio::spawn(self.clone().package(shelf.clone()));
        shelf
    }

    /// Where the other qualities of a broadcast are.
    fn reports(&self, shelf: &Shelf) -> Vec<Report> {
        let shelves = self.lock().get(shelf.broadcast().id()).cloned().unwrap_or_default();
        let others = Variant::all(shelf.broadcast()).into_iter().filter(|variant| *variant != shelf.variant());
        let last = |variant| shelves.iter().find(|shelf| shelf.variant() == variant)?.last_part();
        others.map(|variant| Report { variant, last: last(variant) }).collect()
    }

    /// A panic ends one broadcast's HLS, and the next request starts it anew.
    async fn package(self: Arc<Self>, shelf: Arc<Shelf>) {
        let id = shelf.broadcast().id().clone();
        tracing::debug!(broadcast = %id, variant = ?shelf.variant(), "hls begins");
        let packager = Packager::new(shelf.clone(), self.door.clone());
        if let Err(error) = tokio::spawn(packager.run()).await {
            self.door.errors.inc();
            tracing::error!(broadcast = %id, %error, "hls packager failed");
        }
        shelf.close();
        let mut shelves = self.lock();
        if let Some(known) = shelves.get_mut(&id) {
            known.retain(|known| !Arc::ptr_eq(known, &shelf));
            if known.is_empty() {
                shelves.remove(&id);
            }
        }
        drop(shelves);
        tracing::debug!(broadcast = %id, variant = ?shelf.variant(), "hls ends");
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BroadcastId, Vec<Arc<Shelf>>>> {
        self.shelves.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
