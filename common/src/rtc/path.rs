//! What the path to a viewer carries, as far as anybody knows.
//!
//! In: estimates of the stack or of the receiver, the loss that the receiver reports. Out: what may be spent on a layer,
//! and the rate that sending is bound to. Deliberately absent: choosing a layer, and sending.

use std::time::{Duration, Instant};

use str0m::bwe::BweKind;

use super::{answer::FIRST_ESTIMATE, layers::Estimate};

/// An estimate below this part of the one before has fallen: somebody saw a queue grow. For so long it is heeded; one that
/// only grew is low because little was sent, and says nothing about what the path carries.
const FALLEN: f64 = 0.95;
const NARROW_FOR: Duration = Duration::from_secs(10);
/// More loss than any wireless network has: the path has become narrow. It is counted over so long, so that the part
/// that is being lost now is about twice as large.
const LOSS_MUCH: f64 = 0.2;
const LOSS_OVER: Duration = Duration::from_secs(1);

/// What was lost while the peer could not be reached is reported within so long once it can be again.
const REPORTED: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Path {
    /// `None` as long as the peer has not told, and for one that can't.
    estimate: Option<Estimate>,
    /// When it has fallen last.
    fell: Option<Instant>,
    /// The part of the packets that was lost lately.
    lost: f64,
    switched: Option<Instant>,
    /// Since when it is another path than before, as long as reports still tell of that.
    renewed: Option<Instant>,
}

impl Path {
    /// With a peer that reports on every packet, or not.
    pub(super) fn new(probes: bool) -> Self {
        let estimate = probes.then_some(Estimate { bits_per_s: FIRST_ESTIMATE.as_u64(), probes });
        Self { estimate, ..Self::default() }
    }

    /// The peer is heard from elsewhere, or again after a silence: nothing is known of how it is reached now, and what
    /// was lost meanwhile says nothing about it.
    pub(super) fn renew(&mut self, now: Instant) {
        *self = Self { renewed: Some(now), ..Self::new(self.probes()) };
    }

    /// Whether what is reported is of the new path from here on: true once, when it is time to estimate from the beginning.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        self.renewed.take_if(|renewed| now.saturating_duration_since(*renewed) >= REPORTED).is_some()
    }

    /// Returns the estimate (bits per second) if it is heeded.
    pub(super) fn estimated(&mut self, kind: &BweKind, now: Instant) -> Option<u64> {
        let (bits_per_s, probes) = match kind {
            BweKind::Twcc { estimate, can_probe } => (estimate.as_u64(), *can_probe),
            BweKind::Remb { estimate, .. } => (estimate.as_u64(), false),
            _ => return None,
        };
        // Who reports on every packet need not be asked what it believes itself.
        if self.renewed.is_some() || (!probes && self.estimate.is_some_and(|known| known.probes)) {
            return None;
        }
        if self.estimate.is_some_and(|known| (bits_per_s as f64) < known.bits_per_s as f64 * FALLEN) {
            self.fell = Some(now);
        }
        self.estimate = Some(Estimate { bits_per_s, probes });
        Some(bits_per_s)
    }

    pub(super) fn loses(&mut self, part: f32) {
        self.lost = if self.renewed.is_none() { part.into() } else { 0.0 };
    }

    pub(super) fn is_losing(&self) -> bool {
        self.lost >= LOSS_MUCH
    }

    /// Something else is sent from now on.
    pub(super) fn switched(&mut self, now: Instant) {
        self.switched = Some(now);
    }

    /// The estimate, unless much less gets through: a path that becomes narrow at once fills its queue within a few
    /// packets, and what the delay tells about that is over before the estimator is sure of it.
    pub(super) fn carries(&self, sent_bits_per_s: u64, now: Instant) -> Option<Estimate> {
        let estimate = self.estimate?;
        let something_else = self.switched.is_some_and(|at| now.saturating_duration_since(at) < LOSS_OVER);
        if !self.is_losing() || something_else {
            return Some(estimate);
        }
        let arrives = (sent_bits_per_s as f64 * (1.0 - 2.0 * self.lost)) as u64;
        Some(Estimate { bits_per_s: estimate.bits_per_s.min(arrives), ..estimate })
    }

    /// Whether more than what is sent can be found out about.
    pub(super) fn probes(&self) -> bool {
        self.estimate.is_some_and(|estimate| estimate.probes)
    }

    /// Bytes per second that sending is bound to, if it is.
    pub(super) fn binds(&self, now: Instant) -> Option<i64> {
        let narrow = self.fell.is_some_and(|at| now.saturating_duration_since(at) < NARROW_FOR);
        self.estimate.filter(|_| narrow).map(|estimate| (estimate.bits_per_s / 8) as i64)
    }
}

#[cfg(test)]
mod tests {
    use str0m::bwe::Bitrate;

    use super::*;

    fn remb(kbps: u64) -> BweKind {
        BweKind::Remb { estimate: Bitrate::kbps(kbps), mid: "0".into() }
    }

    fn twcc(kbps: u64) -> BweKind {
        BweKind::Twcc { estimate: Bitrate::kbps(kbps), can_probe: true }
    }

    #[test]
    fn an_estimate_binds_once_it_has_fallen_and_not_for_ever() {
        let now = Instant::now();
        let mut path = Path::new(false);
        for kbps in [100, 108, 106] {
            assert_eq!(path.estimated(&remb(kbps), now), Some(kbps * 1_000));
        }
        assert_eq!(path.binds(now), None);
        path.estimated(&remb(80), now);
        assert_eq!(path.binds(now), Some(10_000));
        assert_eq!(path.binds(now + NARROW_FOR), None);
    }

    #[test]
    fn what_is_estimated_from_every_packet_comes_first() {
        let now = Instant::now();
        let mut path = Path::new(true);
        assert_eq!(path.estimated(&remb(50), now), None);
        assert_eq!(path.estimated(&twcc(900), now), Some(900_000));
        assert_eq!(path.carries(0, now), Some(Estimate { bits_per_s: 900_000, probes: true }));
    }

    #[test]
    fn nothing_is_concluded_from_what_was_lost_between_two_paths() {
        let start = Instant::now();
        let mut path = Path::new(true);
        path.estimated(&twcc(3_000), start);
        path.renew(start);
        assert_eq!(path.estimated(&twcc(200), start), None);
        path.loses(0.7);
        assert!(!path.is_losing());
        assert_eq!(path.binds(start), None);
        assert!(!path.begins(start + REPORTED / 2));
        let reported = start + REPORTED;
        assert!(path.begins(reported));
        assert!(!path.begins(reported), "once");
        assert_eq!(path.estimated(&twcc(900), reported), Some(900_000));
        path.loses(0.7);
        assert!(path.is_losing());
    }

    #[test]
    fn much_loss_says_more_than_the_estimate_unless_it_was_of_something_else() {
        let now = Instant::now();
        let mut path = Path::new(true);
        path.estimated(&twcc(5_000), now);
        let carries = |path: &Path, now| path.carries(1_000_000, now).unwrap().bits_per_s;
        path.loses(0.1);
        assert_eq!(carries(&path, now), 5_000_000);
        path.loses(0.25);
        assert_eq!(carries(&path, now), 500_000);
        path.loses(1.0);
        assert_eq!(carries(&path, now), 0);
        path.switched(now);
        assert_eq!(carries(&path, now), 5_000_000);
        assert_eq!(carries(&path, now + LOSS_OVER), 0);
    }
}
