//! How much a peer may say: so much at once, then so much a second.
//!
//! In: the length of a message and the time. Out: whether it may pass. Deliberately absent: messages and peers.

use std::time::{Duration, Instant};

/// What may be said at once after a pause, as so much time at the steady rate: a small file in pieces.
const BURST: Duration = Duration::from_secs(5);
/// What is refused before a peer is given up: one that goes on at four times the rate is heard for 15 seconds, up to
/// twice the rate for ever.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) messages_per_s: u32,
    pub(super) bytes_per_s: u32,
}

impl Rate {
    /// A message takes its share of a second, by count or by bytes, whichever is more.
    fn cost(self, bytes: usize) -> Duration {
        let by_count = Duration::from_secs(1) / self.messages_per_s;
        let by_bytes = Duration::from_nanos(bytes as u64 * 1_000_000_000 / u64::from(self.bytes_per_s));
        by_count.max(by_bytes)
    }
}

/// The generic cell rate algorithm: a token bucket whose level is one instant, that at which what was taken would have
/// been earned at the steady rate.
#[derive(Debug)]
pub(super) struct Allowance {
    rate: Rate,
    burst: Duration,
    earned: Option<Instant>,
}

impl Allowance {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, burst: BURST, earned: None }
    }

    /// `false` if it is too much.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let earned = self.earned.map_or(now, |earned| earned.max(now)) + self.rate.cost(bytes);
        let granted = earned - now <= self.burst;
        if granted {
            self.earned = Some(earned);
        }
        granted
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Granted,
    Refused,
    /// It was refused so much that it does not look like an accident.
    GivenUp,
}

#[derive(Debug)]
pub(super) struct Budget {
    allowance: Allowance,
    /// Runs out when more is refused than granted, for long.
    patience: Allowance,
}

impl Budget {
    pub(super) fn new(rate: Rate) -> Self {
        Self { allowance: Allowance::new(rate), patience: Allowance { rate, burst: PATIENCE, earned: None } }
    }

    pub(super) fn spend(&mut self, bytes: usize, now: Instant) -> Verdict {
        if self.allowance.take(bytes, now) { Verdict::Granted } else { self.refuse(bytes, now) }
    }

    /// For what would not pass at any rate.
    pub(super) fn refuse(&mut self, bytes: usize, now: Instant) -> Verdict {
        if self.patience.take(bytes, now) { Verdict::Refused } else { Verdict::GivenUp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { messages_per_s: 100, bytes_per_s: 100_000 };

    /// Verdicts for messages at this rate, until it is given up or a minute has passed.
    fn sent(messages_per_s: u32, bytes: usize) -> (Vec<Verdict>, Duration) {
        let (start, mut budget) = (Instant::now(), Budget::new(RATE));
        let mut verdicts = Vec::new();
        for i in 0..60 * messages_per_s {
            let after = Duration::from_secs(1) * i / messages_per_s;
            verdicts.push(budget.spend(bytes, start + after));
            if verdicts.last() == Some(&Verdict::GivenUp) {
                return (verdicts, after);
            }
        }
        (verdicts, Duration::from_secs(60))
    }

    fn granted(verdicts: &[Verdict]) -> usize {
        verdicts.iter().filter(|verdict| **verdict == Verdict::Granted).count()
    }

    #[test]
    fn who_keeps_to_the_rate_is_always_heard() {
        for (messages_per_s, bytes) in [(100, 10), (100, 1_000), (2, 50_000)] {
            let (verdicts, _) = sent(messages_per_s, bytes);
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Granted), "{bytes} bytes");
        }
    }

    #[test]
    fn what_is_above_the_rate_is_refused_and_the_rest_is_heard() {
        for (messages_per_s, bytes) in [(150, 10), (15, 10_000)] {
            let (verdicts, after) = sent(messages_per_s, bytes);
            assert_eq!(after, Duration::from_secs(60), "not far above");
            let expected = verdicts.len() * 2 / 3 + 5 * 2 * messages_per_s as usize / 3;
            assert!(granted(&verdicts).abs_diff(expected) <= 2, "{} of {expected}", granted(&verdicts));
        }
    }

    #[test]
    fn who_is_far_above_for_long_is_given_up() {
        for (messages_per_s, bytes) in [(400, 10), (40, 10_000)] {
            let (_, after) = sent(messages_per_s, bytes);
            assert!((14..18).contains(&after.as_secs()), "{after:?}");
        }
    }

    #[test]
    fn a_pause_earns_no_more_than_a_burst() {
        let (start, mut allowance) = (Instant::now(), Allowance::new(RATE));
        assert!(allowance.take(10, start));
        let later = start + Duration::from_secs(3_600);
        let taken = (0..10_000).take_while(|_| allowance.take(10, later)).count();
        assert_eq!(taken, 500);
    }
}
