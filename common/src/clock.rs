//! The one wall-clock: the whole cluster's, as far as this machine can tell. Rooms that are pure take its reading as an
//! argument.
//!
//! In: this machine's clock, and what others say of the cluster's time. Out: microseconds of the Unix epoch. Clocks that
//! are a little apart harm nobody, and a jump does: the offset is taken once, and changed only when it is far off.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// Half of what a person notices of two pictures that should be one; more than any network delays a message for long.
const STEP_US: i64 = 250_000;

static OFFSET_US: AtomicI64 = AtomicI64::new(0);
static OFFSET: Mutex<Offset> = Mutex::new(Offset(None));

/// Microseconds of the Unix epoch.
pub fn now_us() -> i64 {
    machine_us() + OFFSET_US.load(Ordering::Relaxed)
}

/// Somebody who knows says that it is `cluster_us` now.
pub fn hear(cluster_us: i64) {
    let mut offset = OFFSET.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(step_us) = offset.hear(machine_us(), cluster_us) {
        tracing::info!(offset_ms = step_us / 1000, "the cluster's clock is taken over");
        OFFSET_US.store(step_us, Ordering::Relaxed);
    }
}

fn machine_us() -> i64 {
    // Before 1970 the clock is broken anyway; zero then, rather than a panic.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// How far the cluster's clock is ahead of this machine's; none before somebody said so.
struct Offset(Option<i64>);

impl Offset {
    /// The offset to take now, if it changes.
    fn hear(&mut self, machine_us: i64, cluster_us: i64) -> Option<i64> {
        let offset_us = cluster_us.saturating_sub(machine_us);
        let far = self.0.is_none_or(|known_us| offset_us.abs_diff(known_us) > STEP_US as u64);
        far.then(|| *self.0.insert(offset_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_taken_once_and_stepped_only_when_it_is_far_off() {
        let mut offset = Offset(None);
        assert_eq!(offset.hear(1_000_000, 4_000_000), Some(3_000_000));
        // Delays of the network, and clocks that drift.
        for cluster_us in [4_000_000, 3_999_000, 4_249_000, 3_751_000] {
            assert_eq!(offset.hear(1_000_000, cluster_us), None);
        }
        assert_eq!(offset.hear(1_000_000, 3_700_000), Some(2_700_000));
        assert_eq!(offset.hear(9_000_000, 11_700_000), None);
        assert_eq!(offset.hear(0, i64::MAX), Some(i64::MAX));
    }
}
