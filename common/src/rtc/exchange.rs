//! Who hears what is said about a broadcast, on which shard.
//!
//! In: messages; sessions as their data channel opens and closes; corridors to other nodes. Out: letters to the shards
//! where somebody listens, and into the corridors.
//! Deliberately absent: what is in a message, and keeping any: who comes later has missed it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    budget::{Allowance, Rate},
    corridor::{Mouth, Side},
    inbox::Inbox,
    roster::{Card, Role, SessionId},
};
use crate::{live::BroadcastId, telemetry::Door};

/// What all viewers of a broadcast say together: as much as a publisher. Else a crowd, each member of which keeps to its
/// own rate, would make a flood by the square of its number.
const VIEWERS_TOGETHER: Rate = Rate { messages_per_s: 200, bytes_per_s: 256 * 1024 };

/// Who hears what a viewer says on its data channel. What a publisher says goes to every viewer in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// The publisher and all other viewers.
    #[default]
    All,
    Publisher,
    None,
}

/// Who is to hear something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Everybody,
    Viewers,
    Publisher,
}

/// Does not hear itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// This node itself, or whoever asked it to by REST.
    Node,
    Session(SessionId),
    Corridor(u64),
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) broadcast: BroadcastId,
    pub(super) from: Speaker,
    pub(super) to: To,
    pub(super) binary: bool,
    pub(super) data: Bytes,
}

impl Message {
    pub(super) fn is_for(&self, card: &Card) -> bool {
        let role = match self.to {
            To::Everybody => true,
            To::Viewers => card.role == Role::Viewer,
            To::Publisher => card.role == Role::Publisher,
        };
        role && !matches!(&self.from, Speaker::Session(id) if *id == card.id)
    }
}

/// What all shards share of it.
pub(super) struct Exchange {
    pub(super) door: Door,
    inboxes: Vec<Arc<Inbox>>,
    /// By application.
    distribution: BTreeMap<String, Distribution>,
    circles: Mutex<HashMap<BroadcastId, Circle>>,
    corridors: AtomicU64,
}

/// Those of one broadcast who have a data channel.
struct Circle {
    /// Where they live.
    shards: Vec<usize>,
    /// To those on other nodes.
    corridors: Vec<Mouth>,
    viewers: Allowance,
}

impl Default for Circle {
    fn default() -> Self {
        Self { shards: Vec::new(), corridors: Vec::new(), viewers: Allowance::new(VIEWERS_TOGETHER) }
    }
}

impl Exchange {
    pub(super) fn new(door: Door, inboxes: Vec<Arc<Inbox>>, distribution: BTreeMap<String, Distribution>) -> Self {
        Self { door, inboxes, distribution, circles: Mutex::default(), corridors: AtomicU64::default() }
    }

    /// Who hears a peer, if anybody.
    pub(super) fn audience(&self, broadcast: &BroadcastId, role: Role) -> Option<To> {
        let distribution = self.distribution.get(broadcast.app()).copied().unwrap_or_default();
        match (role, distribution) {
            (Role::Publisher, _) => Some(To::Viewers),
            (Role::Viewer, Distribution::All) => Some(To::Everybody),
            (Role::Viewer, Distribution::Publisher) => Some(To::Publisher),
            (Role::Viewer, Distribution::None) => None,
        }
    }

    /// `false` if all viewers of the broadcast have said too much together.
    pub(super) fn grants(&self, broadcast: &BroadcastId, bytes: usize, now: Instant) -> bool {
        self.lock().get_mut(broadcast).is_none_or(|circle| circle.viewers.take(bytes, now))
    }

    pub(super) fn pass(&self, message: Message) {
        let circles = self.lock();
        let Some(circle) = circles.get(&message.broadcast) else { return };
        let message = Arc::new(message);
        for inbox in circle.shards.iter().filter_map(|&shard| self.inboxes.get(shard)) {
            if !inbox.message(message.clone()) {
                self.door.dropped.inc();
            }
        }
        for mouth in &circle.corridors {
            if mouth.hears(&message) && !mouth.tell(message.clone()) {
                self.door.dropped.inc();
            }
        }
    }

    pub(super) fn open(&self, broadcast: &BroadcastId, side: Side) -> (u64, mpsc::Receiver<Arc<Message>>) {
        let number = self.corridors.fetch_add(1, Relaxed);
        let (mouth, ear) = Mouth::new(number, side);
        self.lock().entry(broadcast.clone()).or_default().corridors.push(mouth);
        (number, ear)
    }

    pub(super) fn shut(&self, broadcast: &BroadcastId, number: u64) {
        self.change(broadcast, |circle| circle.corridors.retain(|mouth| mouth.number != number));
    }

    /// A circle that nobody is left in is forgotten.
    fn change(&self, broadcast: &BroadcastId, change: impl FnOnce(&mut Circle)) {
        let mut circles = self.lock();
        let Some(circle) = circles.get_mut(broadcast) else { return };
        change(circle);
        if circle.shards.is_empty() && circle.corridors.is_empty() {
            circles.remove(broadcast);
        }
    }

