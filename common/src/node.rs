//! What this process is doing as a whole: taking work, or on its way out.
//!
//! In: the operator's wish to stop. Out: `/readyz` for load balancers, and a signal for every loop that must end.
//! Liveness is deliberately something else: a node that takes no work is not a node to be killed.

use tokio::sync::watch;

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
