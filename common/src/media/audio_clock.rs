//! Gives sound the exact times its protocol rounded away. In: decoding times of access units, rounded to milliseconds
//! (RTMP). Out: times on the grid of samples, where each access unit starts as its predecessor ends. Deliberately
//! absent: filling gaps. A time that strays from the grid by more than the tolerance starts a new grid.

/// Farther off than this, the publisher lost or gained sound: following it keeps picture and sound together.
const TOLERANCE_US: i64 = 30_000;

/// A clock that steps back farther than this is another clock, and its times pass through.
const SAME_CLOCK_US: i64 = 1_000_000;

#[derive(Clone, Debug)]
pub struct AudioClock {
    samples_per_frame: u32,
    sample_rate: u32,
    grid: Option<Grid>,
}

#[derive(Clone, Copy, Debug)]
struct Grid {
    origin_us: i64,
    /// Since the origin, up to the end of the last access unit.
    samples: u64,
    last_us: i64,
}

impl AudioClock {
    /// `samples_per_frame` at `sample_rate`, as [`Info`](super::Info) says. Neither may be 0.
    pub fn new(samples_per_frame: u32, sample_rate: u32) -> Self {
        Self { samples_per_frame: samples_per_frame.max(1), sample_rate: sample_rate.max(1), grid: None }
    }

    /// The exact time of the access unit whose rounded time is `dts_us`.
    pub fn snap(&mut self, dts_us: i64) -> i64 {
        let exact = match self.grid {
            None => dts_us,
            Some(grid) => {
                let expected = grid.origin_us.saturating_add(self.duration_us(grid.samples));
                let drift = dts_us.saturating_sub(expected);
                if drift.abs() < TOLERANCE_US {
                    expected
                } else if drift < -SAME_CLOCK_US {
                    dts_us
                } else {
                    // Never onto or before the last access unit, however far behind the publisher says it is.
                    dts_us.max(grid.last_us.saturating_add(self.duration_us(self.samples_per_frame.into()) / 2 + 1))
                }
            }
        };
        let samples = u64::from(self.samples_per_frame);
        self.grid = Some(match self.grid {
            Some(grid) if exact == grid.origin_us.saturating_add(self.duration_us(grid.samples)) => {
                Grid { samples: grid.samples + samples, last_us: exact, ..grid }
            }
            _ => Grid { origin_us: exact, samples, last_us: exact },
        });
        exact
    }

    fn duration_us(&self, samples: u64) -> i64 {
        let rate = u128::from(self.sample_rate);
        ((u128::from(samples) * 1_000_000 + rate / 2) / rate) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_rounded_times_comes_back_exact() {
        let mut clock = AudioClock::new(1024, 44_100);
        for frame in 0..4_000_000u64 {
            let exact = (frame * 1024 * 1_000_000 + 22_050) / 44_100;
            let rounded = (exact / 1000 * 1000) as i64;
            assert_eq!(clock.snap(rounded), exact as i64);
        }
    }

    #[test]
    fn a_gap_starts_a_new_grid() {
        let mut clock = AudioClock::new(1024, 48_000);
        assert_eq!([0, 21_000, 43_000].map(|dts| clock.snap(dts)), [0, 21_333, 42_667]);
        assert_eq!([500_000, 521_000].map(|dts| clock.snap(dts)), [500_000, 521_333]);
    }

    #[test]
    fn drift_is_followed_and_time_never_stands_still() {
        // A sound card that is 2 % slow, then one that is 2 % fast.
        for pace in [21_760, 20_906] {
            let mut clock = AudioClock::new(1024, 48_000);
            let mut last = -1;
            for frame in 0..10_000 {
                let exact = clock.snap(frame * pace);
                assert!(exact > last && (exact - frame * pace).abs() < TOLERANCE_US, "{frame}: {exact}");
                last = exact;
            }
        }
    }

    #[test]
    fn another_clock_passes_through() {
        let mut clock = AudioClock::new(1024, 48_000);
        assert_eq!([90_000_000, 5_000, 26_000].map(|dts| clock.snap(dts)), [90_000_000, 5_000, 26_333]);
    }
}
