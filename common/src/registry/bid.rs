//! What publishers ask for and are given. In: who asks, and what this node's hall holds of the broadcast. Out: the terms of a
//! claim, or why there is none. The rules that lead from one to the other are [`BroadcastRow`](super::BroadcastRow)'s. Pure.

use super::Life;
use crate::live::{Broadcast, Claim, Publisher, Takeover};

/// What is said to get a broadcast.
#[derive(Clone, Debug)]
pub struct Bid {
    pub life: Life,
    pub publisher: Publisher,
    pub ask: Ask,
    /// What the hall of this node holds of the broadcast, if it does.
    pub hall: Option<Hall>,
    /// Its application has a webhook.
    pub webhook: bool,
    pub now_us: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A publisher wants to be let in.
    Enter(Takeover),
    /// It publishes already: it was let in without the registry, or its node was thought dead.
    Stay,
}

/// A broadcast as the hall of one node has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hall {
    /// Of the claim it holds or held.
    pub epoch: u64,
    pub next_gop: u64,
    pub discontinuity: u64,
    pub born_us: i64,
    /// When its publisher came.
    pub began_us: i64,
    pub segment_target_s: Option<u32>,
}

/// What a claim hands to the hub. The numbers are those of its first gop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub epoch: u64,
    pub next_gop: u64,
    pub discontinuity: u64,
    pub born_us: i64,
    pub segment_target_s: Option<u32>,
}

impl Claimed {
    /// As this node's hall takes it from who asked.
    pub fn for_hall(self, publisher: Publisher) -> Claim {
        let Self { epoch, next_gop, discontinuity, born_us, segment_target_s } = self;
        Claim { epoch, next_gop, discontinuity, born_us, segment_target_s, publisher }
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The settings let nobody be replaced who sends.
    InUse { owner: Life, protocol: String, remote: String },
    /// Another node was given the broadcast after the one that wants to stay.
    Outrun { owner: Life, epoch: u64 },
    /// The broadcast was removed, and with it the claim of the one that wants to stay.
    Removed,
}

impl Hall {
    pub fn of(broadcast: &Broadcast) -> Self {
        Self {
            epoch: broadcast.claimed_epoch(),
            next_gop: broadcast.next_gop(),
            discontinuity: broadcast.discontinuity(),
            born_us: broadcast.born_us(),
            began_us: broadcast.epoch_began_us(),
            segment_target_s: broadcast.segment_target_s(),
        }
    }
}
