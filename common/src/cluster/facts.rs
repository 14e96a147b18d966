//! What is known of nodes and broadcasts, and which of two statements is the later one. Pure.

use std::time::Duration;

use super::identity::{Identity, NodeId};
use crate::{
    live::BroadcastId,
    load::Load,
    node::{Phase, Role},
};

/// A node as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    pub identity: Identity,
    pub role: Role,
    pub phase: Phase,
    pub version: String,
    /// host:port where other nodes reach it.
    pub grpc: String,
    /// URL where clients reach it.
    pub http: String,
    pub load: Load,
    pub registry: RegistryFacts,
    /// How long this life had lasted when it said so.
    pub age: Duration,
}

impl NodeFacts {
    pub fn id(&self) -> &NodeId {
        &self.identity.id
    }

    /// What has become of it, by its last word.
    pub(super) fn end(&self) -> Health {
        if self.phase == Phase::Stopping { Health::Left } else { Health::Dead }
    }
}

/// The registry that a node keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryFacts {
    /// The same on all nodes that share it. Empty on who keeps none, and as long as it is not known.
    pub id: String,
    /// How long it takes for one operation, on average.
    pub operation: Duration,
}

impl RegistryFacts {
    /// What is claimed here is not claimed there.
    pub fn is_another_than(&self, other: &Self) -> bool {
        !self.id.is_empty() && !other.id.is_empty() && self.id != other.id
    }
}

/// In the order in which a claim goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Live,
    /// Its publisher vanished; it waits for another one.
    Interrupted,
    Finished,
    /// Nobody said that it was over.
    Terminated,
}

impl Status {
    pub fn has_ended(self) -> bool {
        self >= Self::Finished
    }
}

/// What a node says of a broadcast that it holds or held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub broadcast: BroadcastId,
    pub owner: Identity,
    pub epoch: u64,
    pub status: Status,
}

impl Statement {
    /// Of two of one owner.
    pub(super) fn is_later_than(&self, other: &Self) -> bool {
        let place = |s: &Self| (s.owner.incarnation, s.epoch, s.status);
        place(self) > place(other)
    }
}

/// Where a broadcast is, and how it does, by everything that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub owner: NodeId,
    pub epoch: u64,
    pub status: Status,
}

/// A node, and what is thought of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub facts: NodeFacts,
    pub health: Health,
    /// Since its last sign of life, or since it was noticed that there are no more.
    pub silent: Duration,
}

impl Known {
    /// As a node tells of itself.
    pub(super) fn direct(facts: NodeFacts) -> Self {
        Self { facts, health: Health::Alive, silent: Duration::ZERO }
    }
}

/// How a node is seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Alive,
    /// Our link with it broke a moment ago, or that of whoever told of it.
    Suspect,
    /// Nobody has heard it for too long.
    Dead,
    /// It said that it would go, and went.
    Left,
}

impl Health {
    pub fn is_there(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}
