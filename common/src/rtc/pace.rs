//! How fast a viewer is sent what is waiting for it: a keyframe, or a whole gop when it joins, must not leave as one
//! burst that overflows the first small queue on the way.
//!
//! In: bytes sent and the time. Out: whether more may leave, or when. Deliberately absent: what is sent. str0m's own
//! pacer hands out one packet per call of its timer, which costs a third more per packet and breaks up the batches
//! that segmentation offload lives on.

use std::time::{Duration, Instant};

/// What leaves at once after a pause: a usual picture, and the first part of a keyframe.
const BURST_BYTES: i64 = 48 * 1024;
/// Waiting less than this would cost more wake-ups than it smooths.
const SLOT: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Pacer {
    /// Bytes that may leave; below zero after the last packet overdrew it.
    credit: i64,
    bytes_per_s: i64,
    refilled: Instant,
}

impl Pacer {
    pub(super) fn new(now: Instant) -> Self {
        Self { credit: BURST_BYTES, bytes_per_s: 0, refilled: now }
    }

    /// At this rate from now on.
    pub(super) fn refill(&mut self, bytes_per_s: i64, now: Instant) {
        let elapsed_us = now.saturating_duration_since(self.refilled).as_micros().min(1_000_000) as i64;
        self.credit = (self.credit + elapsed_us * bytes_per_s / 1_000_000).min(BURST_BYTES);
        self.bytes_per_s = bytes_per_s;
        self.refilled = now;
    }

    pub(super) fn may_send(&self) -> bool {
        self.credit > 0
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.credit -= bytes as i64;
    }

    /// When to come back after `may_send` said no.
    pub(super) fn next(&self) -> Instant {
        let missing_us = (1 - self.credit).max(0) * 1_000_000 / self.bytes_per_s.max(1);
        self.refilled + SLOT.max(Duration::from_micros(missing_us as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        let mut now = start;
        let mut sent = 0;
        // 1 MB at 1 MB/s.
        while sent < 1_000_000 {
            pacer.refill(1_000_000, now);
            while pacer.may_send() {
                pacer.sent(1_000);
                sent += 1_000;
            }
            assert!(sent as i64 <= BURST_BYTES + 1_000 + (now - start).as_micros() as i64);
            now = pacer.next();
        }
        let took = now - start;
        assert!((0.94..1.01).contains(&took.as_secs_f64()), "{took:?}");
    }

    #[test]
    fn pauses_do_not_add_up_to_a_flood() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        pacer.refill(10_000_000, start + Duration::from_secs(3_600));
        assert_eq!(pacer.credit, BURST_BYTES);
    }
}
