//! Publishers that come and go.

use super::*;

impl World {
    fn stream(&mut self) -> BroadcastId {
        id(&format!("s{}", self.random.below(STREAMS as u64)))
    }

    /// A publisher comes.
    pub(super) fn publish(&mut self, n: usize) {
        let id = self.stream();
        let takeover = if self.random.one_in(2) { Takeover::Replace } else { Takeover::Refuse };
        let known = self.machines[n].halls.get(&id);
        let is_free = known.is_none_or(|held| held.status != HeldStatus::Live || takeover == Takeover::Replace);
        if !is_free || self.is_claiming(n, &id) {
            return;
        }
        let hall = known.map(|held| held.hall);
        let ask = Ask::Enter(takeover);
        let bid = Bid { life: self.machines[n].life.clone(), ask, hall, ..bid("", self.wall_us(n)) };
        let operation = Operation { id, what: What::Enter(bid), read: None };
        self.machines[n].operations.push(operation);
    }

    /// A publisher says goodbye, or vanishes.
    pub(super) fn leave(&mut self, n: usize) {
        let id = self.stream();
        let (wall_us, vanishes) = (self.wall_us(n), self.random.one_in(2));
        let Some(held) = self.machines[n].halls.get_mut(&id).filter(|held| held.status == HeldStatus::Live) else {
            return;
        };
        held.since_us = wall_us;
        if vanishes {
            held.status = HeldStatus::Interrupted;
        } else {
            self.end(n, &id);
        }
    }

    /// An operator has had enough of a broadcast.
    pub(super) fn remove(&mut self, n: usize) {
        let id = self.stream();
        if self.machines[n].halls.get(&id).is_some_and(|held| held.status != HeldStatus::Ended) {
            self.end(n, &id);
        }
        self.machines[n].operations.push(Operation { id, what: What::Remove, read: None });
    }

    pub(super) fn is_claiming(&self, n: usize, id: &BroadcastId) -> bool {
        self.machines[n]
            .operations
            .iter()
            .any(|operation| operation.id == *id && matches!(operation.what, What::Enter(_) | What::Renew { .. }))
    }
}
