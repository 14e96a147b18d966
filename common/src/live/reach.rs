//! How far a broadcast has come, by the frames that a hall holds of it: what a node has to know that goes on with it.

use super::{Broadcast, BroadcastId, Hub, Status, broadcast::Hand};

/// The next number that nobody has seen, and the newest discontinuity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub next_gop: u64,
    pub discontinuity: u64,
}

impl Reach {
    /// As two know it together.
    pub fn or_further(self, other: Self) -> Self {
        Self { next_gop: self.next_gop.max(other.next_gop), discontinuity: self.discontinuity.max(other.discontinuity) }
    }
}

impl Broadcast {
    /// `None` before the first gop.
    pub fn reach(&self) -> Option<Reach> {
        self.lock().minter.reach()
    }
}

impl Hub {
    /// Another node was given the broadcast with this claim, and asks how far it has come. What is told here under an older
    /// claim is not copied any more, so that the answer stays true. `None` where no frame of it is here.
    pub fn give_way_to(&self, id: &BroadcastId, epoch: u64) -> Option<Reach> {
        let broadcast = self.get(id)?;
        let mut state = broadcast.lock();
        let reach = state.minter.reach();
        if let Hand::Copied(number) = state.hand
            && state.claimed_epoch < epoch
        {
            state.hand = Hand::Copied(number + 1);
            state.claimed_epoch = epoch;
            if state.status == Status::Live {
                state.status = Status::Interrupted;
            }
            drop(state);
            broadcast.changed();
        }
        reach
    }
}
