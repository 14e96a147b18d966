//! What an operator can see: the same four counters at every door, and whatever a room adds to the registry.
//!
//! In: increments. Out: the Prometheus text of `/metrics`. Deliberately absent: labels per viewer (they would grow
//! without bound) and any number that has to be computed on the hot path.

mod log;
mod node;
mod process;
mod scrape;

use std::sync::{Arc, Mutex};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::{live::Hub, node::Node};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabel {
    door: &'static str,
}

/// Shared by every room; cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    registry: Arc<Mutex<Registry>>,
    received: Family<DoorLabel, Counter>,
    sent: Family<DoorLabel, Counter>,
    dropped: Family<DoorLabel, Counter>,
    errors: Family<DoorLabel, Counter>,
    egress_bytes: Counter,
    panics: Counter,
}

/// A protocol's way in or out. Units are frames (packets for WebRTC, responses for HTTP).
#[derive(Clone, Debug)]
pub struct Door {
    /// Taken in from the other side.
    pub received: Counter,
    /// Handed to the other side.
    pub sent: Counter,
    /// Given up on purpose: too late, too much, undecodable.
    pub dropped: Counter,
    /// Peers turned away or lost because something was wrong.
    pub errors: Counter,
}

impl Telemetry {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("headwater");
        let [received, sent, dropped, errors] = std::array::from_fn(|_| Family::<DoorLabel, Counter>::default());
        registry.register("received", "Units taken in, by door", received.clone());
        registry.register("sent", "Units handed out, by door", sent.clone());
        registry.register("dropped", "Units given up on purpose, by door", dropped.clone());
        registry.register("errors", "Peers turned away or lost through an error, by door", errors.clone());
        registry.register_collector(Box::new(process::ProcessCollector));
        let egress_bytes = Counter::default();
        registry.register("egress_bytes", "Sent to viewers and other nodes, whatever the door", egress_bytes.clone());
        let panics = Counter::default();
        registry.register("panics", "Tasks that ended by a bug; each ends one stream or session only", panics.clone());
        Self { egress_bytes, panics, registry: Arc::new(Mutex::new(registry)), received, sent, dropped, errors }
    }

    pub fn door(&self, door: &'static str) -> Door {
        let label = DoorLabel { door };
        Door {
            received: self.received.get_or_create_owned(&label),
            sent: self.sent.get_or_create_owned(&label),
            dropped: self.dropped.get_or_create_owned(&label),
            errors: self.errors.get_or_create_owned(&label),
        }
    }

    /// Bytes that leave this node: whoever sends much adds to it.
    pub fn egress(&self) -> Counter {
        self.egress_bytes.clone()
    }

    /// Phase and load.
    pub fn watch_node(&self, node: Node) {
        self.lock().register_collector(Box::new(node::NodeCollector(node)));
    }

    /// Readers, memory and what passed, for every broadcast of the hub, looked up when somebody asks.
    pub fn watch_hub(&self, hub: Arc<Hub>) {
        self.lock().register_collector(Box::new(scrape::HubCollector::new(hub)));
    }

    /// For a room that has more to tell than a door's four counters.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.lock());
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a string can't fail.
        let _ = encode(&mut text, &self.lock());
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
