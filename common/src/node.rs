//! What this process is doing as a whole: taking work, full, or on its way out.
//!
//! In: what the operator wants of it, and how loaded it is. Out: `/readyz` for load balancers, what doors tell those whom
//! they turn away, and a signal for every loop that must end. Liveness is deliberately something else: a node that
//! takes no work is not a node to be killed.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::load::Load;

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

    /// What [`Role::name`] says.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Whole, Self::Origin, Self::Edge].into_iter().find(|role| role.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Origin => "origin",
            Self::Edge => "edge",
        }
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
    /// Takes no new work until some has gone.
    Full,
    /// Takes no new work and hands over what it holds.
    Draining,
    /// About to end: what it still holds ends with it.
    Stopping,
}

impl Phase {
    /// What [`Phase::name`] says.
    pub fn of_name(name: &str) -> Option<Self> {
        let all = [Self::Starting, Self::Ready, Self::Full, Self::Draining, Self::Stopping];
        all.into_iter().find(|phase| phase.name() == name)
    }

    /// As `/readyz` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// Why new work is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    #[error("this node is full, another one may have room")]
    Full,
    #[error("this node is being drained, another one takes over")]
    Draining,
    #[error("this node is about to stop")]
    Stopping,
}

/// What the operator wants, and beside it what follows from the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    /// Never [`Phase::Full`].
    course: Phase,
    is_full: bool,
    publishers: Farewell,
    /// Counts drains.
    round: u64,
}

/// What publishers are told. Nobody is told anything while the node takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Farewell {
    Stay,
    /// Go elsewhere, if you can.
    Asked,
    /// Go.
    Ended,
}

/// Shared by everything that runs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    standing: watch::Sender<Standing>,
    /// Not in the standing: it changes every second, and nobody waits for that.
    load: Mutex<Load>,
}

impl Node {
    pub fn starting() -> Self {
        let standing = Standing { course: Phase::Starting, is_full: false, publishers: Farewell::Stay, round: 0 };
        Self(Arc::new(Inner { standing: watch::Sender::new(standing), load: Mutex::default() }))
    }

    pub fn ready(&self) {
        self.change(|standing| {
            if standing.course == Phase::Starting {
                standing.course = Phase::Ready;
            }
        });
    }

    /// From now on nothing new is taken. What is there may stay until somebody sends it away. A node that stops is past
    /// that.
    pub fn drain(&self) {
        self.change(|standing| {
            if !matches!(standing.course, Phase::Draining | Phase::Stopping) {
                (standing.course, standing.round) = (Phase::Draining, standing.round + 1);
            }
        });
    }

    /// Publishers are asked to go elsewhere, each in its protocol's words.
    pub fn ask_publishers_to_leave(&self) {
        self.tell_publishers(Farewell::Asked);
    }

    /// Publishers that are still there are not waited for any longer.
    pub fn end_publishers(&self) {
        self.tell_publishers(Farewell::Ended);
    }

    fn tell_publishers(&self, farewell: Farewell) {
        self.change(|standing| {
            if standing.course == Phase::Draining {
                standing.publishers = standing.publishers.max(farewell);
            }
        });
    }

    /// Takes a drain back.
    pub fn undrain(&self) {
        self.change(|standing| {
            if standing.course == Phase::Draining {
                (standing.course, standing.publishers) = (Phase::Ready, Farewell::Stay);
            }
        });
    }

    pub fn stop(&self) {
        self.change(|standing| standing.course = Phase::Stopping);
    }

    /// How loaded it is now, and whether that is all it takes.
    pub fn bear(&self, load: Load, is_full: bool) {
        *self.0.load.lock().unwrap_or_else(PoisonError::into_inner) = load;
        self.change(|standing| standing.is_full = is_full);
    }

