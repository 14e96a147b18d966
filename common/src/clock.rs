//! The one wall-clock: the whole cluster's, as far as this machine can tell. Rooms that are pure take its reading as an
//! argument.
//!
//! In: this machine's clock, and what others say of the cluster's time. Out: microseconds of the Unix epoch. Clocks that
//! are a little apart harm nobody, and a jump does: the offset is taken once, and changed only when it is far off. Who can
//! ask for the time asks several times and believes the answer that came fastest: [`Readings`].

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
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
    take(Reading { offset_us: cluster_us.saturating_sub(machine_us()), error_us: 0 });
}

/// The cluster's clock was read.
pub fn take(reading: Reading) {
    let mut offset = OFFSET.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(step_us) = offset.hear(reading) {
        let (offset_ms, error_ms) = (step_us as f64 / 1e3, reading.error_us as f64 / 1e3);
        tracing::info!(offset_ms, error_ms, "the cluster's clock is taken over");
        OFFSET_US.store(step_us, Ordering::Relaxed);
    }
}

/// What one reading of another machine's clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// How far that clock is ahead of this machine's.
    pub offset_us: i64,
    /// How far off that may be, to either side.
    pub error_us: i64,
}

impl Reading {
    /// An answer that came now: its clock was read at some time of the trip, and rounded down to milliseconds.
    pub fn of_answer(server_ms: i64, trip: Duration) -> Self {
        Self::at(machine_us(), server_ms, trip)
    }

    fn at(answered_us: i64, server_ms: i64, trip: Duration) -> Self {
        let half_us = trip.as_micros() as i64 / 2;
        let server_us = server_ms.saturating_mul(1_000).saturating_add(500);
        Self { offset_us: server_us.saturating_sub(answered_us - half_us), error_us: half_us + 500 }
    }
}

/// The last few readings of one clock. The shortest trip says most (RFC 5905 section 10).
#[derive(Debug, Default)]
pub struct Readings(VecDeque<Reading>);

impl Readings {
    /// As many as NTP keeps.
    const MAX: usize = 8;

    /// The best one, counting this.
    pub fn take(&mut self, reading: Reading) -> Reading {
        self.0.truncate(Self::MAX - 1);
        self.0.push_front(reading);
        // Of two that are as good the newer one.
        self.0.iter().min_by_key(|reading| reading.error_us).copied().unwrap_or(reading)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
    fn hear(&mut self, Reading { offset_us, error_us }: Reading) -> Option<i64> {
        let far_us = STEP_US.saturating_add(error_us).unsigned_abs();
        let far = self.0.is_none_or(|known_us| offset_us.abs_diff(known_us) > far_us);
        far.then(|| *self.0.insert(offset_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_taken_once_and_stepped_only_when_it_is_far_off() {
        let mut offset = Offset(None);
        let mut hear = |offset_us, error_us| offset.hear(Reading { offset_us, error_us });
        assert_eq!(hear(3_000_000, 0), Some(3_000_000));
        // Delays of the network, and clocks that drift.
        for offset_us in [3_000_000, 2_999_000, 3_249_000, 2_751_000] {
            assert_eq!(hear(offset_us, 0), None);
        }
        assert_eq!(hear(2_700_000, 60_000), None, "who may be wrong by more is believed less");
        assert_eq!(hear(2_700_000, 0), Some(2_700_000));
        assert_eq!(hear(i64::MAX, 500), Some(i64::MAX));
    }

    #[test]
    fn the_shortest_trip_of_the_last_few_is_believed() {
        const AHEAD_US: i64 = 3_600_000_000;
        let mut readings = Readings::default();
        let mut now_us = 1_700_000_000_000_000;
        // Trips, and how much of them it took to get there, in milliseconds: the first one connects before it asks.
        let mut read = |trip_ms: u64, there_ms: i64| {
            now_us += 1_000_000;
            let answered_us = now_us + trip_ms as i64 * 1_000;
            let server_us = now_us + there_ms * 1_000 + AHEAD_US;
            readings.take(Reading::at(answered_us, server_us / 1_000, Duration::from_millis(trip_ms)))
        };
        let off = |reading: Reading| reading.offset_us.abs_diff(AHEAD_US) as i64;
        let slow = read(240, 230);
        assert!(off(slow) >= 100_000 && off(slow) <= slow.error_us, "half of what it took to connect: {slow:?}");
        for (trip_ms, there_ms) in [(40, 39), (4, 1), (90, 2), (30, 1)] {
            let best = read(trip_ms, there_ms);
            assert!(off(best) <= best.error_us, "{best:?}");
        }
        let best = read(20, 10);
        assert!(best.error_us <= 2_500 && off(best) <= 2_500, "{best:?}");
        // What was read long ago is forgotten: clocks drift.
        for _ in 0..8 {
            read(50, 25);
        }
        assert_eq!(read(50, 25).error_us, 25_500);
    }
}
