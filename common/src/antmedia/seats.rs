//! Who is connected to this node, and which of them have been told to go.
//!
//! In: sockets as they open and close, what each is here for, how many are to go. Out: a signal for those. Deliberately
//! absent: what a socket does.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use slab::Slab;
use tokio::sync::{Notify, watch};

#[derive(Default)]
pub(super) struct Seats {
    taken: Mutex<Slab<Arc<Seat>>>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
pub(super) struct Seat {
    publishes: AtomicBool,
    told: AtomicBool,
    leave: Notify,
}

/// Given back when it is dropped.
pub(super) struct Taken {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
    key: usize,
}

impl Seats {
    pub(super) fn take(self: &Arc<Self>) -> Taken {
        let (seats, seat) = (self.clone(), Arc::<Seat>::default());
        let key = self.lock().insert(seat.clone());
        self.count.send_modify(|count| *count += 1);
        Taken { seats, seat, key }
    }

    /// Those that publish nothing and were not told yet.
    pub(super) fn to_send_away(&self) -> Vec<Arc<Seat>> {
        let seats = self.lock();
        let stays = |seat: &Seat| !seat.publishes.load(Relaxed) && !seat.told.load(Relaxed);
        seats.iter().filter(|(_, seat)| stays(seat)).map(|(_, seat)| seat.clone()).collect()
    }

    /// Resolves when nobody is connected.
    pub(super) async fn empty(&self) {
        // The sender lives as long as `self`.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(super) fn send_away(&self) {
        self.told.store(true, Relaxed);
        self.leave.notify_one();
    }
}

impl Taken {
    pub(super) fn set_publishes(&self, publishes: bool) {
        self.seat.publishes.store(publishes, Relaxed);
    }

    /// Resolves when this one is to go.
    pub(super) async fn sent_away(&self) {
        self.seat.leave.notified().await;
    }

    /// It was told to go, whoever told it.
    pub(super) fn set_told(&self, told: bool) {
        self.seat.told.store(told, Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.seats.lock().remove(self.key);
        self.seats.count.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_is_told_once_and_publishers_are_not() {
        let seats = Arc::<Seats>::default();
        let (one, two, publisher) = (seats.take(), seats.take(), seats.take());
        publisher.set_publishes(true);
        assert_eq!(seats.to_send_away().len(), 2);
        seats.to_send_away()[0].send_away();
        one.sent_away().await;
        assert_eq!(seats.to_send_away().len(), 1);
        one.set_told(false);
        assert_eq!(seats.to_send_away().len(), 2, "after an undrain");
        drop((one, two));
        assert_eq!(seats.to_send_away().len(), 0);
        drop(publisher);
        seats.empty().await;
    }
}
