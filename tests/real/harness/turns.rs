//! Which tests run beside which. The runner starts more of them than there are cores, because most of them wait; here they wait
//! for their turn, first come, first served. What a test takes of the machine is said by how it begins:
//!
//! - [`heavy`]: judges delays, gaps or the rate of pictures, with browsers, encoders or OBS; no other browser beside it.
//! - [`paired`]: has browsers, and waits for what they see, however fast; two at once.
//! - [`light`]: the server and clients that take a tenth of a core; three at once, whatever else runs.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::twice_at_most;

static BROWSERS: Lane = Lane::new(2);
static LIGHT: Lane = Lane::new(3);

pub(crate) fn heavy(limit: Duration, test: impl Fn() + Send + Sync + 'static) {
    let _turn = BROWSERS.turn(2);
    twice_at_most(limit, test);
}

pub(crate) fn paired(limit: Duration, test: impl Fn() + Send + Sync + 'static) {
    let _turn = BROWSERS.turn(1);
    twice_at_most(limit, test);
}

pub(crate) fn light(limit: Duration, test: impl Fn() + Send + Sync + 'static) {
    let _turn = LIGHT.turn(1);
    twice_at_most(limit, test);
}

struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: usize,
    /// Numbers of the next who comes, and of the next who is let in.
    next: usize,
    served: usize,
}

impl Lane {
    const fn new(places: usize) -> Self {
        Self { state: Mutex::new(State { free: places, next: 0, served: 0 }), changed: Condvar::new() }
    }

    fn turn(&self, places: usize) -> Turn<'_> {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let waits = |state: &mut State| state.served != number || state.free < places;
        let mut state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        state.free -= places;
        state.served += 1;
        self.changed.notify_all();
        Turn { lane: self, places }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropping it lets others in, also when the test failed.
struct Turn<'a> {
    lane: &'a Lane,
    places: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lane.state().free += self.places;
        self.lane.changed.notify_all();
    }
}

#[test]
fn who_needs_the_whole_lane_is_not_passed_by_those_who_need_less() {
    let lane = Lane::new(2);
    let order = Mutex::new(Vec::new());
    let comes = |name: &'static str, places: usize| {
        let turn = lane.turn(places);
        order.lock().unwrap().push(name);
        turn
    };
    let waiting = |count: usize| {
        super::until("all to wait", super::s(10), || {
            let state = lane.state();
            (state.next - state.served == count).then_some(())
        });
    };
    let first = comes("one place", 1);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(comes("both places", 2)));
        waiting(1);
        scope.spawn(|| drop(comes("one place, later", 1)));
        waiting(2);
        assert_eq!(lane.state().free, 1, "which is kept for who came first");
        drop(first);
    });
    assert_eq!(*order.lock().unwrap(), ["one place", "both places", "one place, later"]);
    assert_eq!(lane.state().free, 2);
}
