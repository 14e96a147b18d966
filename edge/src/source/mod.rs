//! Where a viewer's broadcast comes from when it is published on another node: it is pulled from there, once for
//! everybody who watches here.
//!
//! In: names that viewers ask for, and where each of them lives (whoever starts this says how that is found out). Out: a
//! broadcast in this node's hub that goes on whatever becomes of the node it came from. A pull begins with the first
//! who asks and ends a while after the last one has gone. `pull` decides from whom to pull and when to begin anew, `talk` is
//! one conversation with one node, `stream` puts into the hub what is told in it, `demand` says what is read here.
//! Deliberately absent: a database, and a word to other edges.

mod demand;
mod loss;
mod pull;
mod rack;
mod stream;
mod talk;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak, atomic::AtomicI64},
    time::Duration,
};

use headwater_common::{
    clock,
    cluster::{Upstream, identity::NodeId},
    finder::Finder,
    live::{Broadcast, BroadcastId, Hub, Status},
    rtc::Engine,
    telemetry::{Door, Telemetry},
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::watch, time::MissedTickBehavior};

use pull::Pull;

/// Tells where a broadcast lives, at once and whenever that changes. `None`: nobody publishes it, as far as is known.
pub type Find = Arc<dyn Fn(&BroadcastId) -> watch::Receiver<Option<Upstream>> + Send + Sync>;

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Who waits for a broadcast that is known and could not be had tries again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What is pulled here. Cheap to clone.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    hub: Arc<Hub>,
    engine: Engine,
    /// Of this node.
    name: NodeId,
    find: Find,
    door: Door,
    upstreams: Gauge<i64, AtomicI64>,
    pulls: Mutex<HashMap<BroadcastId, Arc<Pull>>>,
}

impl Source {
    /// `hub` is this node's, and nobody publishes in it.
    pub fn start(hub: Arc<Hub>, engine: Engine, name: NodeId, find: Find, telemetry: &Telemetry) -> Self {
        let upstreams = Gauge::<i64, AtomicI64>::default();
        let help = "Broadcasts that are pulled from other nodes now";
        telemetry.register(|registry| registry.register("relay_upstreams", help, upstreams.clone()));
        let door = telemetry.door("pull");
        let inner = Arc::new(Inner { hub, engine, name, find, door, upstreams, pulls: Mutex::default() });
        tokio::spawn(sweep(Arc::downgrade(&inner)));
        Self(inner)
    }

    /// For the doors of viewers.
    pub fn finder(&self) -> Finder {
        let (source, other) = (self.clone(), self.clone());
        let find = move |id: BroadcastId| {
            let source = source.clone();
            async move { source.find(&id).await }
        };
        let until_live = move |id: BroadcastId| {
            let source = other.clone();
            async move { source.until_live(&id).await }
        };
        Finder::new(find, until_live)
    }

    /// The broadcast as it is here, pulled from now on if it was not.
    pub async fn find(&self, id: &BroadcastId) -> Option<Arc<Broadcast>> {
        let pull = self.pull(id)?;
        pull.found().await
    }

    /// Waits until somebody publishes it.
    pub async fn until_live(&self, id: &BroadcastId) {
        let mut upstream = (self.0.find)(id);
        loop {
            let lives = upstream.borrow_and_update().is_some();
            let Some(broadcast) = self.find(id).await else {
                tokio::select! {
                    () = changed(&mut upstream) => {}
                    () = tokio::time::sleep(ASK_AGAIN), if lives => {}
                }
                continue;
            };
            let mut news = broadcast.watch();
            if broadcast.status() != Status::Ended {
                return;
            }
            // It lingers, and goes on when somebody comes back to it; or another one takes its place.
            tokio::select! {
                () = changed(&mut upstream) => {}
                _ = news.changed() => {}
            }
        }
    }

    /// `None` if there is nobody to pull it from.
    fn pull(&self, id: &BroadcastId) -> Option<Arc<Pull>> {
        let mut pulls = self.0.lock();
        if let Some(pull) = pulls.get(id) {
            pull.touch();
            return Some(pull.clone());
        }
        let upstream = (self.0.find)(id);
        upstream.borrow().as_ref()?;
        let pull = Arc::new(Pull::new(id.clone()));
        pulls.insert(id.clone(), pull.clone());
        drop(pulls);
        tokio::spawn(attend(self.0.clone(), pull.clone(), upstream));
        Some(pull)
    }
}

impl Inner {
    /// Ends a pull, unless somebody has asked for the broadcast since it was found that nobody wants it.
    fn end(&self, pull: &Arc<Pull>, unwanted: bool) -> bool {
        let mut pulls = self.lock();
        if unwanted && !pull.is_idle() {
            return false;
        }
        if pulls.get(pull.id()).is_some_and(|known| Arc::ptr_eq(known, pull)) {
            pulls.remove(pull.id());
        }
        // In the same lock: who asks next begins anew, and must not find this one's broadcast.
        if let Some(broadcast) = pull.end() {
            self.hub.forget_mirror(&broadcast);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BroadcastId, Arc<Pull>>> {
        self.pulls.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A bug ends one pull; who asks next begins another one.
async fn attend(inner: Arc<Inner>, pull: Arc<Pull>, upstream: watch::Receiver<Option<Upstream>>) {
    inner.upstreams.inc();
    if let Err(error) = tokio::spawn(pull::run(inner.clone(), pull.clone(), upstream)).await {
        inner.door.errors.inc();
        tracing::error!(broadcast = %pull.id(), %error, "pull ended by a bug");
    }
    inner.end(&pull, false);
    inner.upstreams.dec();
}

/// What was interrupted for too long is over, and what ended long ago is forgotten, here as on the node it came from.
async fn sweep(inner: Weak<Inner>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        inner.hub.sweep(clock::now_us());
    }
}

/// Pending for ever where nobody tells any more, because this node is about to stop.
async fn changed(upstream: &mut watch::Receiver<Option<Upstream>>) {
    if upstream.changed().await.is_err() {
        std::future::pending().await
    }
}
