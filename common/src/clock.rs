//! The one wall-clock: the whole cluster's, as far as this machine can tell. Rooms that are pure take its reading as an
//! argument.
//!
//! In: this machine's clock, and what others say of the cluster's time. Out: microseconds of the Unix epoch. Clocks that
//! are a little apart harm nobody, and a jump does: the offset is taken once, and changed only when it is far off. Who can
//! ask for the time asks several times and believes the answer that came fastest: [`Readings`]. Who is only told it
//! believes what came least late of what it was told in the last seconds: [`Hearsay`].

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Half of what a person notices of two pictures that should be one; more than any network delays a message for long.
const STEP_US: i64 = 250_000;

static OFFSET_US: AtomicI64 = AtomicI64::new(0);
static OFFSET: Mutex<Offset> = Mutex::new(Offset(None));
static HEARSAY: Mutex<Hearsay> = Mutex::new(Hearsay(VecDeque::new()));
static IS_AWAITED: AtomicBool = AtomicBool::new(false);

/// Microseconds of the Unix epoch.
pub fn now_us() -> i64 {
    machine_us() + OFFSET_US.load(Ordering::Relaxed)
}

/// The cluster's clock is going to be read; until then this machine's is not to be told as that.
pub fn expect() {
    IS_AWAITED.store(true, Ordering::Relaxed);
}

/// For those who can't ask; `None` before it was read here.
pub fn to_tell_us() -> Option<i64> {
    (!IS_AWAITED.load(Ordering::Relaxed)).then(now_us)
}

/// Somebody who knows said that it was `cluster_us`, some time ago.
pub fn hear(cluster_us: i64) {
    let offset_us = cluster_us.saturating_sub(machine_us());
    let mut hearsay = HEARSAY.lock().unwrap_or_else(PoisonError::into_inner);
    take(Reading { offset_us: hearsay.hear(offset_us, Instant::now()), error_us: 0 });
}

/// The cluster's clock was read.
pub fn take(reading: Reading) {
    let mut offset = OFFSET.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(step_us) = offset.hear(reading) {
        let (offset_ms, error_ms) = (step_us as f64 / 1e3, reading.error_us as f64 / 1e3);
        tracing::info!(offset_ms, error_ms, "the cluster's clock is taken over");
        OFFSET_US.store(step_us, Ordering::Relaxed);
    }
    IS_AWAITED.store(false, Ordering::Relaxed);
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

/// How far the cluster's clock was ahead of this machine's by what was told in the last seconds, the most of each second.
/// The way takes time, and never less than none: so whatever is told late makes it less than it is, and the most is
/// the nearest. A clock that was set is followed at once if it was set forward, else when the seconds are over.
#[derive(Debug, Default)]
struct Hearsay(VecDeque<(Instant, i64)>);

impl Hearsay {
    /// Origins tell the time once a second; a connection that keeps back everything for three seconds is given up.
    const KEPT: Duration = Duration::from_secs(6);
    const SECOND: Duration = Duration::from_secs(1);

    /// The best one, counting this.
    fn hear(&mut self, offset_us: i64, now: Instant) -> i64 {
        match self.0.back_mut().filter(|(begun, _)| now.saturating_duration_since(*begun) < Self::SECOND) {
            Some((_, most_us)) => *most_us = offset_us.max(*most_us),
            None => self.0.push_back((now, offset_us)),
        }
        while self.0.front().is_some_and(|(begun, _)| now.saturating_duration_since(*begun) > Self::KEPT) {
            self.0.pop_front();
        }
        self.0.iter().map(|(_, most_us)| *most_us).max().unwrap_or(offset_us)
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

    /// An edge that two origins tell the time, over ways on which now and then everything is late.
    struct Told {
        hearsay: Hearsay,
        offset: Offset,
        begun: Instant,
        random: u64,
    }

    impl Told {
        fn new(seed: u64) -> Self {
            let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            Self { hearsay: Hearsay::default(), offset: Offset(None), begun: Instant::now(), random }
        }

        fn below(&mut self, end: u64) -> u64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % end
        }

        /// Told at this time that the clock is so far ahead, after such a delay. What it is taken for then.
        fn hear(&mut self, at_ms: u64, ahead_us: i64, late_ms: u64) -> i64 {
            let now = self.begun + Duration::from_millis(at_ms);
            let best_us = self.hearsay.hear(ahead_us - late_ms as i64 * 1_000, now);
            self.offset.hear(Reading { offset_us: best_us, error_us: 0 });
            self.offset.0.unwrap()
        }
    }

    #[test]
    fn what_is_told_late_sets_no_clock_back() {
        const AHEAD_US: i64 = 3_000_000;
        for seed in 1..=200 {
            let mut told = Told::new(seed);
            told.hear(0, AHEAD_US, 5);
            let mut late_for = 0;
            for second in 1..=600 {
                // Rarely a way holds everything back, and gives it out at once after up to three seconds.
                late_for = if late_for > 0 { late_for - 1 } else { 3 * u64::from(told.below(20) == 0) };
                for way in 0..2 {
                    let late_ms = 1 + told.below(40) + late_for * 1_000;
                    let known_us = told.hear(second * 1_000 + way * 300, AHEAD_US, late_ms);
                    assert!(known_us.abs_diff(AHEAD_US) < 50_000, "seed {seed}, second {second}: {known_us}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_is_followed_within_seconds() {
        for (step_us, within_ms) in [(2_000_000, 1_100), (-2_000_000, 8_100), (-300_000, 8_100)] {
            for seed in 1..=50 {
                let mut told = Told::new(seed);
                let mut followed_ms = None;
                for second in 0..40 {
                    let ahead_us = if second < 20 { 500_000 } else { 500_000 + step_us };
                    let late_ms = 1 + told.below(40);
                    let known_us = told.hear(second * 1_000, ahead_us, late_ms);
                    let is_followed = known_us.abs_diff(500_000 + step_us) < 50_000;
                    followed_ms = followed_ms.or(is_followed.then_some((second * 1_000).saturating_sub(19_000)));
                }
                assert!(followed_ms.is_some_and(|ms| ms <= within_ms), "{step_us}: {followed_ms:?}");
            }
        }
        let mut first = Told::new(1);
        assert_eq!(first.hear(0, 700_000, 600), 100_000, "it is all that is known");
        assert_eq!(first.hear(100, 700_000, 2), 698_000, "news that are less late say more");
    }

    #[test]
    fn however_much_is_told_little_is_kept() {
        let mut told = Told::new(1);
        for at_ms in 0..60_000 {
            told.hear(at_ms, 0, at_ms % 7);
        }
        assert!(told.hearsay.0.len() <= 7, "{}", told.hearsay.0.len());
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
