//! What a node saw when it looked into a registry that it shares with others.

use super::{BroadcastRow, NodeRow, Verdict};

#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Counts looks; zero before the first.
    pub looks: u64,
    /// The last look succeeded. What follows is older otherwise.
    pub answers: bool,
    pub nodes: Vec<SeenNode>,
    /// Live, and ended lately.
    pub broadcasts: Vec<BroadcastRow>,
    /// When the broadcasts were asked for, by this node's monotonic clock.
    pub asked_us: i64,
}

#[derive(Clone, Debug)]
pub struct SeenNode {
    pub row: NodeRow,
    pub verdict: Verdict,
}
