//! Another process with the id of this node. In: what others tell of a node of this name. Out: whether it lives, and was
//! started later than this one. An earlier one hears the same of this.

use std::time::Duration;

use super::identity::NodeId;

/// Two machines have copies of one data directory.
#[derive(Debug, thiserror::Error)]
#[error("another process is node {node} as well, and was started later: is the data directory a copy?")]
pub struct Displaced {
    node: NodeId,
}

impl Displaced {
    pub(super) fn of(node: NodeId) -> Self {
        Self { node }
    }
}

/// A later life of this node, as others tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Double {
    incarnation: u64,
    age: Duration,
    /// It has grown older since it was told of first: it is not a memory of theirs.
    lives: bool,
}

impl Double {
    pub(super) fn hear(known: Option<Self>, incarnation: u64, age: Duration) -> Self {
        let lives = known.is_some_and(|known| known.incarnation == incarnation && (known.lives || age > known.age));
        Self { incarnation, age, lives }
    }

    pub(super) fn lives(self) -> bool {
        self.lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_of_a_later_life_is_no_later_life() {
        let hear = |known, incarnation, age_s| Some(Double::hear(known, incarnation, Duration::from_secs(age_s)));
        let lives = |known: Option<Double>| known.is_some_and(Double::lives);
        // What is passed on of one that has died stays as old as it was.
        let dead = hear(hear(None, 9, 50), 9, 50);
        assert!(!lives(dead));
        let other = hear(dead, 10, 60);
        assert!(!lives(other), "nor is one after the other");
        let older = hear(other, 10, 61);
        assert!(lives(older) && lives(hear(older, 10, 60)));
    }
}