    #[cfg(test)]
    pub(super) fn has_circles_for_test(&self) -> bool {
        !self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BroadcastId, Circle>> {
        self.circles.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Those on one shard who have a data channel.
pub(super) struct Listeners {
    shard: usize,
    exchange: Arc<Exchange>,
    by_broadcast: HashMap<BroadcastId, Vec<usize>>,
}

impl Listeners {
    pub(super) fn new(shard: usize, exchange: Arc<Exchange>) -> Self {
        Self { shard, exchange, by_broadcast: HashMap::new() }
    }

    pub(super) fn of(&self, broadcast: &BroadcastId) -> Vec<usize> {
        self.by_broadcast.get(broadcast).cloned().unwrap_or_default()
    }

    pub(super) fn join(&mut self, broadcast: &BroadcastId, key: usize) {
        let keys = self.by_broadcast.entry(broadcast.clone()).or_default();
        keys.push(key);
        if keys.len() == 1 {
            self.exchange.lock().entry(broadcast.clone()).or_default().shards.push(self.shard);
        }
    }

    pub(super) fn leave(&mut self, broadcast: &BroadcastId, key: usize) {
        let Some(keys) = self.by_broadcast.get_mut(broadcast) else { return };
        keys.retain(|listener| *listener != key);
        if !keys.is_empty() {
            return;
        }
        self.by_broadcast.remove(broadcast);
        self.exchange.change(broadcast, |circle| circle.shards.retain(|shard| *shard != self.shard));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::Telemetry;

    fn exchange(shards: usize) -> Arc<Exchange> {
        let inboxes = (0..shards).map(|_| Arc::default()).collect();
        let distribution = BTreeMap::from([("quiet".to_owned(), Distribution::None)]);
        Arc::new(Exchange::new(Telemetry::new().door("data"), inboxes, distribution))
    }

    fn id(stream: &str) -> BroadcastId {
        BroadcastId::new("live", stream).unwrap()
    }

    fn message(stream: &str, bytes: usize) -> Message {
        let data = vec![7; bytes].into();
        Message { broadcast: id(stream), from: Speaker::Node, to: To::Everybody, binary: true, data }
    }

    #[test]
    fn letters_go_where_somebody_listens() {
        let exchange = exchange(3);
        let mut shards: Vec<Listeners> = (0..3).map(|shard| Listeners::new(shard, exchange.clone())).collect();
        shards[0].join(&id("a"), 4);
        shards[0].join(&id("a"), 5);
        shards[2].join(&id("b"), 4);
        let arrived = |shard: usize| exchange.inboxes[shard].messages().len();
        exchange.pass(message("a", 1));
        assert_eq!([0, 1, 2].map(arrived), [1, 0, 0]);
        shards[0].leave(&id("a"), 4);
        exchange.pass(message("a", 1));
        exchange.pass(message("b", 1));
        assert_eq!([0, 1, 2].map(arrived), [1, 0, 1]);
        shards[0].leave(&id("a"), 5);
        exchange.pass(message("a", 1));
        assert_eq!([0, 1, 2].map(arrived), [0, 0, 0]);
        shards[2].leave(&id("b"), 4);
        assert!(exchange.lock().is_empty());
    }

    #[test]
    fn a_full_inbox_drops_and_counts() {
        let exchange = exchange(1);
        let mut listeners = Listeners::new(0, exchange.clone());
        listeners.join(&id("a"), 1);
        listeners.join(&id("b"), 2);
        (0..300).for_each(|_| exchange.pass(message("a", 64 * 1024)));
        assert_eq!(exchange.door.dropped.get(), 300 - 256);
        exchange.pass(message("b", 1));
        assert_eq!(exchange.door.dropped.get(), 301 - 256);
        // Room again.
        assert_eq!(exchange.inboxes[0].messages().len(), 32);
        exchange.pass(message("b", 1));
        assert_eq!(exchange.door.dropped.get(), 301 - 256);
        let mut left = 0;
        while let messages @ [_, ..] = &exchange.inboxes[0].messages()[..] {
            assert!(messages.iter().all(|message| message.broadcast == messages[0].broadcast));
            left += messages.len();
        }
        assert_eq!(left, 256 - 32 + 1);
    }

    #[test]
    fn viewers_together_say_no_more_than_a_publisher() {
        let exchange = exchange(1);
        let mut listeners = Listeners::new(0, exchange.clone());
        listeners.join(&id("a"), 1);
        listeners.join(&id("b"), 2);
        let now = Instant::now();
        let granted = (0..5_000).filter(|_| exchange.grants(&id("a"), 10, now)).count();
        assert_eq!(granted, 1_000);
        assert!(exchange.grants(&id("b"), 10, now), "each broadcast for itself");
        assert!(exchange.grants(&id("a"), 10, now + Duration::from_millis(5)));
    }

    #[test]
    fn applications_choose_who_hears_viewers() {
        let exchange = exchange(1);
        assert_eq!(exchange.audience(&id("a"), Role::Viewer), Some(To::Everybody));
        let quiet = BroadcastId::new("quiet", "a").unwrap();
        assert_eq!(exchange.audience(&quiet, Role::Viewer), None);
        assert_eq!(exchange.audience(&quiet, Role::Publisher), Some(To::Viewers));
    }
}
