//! How many people watch. In: whoever asked for a playlist, as a hash of address and player. Out: who was seen lately. HLS has no
//! sessions: players behind one address with the same browser count as one, and that is near enough.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// Beyond this the number stays where it is: some megabytes per broadcast at most.
const VIEWERS_MAX: usize = 100_000;
/// In target durations: players ask for a playlist at least once per target.
const TARGETS: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Viewers {
    last_seen: HashMap<u64, Instant>,
}

impl Viewers {
    pub(super) fn saw(&mut self, viewer: u64, now: Instant) {
        if self.last_seen.len() < VIEWERS_MAX || self.last_seen.contains_key(&viewer) {
            self.last_seen.insert(viewer, now);
        }
    }

    /// Whether it is one of those that are counted.
    pub(super) fn knows(&mut self, viewer: u64, now: Instant, target_s: u32) -> bool {
        self.forget(now, target_s);
        self.last_seen.contains_key(&viewer)
    }

    pub(super) fn lately(&mut self, now: Instant, target_s: u32) -> impl ExactSizeIterator<Item = u64> {
        self.forget(now, target_s);
        self.last_seen.keys().copied()
    }

    fn forget(&mut self, now: Instant, target_s: u32) {
        let patience = Duration::from_secs(u64::from(target_s)) * TARGETS;
        self.last_seen.retain(|_, seen| now.saturating_duration_since(*seen) <= patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_whom_it_saw_lately_and_each_once() {
        let now = Instant::now();
        let mut viewers = Viewers::default();
        viewers.saw(1, now);
        viewers.saw(1, now + Duration::from_secs(3));
        viewers.saw(2, now);
        assert_eq!(viewers.lately(now + Duration::from_secs(4), 2).len(), 2);
        assert!(viewers.knows(2, now + Duration::from_secs(4), 2) && !viewers.knows(3, now, 2));
        assert!(!viewers.knows(2, now + Duration::from_secs(5), 2));
        assert_eq!(viewers.lately(now + Duration::from_secs(7), 2).len(), 1);
        assert_eq!(viewers.lately(now + Duration::from_secs(9), 2).len(), 0);
    }

    #[test]
    fn is_bounded() {
        let now = Instant::now();
        let mut viewers = Viewers::default();
        (0..VIEWERS_MAX as u64 + 10).for_each(|viewer| viewers.saw(viewer, now));
        assert_eq!(viewers.lately(now, 2).len(), VIEWERS_MAX);
    }
}
