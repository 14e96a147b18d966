//! Who watches a broadcast, door by door: what edges count and REST shows, wherever either of them runs.

use std::sync::Arc;

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

/// Where no viewers are served.
pub fn nobody() -> CountViewers {
    Arc::new(|_| Viewers::default())
}

/// Where there is nobody to be counted.
pub fn none() -> Count {
    Arc::new(|| 0)
}
