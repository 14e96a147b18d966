//! When pictures are decoded that RTP only says when to show.
//!
//! In: presentation times in the order in which pictures arrive, which is that of decoding. Out: decoding times that only
//! go on and are no later than that. Browsers send no B-frames, other encoders may (GStreamer's x264enc does by its
//! default). Deliberately absent: the bitstream; whether it says that pictures are reordered is an argument.
//!
//! The decoding times of a stream are its presentation times, sorted, so many pictures later as pictures are reordered.

/// As deep as x264 reorders by its defaults.
const DEPTH_USUAL: usize = 2;
/// H.264 and H.265 keep no more pictures than that.
const DEPTH_MAX: usize = 16;
/// Beyond this it is no reordering, but another clock.
const STEP_US_MAX: i64 = 1_000_000;
/// Where nothing else is known: after the picture before, and no more.
const DISTANCE_US: i64 = 100;

#[derive(Debug, Default)]
pub(super) struct Reorder {
    /// Pictures that a picture may be shown after, of those that were decoded after it.
    depth: usize,
    /// Presentation times that are no picture's decoding time yet, sorted.
    waiting: Vec<i64>,
    newest_us: Option<i64>,
}

impl Reorder {
    /// The decoding time of the next picture. `reorders`: what its bitstream says.
    pub(super) fn decoding_us(&mut self, shown_us: i64, reorders: bool) -> i64 {
        if reorders {
            self.depth = self.depth.max(DEPTH_USUAL);
        }
        let goes_on = |newest_us: &i64| shown_us.abs_diff(*newest_us) <= STEP_US_MAX.unsigned_abs();
        let Some(newest_us) = self.newest_us.filter(goes_on) else {
            self.waiting.clear();
            self.newest_us = Some(shown_us);
            return shown_us;
        };
        self.waiting.insert(self.waiting.partition_point(|waiting_us| *waiting_us <= shown_us), shown_us);
        let later_us = newest_us + DISTANCE_US;
        let decoded_us = match self.waiting.len() > self.depth {
            true => self.waiting.remove(0).max(later_us),
            false => later_us,
        };
        if decoded_us > shown_us && self.depth < DEPTH_MAX {
            self.depth += 1;
        }
        self.newest_us = Some(decoded_us);
        decoded_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE_US: i64 = 33_333;

    /// Decoding times of pictures that are shown in this order, as often as the order is repeated.
    fn decoded(order: &[i64], times: i64, reorders: bool) -> Vec<(i64, i64)> {
        let mut reorder = Reorder::default();
        let length = order.len() as i64;
        let shown = (0..times).flat_map(|round| order.iter().map(move |place| (round * length + place) * PICTURE_US));
        shown.map(|shown_us| (reorder.decoding_us(shown_us, reorders), shown_us)).collect()
    }

    fn assert_decodable(decoded: &[(i64, i64)]) {
        assert!(decoded.windows(2).all(|pair| pair[0].0 < pair[1].0), "it goes back: {decoded:?}");
        assert!(decoded.iter().all(|(decoded_us, shown_us)| decoded_us <= shown_us), "shown too early: {decoded:?}");
    }

    #[test]
    fn without_b_frames_a_picture_is_decoded_when_it_is_shown() {
        assert!(decoded(&[0, 1, 2], 20, false).iter().all(|(decoded_us, shown_us)| decoded_us == shown_us));
    }

    #[test]
    fn announced_b_frames_are_in_order_from_the_first_one_on() {
        for order in [&[0, 2, 1][..], &[0, 3, 1, 2], &[0, 4, 2, 1, 3]] {
            let decoded = decoded(order, 20, true);
            assert_decodable(&decoded);
            let delays = decoded[10..].iter().map(|(decoded_us, shown_us)| shown_us - decoded_us);
            assert!(delays.clone().max().unwrap() <= 5 * PICTURE_US);
            let steps: Vec<i64> = decoded[10..].windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
            assert!(steps.iter().all(|step| *step == PICTURE_US), "an even pace: {steps:?}");
        }
    }

    #[test]
    fn b_frames_that_nobody_announced_are_in_order_after_the_first_ones() {
        let decoded = decoded(&[0, 4, 2, 1, 3], 20, false);
        assert_decodable(&decoded[10..]);
    }

    #[test]
    fn another_clock_begins_anew() {
        let mut reorder = Reorder::default();
        for shown_us in [0, 100_000, 33_000, 66_000, 90_000_000, -5_000_000] {
            let decoded_us = reorder.decoding_us(shown_us, true);
            assert!(decoded_us <= shown_us);
            assert!(shown_us - decoded_us < STEP_US_MAX);
        }
    }
}
