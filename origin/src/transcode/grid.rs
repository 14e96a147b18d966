//! How sound keeps its time. In: the timestamp and length of each decoded frame. Out: what to do so that samples lie
//! where the source's clock says. Deliberately absent: the samples.
//!
//! Counting samples gives an exact grid, timestamps give the truth: the count is believed until the two are
//! [`DRIFT_US_MAX`] apart, because RTMP rounds to milliseconds and some devices stamp what they send when they send it.

/// Below what the ear notices against the picture (ITU-R BT.1359 puts that at 45 ms), above any rounding.
const DRIFT_US_MAX: i64 = 30_000;
/// Gaps up to this are filled with silence, so that the output goes on without a break.
const GAP_US_MAX: i64 = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Grid {
    anchor: Option<Anchor>,
}

#[derive(Clone, Copy, Debug)]
struct Anchor {
    at_us: i64,
    /// Since then.
    samples: i64,
    rate: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Continue,
    /// Put this much in front of the frame.
    Silence {
        us: i64,
    },
    /// Leave out this much, of this frame and the following ones.
    Skip {
        us: i64,
    },
    /// The output's clock starts anew at this frame.
    Restart {
        at_us: i64,
    },
}

impl Grid {
    pub(super) fn place(&mut self, pts_us: i64, samples: usize, rate: u32) -> Step {
        let Some(expected) = self.anchor.map(|anchor| anchor.moved_to(rate)) else {
            return self.restart(pts_us, samples, rate);
        };
        let drift_us = pts_us - expected.now_us();
        if drift_us.abs() > GAP_US_MAX {
            return self.restart(pts_us, samples, rate);
        }
        let (shift_us, step) = match drift_us {
            _ if drift_us > DRIFT_US_MAX => (drift_us, Step::Silence { us: drift_us }),
            _ if drift_us < -DRIFT_US_MAX => (drift_us, Step::Skip { us: -drift_us }),
            _ => (0, Step::Continue),
        };
        let at_us = expected.at_us + shift_us;
        self.anchor = Some(Anchor { at_us, samples: expected.samples + samples as i64, rate });
        step
    }

    /// A frame that could not be decoded had this many samples: returns how much silence takes their place.
    pub(super) fn lose(&mut self, samples: usize) -> i64 {
        let Some(anchor) = &mut self.anchor else { return 0 };
        let before_us = anchor.now_us();
        anchor.samples += samples as i64;
        anchor.now_us() - before_us
    }

    fn restart(&mut self, at_us: i64, samples: usize, rate: u32) -> Step {
        self.anchor = Some(Anchor { at_us, samples: samples as i64, rate });
        Step::Restart { at_us }
    }
}

impl Anchor {
    fn now_us(self) -> i64 {
        self.at_us + samples_us(self.samples, self.rate)
    }

    fn moved_to(self, rate: u32) -> Self {
        if rate == self.rate { self } else { Self { at_us: self.now_us(), samples: 0, rate } }
    }
}

pub(super) fn samples_us(samples: i64, rate: u32) -> i64 {
    (i128::from(samples) * 1_000_000 / i128::from(rate.max(1))) as i64
}

pub(super) fn us_samples(us: i64, rate: u32) -> i64 {
    (i128::from(us) * i128::from(rate) / 1_000_000) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_ignored_and_drift_is_not() {
        let mut grid = Grid::default();
        assert_eq!(grid.place(5_000_000, 1024, 44_100), Step::Restart { at_us: 5_000_000 });
        for frame in 1..1000i64 {
            let exact_us = 5_000_000 + frame * 1024 * 1_000_000 / 44_100;
            assert_eq!(grid.place(exact_us / 1000 * 1000, 1024, 44_100), Step::Continue);
        }
        let next_us = 5_000_000 + 1000 * 1024 * 1_000_000 / 44_100;
        assert_eq!(grid.place(next_us + 40_000, 1024, 44_100), Step::Silence { us: 40_000 });
        assert_eq!(grid.place(next_us + 40_000 + 23_219, 1024, 44_100), Step::Continue);
        let next_us = next_us + 40_000 + 2 * 23_219;
        assert!(matches!(grid.place(next_us - 50_000, 1024, 44_100), Step::Skip { us: 50_000..50_010 }));
        assert_eq!(grid.place(next_us - 50_000 + 23_219, 1024, 44_100), Step::Continue);
    }

    #[test]
    fn a_lost_frame_leaves_its_place_and_a_long_gap_starts_over() {
        let mut grid = Grid::default();
        grid.place(0, 960, 48_000);
        assert_eq!(grid.lose(960), 20_000);
        assert_eq!(grid.place(40_000, 960, 48_000), Step::Continue);
        // Another rate goes on where the last one stopped.
        assert_eq!(grid.place(60_000, 882, 44_100), Step::Continue);
        assert_eq!(grid.place(80_000, 882, 44_100), Step::Continue);
        assert_eq!(grid.place(3_000_000, 882, 44_100), Step::Restart { at_us: 3_000_000 });
        assert_eq!(grid.place(-500_000, 882, 44_100), Step::Restart { at_us: -500_000 });
    }
}
