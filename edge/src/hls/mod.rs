//! Low-latency HLS, cut in memory. In: frames from the hall. Out: playlists, parts and segments over HTTP, to players
//! old and new from the same playlist. Deliberately absent: files, transcoding, several renditions, access control.
//!
//! ```text
//! hall ─► packager ─► cutter ─► mux ─► window ─► playlist, pieces ─► http
//!         (a task per broadcast)       (on the shelf)
//! ```
//!
//! A packager starts with the first request for a broadcast and serves all of them. Everything a player is told is
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
mod range;
mod shelf;
mod viewers;
mod window;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::RandomState,
    sync::{Arc, Mutex, MutexGuard},
};

use headwater_common::{
    live::{BroadcastId, Hub},
    node::Node,
    telemetry::{Door, Telemetry},
};

pub use http::router;
use packager::Packager;
use shelf::Shelf;

/// The broadcasts that are watched by HLS on this node.
pub struct Hls {
    hub: Arc<Hub>,
    node: Node,
    door: Door,
    shelves: Mutex<HashMap<BroadcastId, Arc<Shelf>>>,
    hasher: RandomState,
}

impl Hls {
    pub fn new(hub: Arc<Hub>, node: Node, telemetry: &Telemetry) -> Arc<Self> {
        Arc::new(Self { hub, node, door: telemetry.door("hls"), shelves: Mutex::default(), hasher: RandomState::new() })
    }

    /// About how many players followed this broadcast in the last seconds.
    pub fn viewers(&self, id: &BroadcastId) -> usize {
        let shelf = self.lock().get(id).cloned();
        shelf.map_or(0, |shelf| shelf.viewers())
    }

    /// The same of all broadcasts.
    pub fn all_viewers(&self) -> usize {
        let shelves: Vec<_> = self.lock().values().cloned().collect();
        shelves.iter().map(|shelf| shelf.viewers()).sum()
    }

    /// Whether this player followed this broadcast in the last seconds.
    fn knows(&self, id: &BroadcastId, viewer: u64) -> bool {
        let shelf = self.lock().get(id).cloned();
        shelf.is_some_and(|shelf| shelf.knows(viewer))
    }

    /// The shelf of a broadcast that the hub holds, filled by a packager from now on.
    fn shelf(self: &Arc<Self>, id: &BroadcastId) -> Option<Arc<Shelf>> {
        let broadcast = self.hub.get(id)?;
        let mut shelves = self.lock();
        let known = shelves.get(id).filter(|shelf| !shelf.closed() && Arc::ptr_eq(shelf.broadcast(), &broadcast));
        if let Some(shelf) = known {
            shelf.touch();
            return Some(shelf.clone());
        }
        let shelf = Shelf::new(broadcast);
        shelves.insert(id.clone(), shelf.clone());
        drop(shelves);
        tokio::spawn(self.clone().package(shelf.clone()));
        Some(shelf)
    }

    /// A panic ends one broadcast's HLS, and the next request starts it anew.
    async fn package(self: Arc<Self>, shelf: Arc<Shelf>) {
        let id = shelf.broadcast().id().clone();
        tracing::debug!(broadcast = %id, "hls begins");
        let packager = Packager::new(self.hub.clone(), shelf.clone(), self.door.clone());
        if let Err(error) = tokio::spawn(packager.run()).await {
            self.door.errors.inc();
            tracing::error!(broadcast = %id, %error, "hls packager failed");
        }
        shelf.close();
        let mut shelves = self.lock();
        if shelves.get(&id).is_some_and(|known| Arc::ptr_eq(known, &shelf)) {
            shelves.remove(&id);
        }
        drop(shelves);
        tracing::debug!(broadcast = %id, "hls ends");
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BroadcastId, Arc<Shelf>>> {
        self.shelves.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