    pub fn load(&self) -> Load {
        *self.0.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn phase(&self) -> Phase {
        match *self.0.standing.borrow() {
            Standing { course: Phase::Ready, is_full: true, .. } => Phase::Full,
            Standing { course, .. } => course,
        }
    }

    /// Whether somebody new may be let in. Doors that are open already let in while the rest of the node starts.
    pub fn takes_work(&self) -> Result<(), Busy> {
        match self.phase() {
            Phase::Starting | Phase::Ready => Ok(()),
            Phase::Full => Err(Busy::Full),
            Phase::Draining => Err(Busy::Draining),
            Phase::Stopping => Err(Busy::Stopping),
        }
    }

    /// Resolves when the process is on its way out.
    pub async fn stopping(&self) {
        self.until(|standing| standing.course == Phase::Stopping).await;
    }

    /// Resolves while the node is on no way out: a drain was taken back.
    pub async fn staying(&self) {
        self.until(|standing| !matches!(standing.course, Phase::Draining | Phase::Stopping)).await;
    }

    /// Resolves while publishers are asked to go elsewhere, in a later drain than this one; tells which.
    pub async fn publishers_asked(&self, after: u64) -> u64 {
        self.until(|standing| standing.publishers >= Farewell::Asked && standing.round > after).await;
        self.0.standing.borrow().round
    }

    /// Resolves when publishers have to go now.
    pub async fn publishers_ended(&self) {
        self.until(|standing| standing.publishers == Farewell::Ended || standing.course == Phase::Stopping).await;
    }

    async fn until(&self, holds: impl FnMut(&Standing) -> bool) {
        // The sender lives as long as `self`.
        let _ = self.0.standing.subscribe().wait_for(holds).await;
    }

    /// Wakes those who wait only where something is different from before.
    fn change(&self, change: impl FnOnce(&mut Standing)) {
        self.0.standing.send_if_modified(|standing| {
            let before = *standing;
            change(standing);
            *standing != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_goes_through_its_life() {
        let node = Node::starting();
        assert_eq!((node.phase(), node.takes_work()), (Phase::Starting, Ok(())));
        node.undrain();
        assert_eq!(node.phase(), Phase::Starting, "what was not drained is not undrained");
        node.ready();
        node.bear(Load::default(), true);
        assert_eq!((node.phase(), node.takes_work()), (Phase::Full, Err(Busy::Full)));
        node.drain();
        assert_eq!((node.phase(), node.takes_work()), (Phase::Draining, Err(Busy::Draining)));
        node.ready();
        assert_eq!(node.phase(), Phase::Draining, "only who starts becomes ready");
        node.undrain();
        assert_eq!(node.phase(), Phase::Full);
        node.bear(Load::default(), false);
        assert_eq!(node.phase(), Phase::Ready);
        node.stop();
        node.drain();
        node.undrain();
        assert_eq!((node.phase(), node.takes_work()), (Phase::Stopping, Err(Busy::Stopping)), "there is no way back");
    }

    #[tokio::test]
    async fn publishers_are_told_to_go_while_the_node_drains_only() {
        let node = Node::starting();
        let told = || node.0.standing.borrow().publishers;
        node.ready();
        node.ask_publishers_to_leave();
        assert_eq!(told(), Farewell::Stay);
        node.drain();
        assert_eq!(told(), Farewell::Stay, "viewers go first");
        node.ask_publishers_to_leave();
        assert_eq!(node.publishers_asked(0).await, 1);
        node.end_publishers();
        node.ask_publishers_to_leave();
        node.publishers_ended().await;
        node.undrain();
        node.staying().await;
        assert_eq!(told(), Farewell::Stay);
        node.drain();
        node.drain();
        node.ask_publishers_to_leave();
        assert_eq!(node.publishers_asked(1).await, 2);
        node.stop();
        node.publishers_ended().await;
    }

    #[test]
    fn nobody_is_woken_by_what_did_not_change() {
        let node = Node::starting();
        node.ready();
        let mut watched = node.0.standing.subscribe();
        watched.mark_unchanged();
        node.ready();
        node.bear(Load { cpu_percent: 3, ..Load::default() }, false);
        assert!(!watched.has_changed().unwrap());
        assert_eq!(node.load().cpu_percent, 3);
    }
}
