//! How a viewer's door comes to a broadcast, wherever that is published.
//!
//! In: its name. Out: the broadcast in this node's hall, or the moment somebody publishes it. A node that knows no other
//! one looks into its hub and that is all; an edge begins to copy what it finds elsewhere (`edge/source`). Deliberately
//! absent: both ways of finding, and doors.

use std::{pin::Pin, sync::Arc};

use crate::{
    live::{Broadcast, BroadcastId, Hub},
    waiting,
};

type Finding<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Cheap to clone.
#[derive(Clone)]
pub struct Finder {
    find: Arc<dyn Fn(BroadcastId) -> Finding<Option<Arc<Broadcast>>> + Send + Sync>,
    until_live: Arc<dyn Fn(BroadcastId) -> Finding<()> + Send + Sync>,
}

impl Finder {
    pub fn new<F, L>(
        find: impl Fn(BroadcastId) -> F + Send + Sync + 'static,
        until_live: impl Fn(BroadcastId) -> L + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Option<Arc<Broadcast>>> + Send + 'static,
        L: Future<Output = ()> + Send + 'static,
    {
        Self { find: Arc::new(move |id| Box::pin(find(id))), until_live: Arc::new(move |id| Box::pin(until_live(id))) }
    }

    /// Of a node that serves what is published on it.
    pub fn hub(hub: Arc<Hub>) -> Self {
        let held = hub.clone();
        let until_live = move |id: BroadcastId| {
            let hub = hub.clone();
            async move { waiting::until_live(&hub, &id).await }
        };
        Self::new(move |id| std::future::ready(held.get(&id)), until_live)
    }

    /// `None` soon where nobody publishes it and nobody did a moment ago.
    pub async fn find(&self, id: &BroadcastId) -> Option<Arc<Broadcast>> {
        (self.find)(id.clone()).await
    }

    /// Waits until somebody publishes it.
    pub async fn until_live(&self, id: &BroadcastId) {
        (self.until_live)(id.clone()).await;
    }
}
