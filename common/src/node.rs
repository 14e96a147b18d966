//! What this process is doing as a whole: taking work, or on its way out.
//!
//! In: the operator's wish to stop. Out: `/readyz` for load balancers, and a signal for every loop that must end.
//! Liveness is deliberately something else: a node that takes no work is not a node to be killed.

use tokio::sync::watch;

/// Which way of the house this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process, which knows no others.
    Whole,
    /// Takes publishers.
    Origin,
    /// Serves viewers.
    Edge,
}

impl Role {
    pub fn takes_publishers(self) -> bool {
        self != Self::Edge
    }

    pub fn serves_viewers(self) -> bool {
        self != Self::Origin
    }

    /// Has other nodes to talk to.
    pub fn has_peers(self) -> bool {
        self != Self::Whole
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    /// Would take work.
    Ready,
    /// Takes no new work, finishes what it holds.
    Stopping,
}

/// Shared by everything that runs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    phase: std::sync::Arc<watch::Sender<Phase>>,
}

impl Node {
    pub fn starting() -> Self {
        Self { phase: std::sync::Arc::new(watch::Sender::new(Phase::Starting)) }
    }

    pub fn ready(&self) {
        self.phase.send_replace(Phase::Ready);
    }

    pub fn stop(&self) {
        self.phase.send_replace(Phase::Stopping);
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves when the process is on its way out.
    pub async fn stopping(&self) {
        // The sender lives as long as `self`.
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Stopping).await;
    }
}
