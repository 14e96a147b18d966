//! How much the source spends. In: sizes and times of its frames. Out: bits and pictures per second, which bound what
//! the encoder may spend. Deliberately absent: the clock.

/// Long enough to hold a keyframe of most encoders, short enough to notice that a slide became a film.
const WINDOW_US: i64 = 2_000_000;
/// Less than this says nothing.
const WINDOW_US_MIN: i64 = 400_000;

#[derive(Debug, Default)]
pub(super) struct Rate {
    began_us: Option<i64>,
    bytes: usize,
    frames: u32,
    newest_us: i64,
    settled: Option<Measured>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) bits_per_s: f64,
    pub(super) frames_per_s: f64,
}

impl Rate {
    pub(super) fn add(&mut self, dts_us: i64, bytes: usize) {
        let began_us = *self.began_us.get_or_insert(dts_us);
        let lasted_us = dts_us - began_us;
        if !(0..=WINDOW_US * 2).contains(&lasted_us) {
            // The source rested or jumped: the window says nothing.
            (self.began_us, self.bytes, self.frames) = (Some(dts_us), 0, 0);
        } else if lasted_us >= WINDOW_US {
            if let Some(now) = self.window(dts_us) {
                self.settled = Some(match self.settled {
                    // Upwards at once, downwards slowly: a cap that is too low is seen, one too high is not.
                    Some(before) if before.bits_per_s > now.bits_per_s => Measured {
                        bits_per_s: before.bits_per_s * 0.9 + now.bits_per_s * 0.1,
                        frames_per_s: now.frames_per_s,
                    },
                    _ => now,
                });
            }
            (self.began_us, self.bytes, self.frames) = (Some(dts_us), 0, 0);
        }
        self.bytes += bytes;
        self.frames += 1;
        self.newest_us = dts_us;
    }

    pub(super) fn measured(&self) -> Option<Measured> {
        self.settled.or_else(|| self.window(self.newest_us))
    }

    fn window(&self, until_us: i64) -> Option<Measured> {
        let lasted_us = until_us - self.began_us?;
        if lasted_us < WINDOW_US_MIN {
            return None;
        }
        // Before the window's end is reached, its newest frame lies at the end of what was measured.
        let frames = if until_us == self.newest_us { self.frames - 1 } else { self.frames };
        let lasted_s = lasted_us as f64 / 1e6;
        Some(Measured { bits_per_s: self.bytes as f64 * 8.0 / lasted_s, frames_per_s: f64::from(frames) / lasted_s })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_source_is_measured_and_a_burst_is_followed() {
        let mut rate = Rate::default();
        assert_eq!(rate.measured(), None);
        let mut at_us = 0;
        let mut feed = |rate: &mut Rate, frames: usize, bytes: usize| {
            for _ in 0..frames {
                rate.add(at_us, bytes);
                at_us += 33_333;
            }
        };
        feed(&mut rate, 20, 10_000);
        let early = rate.measured().unwrap();
        assert!((early.frames_per_s - 30.0).abs() < 0.1, "{early:?}");
        feed(&mut rate, 300, 10_000);
        let steady = rate.measured().unwrap();
        assert!((steady.bits_per_s - 2_400_000.0).abs() < 100_000.0 && (steady.frames_per_s - 30.0).abs() < 0.1);
        feed(&mut rate, 130, 30_000);
        assert!(rate.measured().unwrap().bits_per_s > 6_500_000.0);
        feed(&mut rate, 130, 1_000);
        assert!(rate.measured().unwrap().bits_per_s > 5_000_000.0, "downwards slowly");
    }
}
