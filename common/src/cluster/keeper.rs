//! Whom to call: the origins named in the settings, whatever addresses their names stand for at the moment, those that
//! others told of, and those that the registry knows. One caller for each address; those whose origin has gone are ended.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    net::lookup_host,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Shared, facts::Health, link};
use crate::node::Role;

/// How often names are looked up: autoscaling changes what they stand for.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);
const LOOK_UP_WITHIN: Duration = Duration::from_secs(3);

/// Ends with its owner.
struct Caller(JoinHandle<()>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs until it is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut callers: HashMap<SocketAddr, Caller> = HashMap::new();
    let mut addresses: HashMap<String, Vec<SocketAddr>> = HashMap::new();
    let mut version = shared.version.subscribe();
    let mut turn = interval(LOOK_UP_EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let names_are_old = tokio::select! {
            _ = turn.tick() => true,
            _ = version.changed() => false,
        };
        let places = places(&shared);
        addresses.retain(|place, _| places.contains(place));
        let unknown = places.into_iter().filter(|place| names_are_old || !addresses.contains_key(place));
        for (place, found) in look_up(unknown).await {
            if !found.is_empty() || !addresses.contains_key(&place) {
                addresses.insert(place, found);
            }
        }
        let wanted: BTreeSet<SocketAddr> = addresses.values().flatten().copied().collect();
        callers.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let shared = &shared;
            callers.entry(address).or_insert_with(|| Caller(tokio::spawn(link::keep(address, shared.clone()))));
        }
        shared.forget_routes();
    }
}

/// host:port of every origin that may be there, but for this node.
fn places(shared: &Shared) -> BTreeSet<String> {
    let view = shared.view();
    let origins = view.nodes().filter(|(facts, health)| facts.role == Role::Origin && *health != Health::Left);
    let told = origins.map(|(facts, _)| facts.grpc.clone());
    let learnt = shared.learnt.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut places: BTreeSet<String> = shared.seeds.iter().cloned().chain(told).chain(learnt).collect();
    places.remove(&view.me().grpc);
    places
}

async fn look_up(places: impl Iterator<Item = String>) -> Vec<(String, Vec<SocketAddr>)> {
    let mut lookups = JoinSet::new();
    for place in places {
        lookups.spawn(async move {
            let found = match timeout(LOOK_UP_WITHIN, lookup_host(&place)).await {
                Ok(Ok(found)) => found.collect(),
                Ok(Err(error)) => {
                    tracing::debug!(place, %error, "no address for this name");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            };
            (place, found)
        });
    }
    lookups.join_all().await
}
