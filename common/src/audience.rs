//! Who watches a broadcast, door by door: what edges count and REST shows, wherever either of them runs.

use std::sync::{Arc, OnceLock};

use crate::live::BroadcastId;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Viewers {
    pub webrtc: usize,
    pub hls: usize,
}

/// How many there are on this node.
pub type Count = Arc<dyn Fn() -> usize + Send + Sync>;

/// Cheap enough to be asked for every broadcast of a list.
pub type CountViewers = Arc<dyn Fn(&BroadcastId) -> Viewers + Send + Sync>;

/// For who asks before it is known who counts: until then nobody watches.
pub fn later() -> (CountViewers, Counter) {
    let counter = Arc::new(OnceLock::<CountViewers>::new());
    let asked = counter.clone();
    (Arc::new(move |id| asked.get().map_or_else(Viewers::default, |count| count(id))), Counter(counter))
}

pub struct Counter(Arc<OnceLock<CountViewers>>);

impl Counter {
    /// The first one counts.
    pub fn set(&self, count: CountViewers) {
        let _ = self.0.set(count);
    }
}

/// Where there is nobody to be counted.
pub fn none() -> Count {
    Arc::new(|| 0)
}
