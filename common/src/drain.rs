//! How fast viewers are asked to leave a node that drains.
//!
//! In: how many are still to be asked, and the time. Out: how many of them now. Deliberately absent: who they are, and
//! how they are asked.

use std::time::Duration;

/// How often somebody is asked.
pub const TICK: Duration = Duration::from_millis(250);

/// The last ones need a moment to go before the deadline (percent of the time).
const ASKED_WITHIN_PERCENT: u32 = 80;

/// A handful leaves within a second, one at a time; many leave evenly over the whole time, so that the nodes that take
/// them over never have all handshakes at once.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    over: Duration,
}

impl Pace {
    /// Everybody is to be gone when so much time is over.
    pub fn new(limit: Duration) -> Self {
        Self { over: limit * ASKED_WITHIN_PERCENT / 100 }
    }

    /// How many of those who wait are asked now.
    pub fn due(&self, elapsed: Duration, waiting: usize) -> usize {
        let left = self.over.saturating_sub(elapsed).as_millis() / TICK.as_millis();
        waiting.div_ceil(usize::try_from(left).unwrap_or(usize::MAX).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are asked at each tick, until nobody is left.
    fn asked(limit_s: u64, mut waiting: usize) -> Vec<usize> {
        let pace = Pace::new(Duration::from_secs(limit_s));
        let mut asked = Vec::new();
        while waiting > 0 {
            let due = pace.due(TICK * asked.len() as u32, waiting);
            asked.push(due);
            waiting -= due;
        }
        asked
    }

    #[test]
    fn few_leave_soon_one_at_a_time() {
        assert_eq!(asked(20, 3), [1, 1, 1]);
        assert_eq!(asked(20, 0), [0; 0]);
    }

    #[test]
    fn many_leave_evenly_and_before_the_deadline() {
        for waiting in [200, 10_000, 12_345] {
            let asked = asked(20, waiting);
            let even = waiting.div_ceil(64);
            assert!(asked.iter().all(|asked| (even - 1..=even).contains(asked)), "{waiting}: {asked:?}");
            assert!(TICK * asked.len() as u32 <= Duration::from_secs(16), "{waiting}: {} ticks", asked.len());
        }
    }

    #[test]
    fn without_time_all_leave_at_once() {
        assert_eq!(asked(0, 500), [500]);
        assert_eq!(Pace::new(Duration::from_secs(20)).due(Duration::from_secs(19), 7), 7, "whoever is late");
    }
}
