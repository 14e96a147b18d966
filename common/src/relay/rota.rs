//! Many that are polled in one task, each only after it was woken, in the order of their wake-ups.
//!
//! In: members with numbers of their own. Out: what the next one has. `FuturesUnordered` does the same for futures, but
//! moves and allocates anew with each item, and finds no member by its number. Deliberately absent: what members are.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

pub(super) struct Rota<T> {
    members: HashMap<u32, Member<T>>,
    desk: Arc<Desk>,
}

struct Member<T> {
    it: T,
    bell: Arc<Bell>,
    /// Made of the bell.
    waker: Waker,
}

/// Where bells ring.
#[derive(Default)]
struct Desk(Mutex<Rung>);

#[derive(Default)]
struct Rung {
    /// Each at most once, and some that are gone.
    numbers: VecDeque<u32>,
    /// Of the task, while it sleeps.
    sleeper: Option<Waker>,
}

struct Bell {
    number: u32,
    has_rung: AtomicBool,
    desk: Arc<Desk>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.has_rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut rung = self.desk.lock();
        rung.numbers.push_back(self.number);
        let sleeper = rung.sleeper.take();
        drop(rung);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

impl<T> Rota<T> {
    pub(super) fn new() -> Self {
        Self { members: HashMap::new(), desk: Arc::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// It is polled soon.
    pub(super) fn insert(&mut self, number: u32, it: T) {
        let bell = Arc::new(Bell { number, has_rung: AtomicBool::new(false), desk: self.desk.clone() });
        bell.wake_by_ref();
        self.members.insert(number, Member { it, waker: bell.clone().into(), bell });
    }

    pub(super) fn remove(&mut self, number: u32) {
        self.members.remove(&number);
    }

    /// To be changed from without, and polled soon.
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let member = self.members.get_mut(&number)?;
        member.bell.wake_by_ref();
        Some(&mut member.it)
    }

    /// What the next one has that has something. It has its next turn after all others.
    pub(super) fn next<P>(&mut self, mut poll: impl FnMut(&mut T, &mut Context<'_>) -> Poll<P>) -> Option<(u32, P)> {
        loop {
            let number = self.desk.lock().numbers.pop_front()?;
            let Some(member) = self.members.get_mut(&number) else { continue };
            // Whoever rings from now on wants another turn.
            member.bell.has_rung.store(false, Ordering::Release);
            if let Poll::Ready(item) = poll(&mut member.it, &mut Context::from_waker(&member.waker)) {
                member.bell.wake_by_ref();
                return Some((number, item));
            }
        }
    }

    /// Ready when somebody has rung; who asks is woken then.
    pub(super) fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut rung = self.desk.lock();
        if !rung.numbers.is_empty() {
            return Poll::Ready(());
        }
        let before = rung.sleeper.replace(cx.waker().clone());
        drop(rung);
        // It may be the last thing that kept a task alive.
        drop(before);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Has as many items as are put in, and is woken by whoever puts them there.
    #[derive(Default)]
    struct Basket {
        items: usize,
        polled: usize,
        waker: Option<Waker>,
    }

    impl Basket {
        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            self.polled += 1;
            self.waker = Some(cx.waker().clone());
            if self.items == 0 {
                return Poll::Pending;
            }
            self.items -= 1;
            Poll::Ready(())
        }

        fn put(&mut self, items: usize) {
            self.items += items;
            self.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn all(rota: &mut Rota<Basket>) -> Vec<u32> {
        std::iter::from_fn(|| rota.next(Basket::poll)).map(|(number, ())| number).collect()
    }

    #[test]
    fn all_have_their_turns_and_nobody_is_polled_who_was_not_woken() {
        let mut rota = Rota::new();
        for number in [7, 8, 9] {
            rota.insert(number, Basket::default());
        }
        assert!(all(&mut rota).is_empty());
        assert_eq!(rota.len(), 3);
        // Without a turn of its own: as another thread would.
        rota.members.get_mut(&8).unwrap().it.put(3);
        rota.members.get_mut(&7).unwrap().it.put(1);
        assert_eq!(all(&mut rota), [8, 7, 8, 8]);
        assert_eq!(rota.get_mut(9).unwrap().polled, 1);
        assert!(all(&mut rota).is_empty());
        let nine = rota.get_mut(9).unwrap();
        assert_eq!(nine.polled, 2, "it was changed, so it was polled");
        // What rings and is gone is nobody's turn.
        nine.put(5);
        rota.remove(9);
        assert!(all(&mut rota).is_empty());
        assert!(rota.get_mut(9).is_none());
    }

    #[test]
    fn whoever_sleeps_is_woken_once() {
        let mut rota = Rota::new();
        rota.insert(1, Basket::default());
        rota.insert(2, Basket::default());
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(rota.poll_rung(&mut cx).is_ready());
        all(&mut rota);
        assert!(rota.poll_rung(&mut cx).is_pending());
        rota.members.get_mut(&1).unwrap().it.put(1);
        rota.members.get_mut(&2).unwrap().it.put(1);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(rota.poll_rung(&mut cx).is_ready());
        assert_eq!(all(&mut rota), [1, 2]);
    }
}
