//! How long a registry takes for one operation, on average: for operators. In: how long each took. Out: an average in which
//! the last few dozen count.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Of the newest operation in the average: one in this many.
const SHARE: u64 = 16;

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Zero before the first.
    average_ns: AtomicU64,
}

impl Pace {
    /// Of two that come at once one may not count, which an average bears.
    pub(super) fn took(&self, time: Duration) {
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).clamp(1, u64::MAX / SHARE);
        let average_ns = match self.average_ns.load(Relaxed) {
            0 => time_ns,
            before_ns => before_ns - before_ns / SHARE + time_ns / SHARE,
        };
        self.average_ns.store(average_ns, Relaxed);
    }

    pub(super) fn average(&self) -> Duration {
        Duration::from_nanos(self.average_ns.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_and_bears_a_slow_one() {
        let pace = Pace::default();
        assert_eq!(pace.average(), Duration::ZERO);
        pace.took(Duration::from_millis(2));
        assert_eq!(pace.average(), Duration::from_millis(2));
        pace.took(Duration::from_millis(18));
        assert_eq!(pace.average(), Duration::from_millis(3));
        for _ in 0..200 {
            pace.took(Duration::from_millis(10));
        }
        let average = pace.average();
        assert!(average > Duration::from_micros(9_900) && average < Duration::from_micros(10_100), "{average:?}");
        pace.took(Duration::MAX);
    }
}
