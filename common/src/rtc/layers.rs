//! Which of a broadcast's layers a viewer is sent: the same picture in several sizes, of which its network carries one.
//!
//! In: the layers there are, what the network is estimated to carry, what the viewer asked for, the time. Out: the layer
//! it should be sent, and the rate for which room should be looked for. Deliberately absent: the estimate itself
//! (str0m's, or the receiver's), tracks, and waiting for keyframes.
//!
//! Down is quick and up is careful: too much is seen at once (a picture that stands still), too little hardly. Sound is
//! paid first. A climb that failed is not repeated soon, so that a link that lies about itself doesn't make the picture
//! jump for ever.

use std::time::{Duration, Instant};

/// What a layer takes must fit so many times into the estimate before it is climbed to: encoders overshoot.
const ROOM_TO_CLIMB: f64 = 1.2;
/// The room must have been there for so long.
const CLIMB_AFTER: Duration = Duration::from_millis(600);
/// An estimate falls for a moment whenever a queue on the way has filled for a moment: this is waited for it to return.
const FALL_AFTER: Duration = Duration::from_secs(2);
/// Below this part of what the layer takes that is no moment's matter, and below this one nothing is waited for.
const FAR_BELOW: f64 = 0.7;
const FALL_AFTER_FAR: Duration = Duration::from_millis(150);
const HOPELESS: f64 = 0.5;
/// What is fallen to takes no more than this part of the estimate: the queue on the way has to empty. An estimate that
/// is far below is still falling.
const SPENT_AFTER_FALL: f64 = 0.9;
const SPENT_AFTER_FAR_FALL: f64 = 0.5;
/// Nobody climbs this soon after a fall.
const SETTLE: Duration = Duration::from_secs(2);
/// A layer that was fallen from within this time was no success.
const PROVEN_AFTER: Duration = Duration::from_secs(10);
/// How long to stay away from what has just failed: doubles with each failure in a row.
const STAY_AWAY: Duration = Duration::from_secs(4);
const STAY_AWAY_MAX: Duration = Duration::from_secs(64);
/// With so much more room than last time it is another link.
const ROOM_THAT_FORGIVES: f64 = 2.0;
/// Room is looked for this often, and for this long each time. A probe finds less than twice what was known; one that
/// found some is followed by another at once.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_AGAIN: Duration = Duration::from_millis(400);
const PROBE_FOR: Duration = Duration::from_millis(250);
const FOUND: f64 = 1.1;
/// A receiver's own estimate never exceeds what it is sent by much, and nothing can be probed: a layer that would not
/// fit is tried after so long without trouble,
const TRY_AFTER: Duration = Duration::from_secs(6);
/// and the estimate must grow by this factor per second until it fits. Receivers let it grow by 1.08.
const GROWTH_WHEN_TRIED: f64 = 1.04;

/// One of the sizes, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer<Id> {
    pub(super) id: Id,
    pub(super) height: u32,
    pub(super) bits_per_s: u64,
}

/// What a viewer wants to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quality {
    /// What its network carries.
    #[default]
    Auto,
    /// The layer of this height, whatever the network carries; as long as there is none, as [`Quality::Auto`].
    Height(u32),
}

/// What the network carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) bits_per_s: u64,
    /// Whether it can grow beyond what is sent, by probing for it.
    pub(super) probes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice<Id> {
    pub(super) layer: Id,
    /// The estimator should find out whether there is room for this much, sound included.
    pub(super) look_for_bits_per_s: u64,
}

#[derive(Debug)]
pub(super) struct Switch<Id> {
    pub(super) quality: Quality,
    current: Option<Layer<Id>>,
    climbed: Option<Instant>,
    /// What could be spent when the current layer was tried without room for it.
    tried_with: Option<f64>,
    fallen: Option<Instant>,
    /// Since when the estimate is below what is sent; far below it.
    short: Option<Instant>,
    far_short: Option<Instant>,
    /// Since when there is room for more.
    roomy: Option<Instant>,
    /// What the layer takes that was fallen from right after it was climbed to, and how long to stay away from it.
    failed: Option<(u64, Duration)>,
    /// When room was looked for last, and what could be spent then.
    probed: Option<(Instant, f64)>,
}

impl<Id> Default for Switch<Id> {
    fn default() -> Self {
        Self {
            quality: Quality::Auto,
            current: None,
            climbed: None,
            tried_with: None,
            fallen: None,
            short: None,
            far_short: None,
            roomy: None,
            failed: None,
            probed: None,
        }
    }
}

impl<Id: Copy + PartialEq> Switch<Id> {
    /// `layers` are those that live now. Without an estimate (a peer that can't tell) the best is chosen. `None` if
    /// there are no layers.
    pub(super) fn choose(
        &mut self,
        layers: &[Layer<Id>],
        sound_bits_per_s: u64,
        estimate: Option<Estimate>,
        now: Instant,
    ) -> Option<Choice<Id>> {
        let mut sorted = layers.to_vec();
        sorted.sort_by_key(|layer| (layer.height, layer.bits_per_s));
        let (least, best) = (*sorted.first()?, *sorted.last()?);
        let pinned = match self.quality {
            Quality::Auto => None,
            Quality::Height(height) => sorted.iter().rfind(|layer| layer.height == height).copied(),
        };
        let budget = estimate.map(|estimate| Budget {
            bits_per_s: estimate.bits_per_s.saturating_sub(sound_bits_per_s) as f64,
            probes: estimate.probes,
        });
        let known = self.current.and_then(|current| sorted.iter().find(|layer| layer.id == current.id).copied());
        let layer = match (pinned, budget, known) {
            (Some(pinned), _, _) => self.settle_on(pinned),
            (None, None, _) => self.settle_on(best),
            // The first, or the one so far has gone.
            (None, Some(budget), None) => self.settle_on(budget.best_of(&sorted, 1.0).unwrap_or(least)),
            (None, Some(budget), Some(current)) => self.step(&sorted, current, budget, now),
        };
        self.current = Some(layer);
        let enough = pinned.unwrap_or(best).bits_per_s as f64 * ROOM_TO_CLIMB * 1.05;
        let short = budget.filter(|budget| budget.bits_per_s < enough);
        let probes = short.is_some_and(|budget| self.is_probing(budget, now));
        let look_for = if probes { enough as u64 } else { layer.bits_per_s };
        Some(Choice { layer: layer.id, look_for_bits_per_s: look_for + sound_bits_per_s })
    }

    fn settle_on(&mut self, layer: Layer<Id>) -> Layer<Id> {
        let quality = self.quality;
        *self = Self { quality, probed: self.probed, ..Self::default() };
        layer
    }

    fn step(&mut self, sorted: &[Layer<Id>], current: Layer<Id>, budget: Budget, now: Instant) -> Layer<Id> {
        let needs = self.needs(current, budget, now);
        let ago = |at: Instant| now.saturating_duration_since(at);
        let rested = self.fallen.is_none_or(|at| ago(at) >= SETTLE);
        let below: Vec<_> = sorted.iter().take_while(|layer| layer.id != current.id).copied().collect();
        since(&mut self.short, budget.bits_per_s < needs && rested, now);
        since(&mut self.far_short, budget.bits_per_s < needs * FAR_BELOW, now);
        let far = lasts(self.far_short, FALL_AFTER_FAR, now) || budget.bits_per_s < needs * HOPELESS;
        if let (true, Some(&least)) = (far || lasts(self.short, FALL_AFTER, now), below.first()) {
            match self.climbed {
                Some(at) if ago(at) < PROVEN_AFTER => {
                    let longer = self.failed.map_or(STAY_AWAY, |(_, last)| (last * 2).min(STAY_AWAY_MAX));
                    self.failed = Some((current.bits_per_s, longer));
                }
                Some(_) => self.failed = None,
                None => {}
            }
            (self.fallen, self.climbed, self.tried_with) = (Some(now), None, None);
            (self.short, self.far_short, self.roomy) = (None, None, None);
            let spent = if far { SPENT_AFTER_FAR_FALL } else { SPENT_AFTER_FALL };
            return budget.best_of(&below, spent).unwrap_or(least);
        }
        let bearable = |layer: &&Layer<Id>| match (self.failed, self.fallen) {
            (Some((bits_per_s, stay_away)), Some(at)) if layer.bits_per_s >= bits_per_s => {
                let forgiven = budget.bits_per_s > layer.bits_per_s as f64 * ROOM_THAT_FORGIVES;
                forgiven || ago(at) >= stay_away
            }
            _ => true,
        };
        let above: Vec<_> = sorted[below.len() + 1..].iter().take_while(bearable).copied().collect();
        let fitting = budget.best_of(&above, 1.0 / ROOM_TO_CLIMB);
        let unhindered = !budget.probes && self.short.is_none() && self.tried_with.is_none();
        let patience = if fitting.is_some() { CLIMB_AFTER } else { TRY_AFTER };
        let to = fitting.or(above.first().copied().filter(|_| unhindered));
        since(&mut self.roomy, to.is_some() && rested, now);
        match to {
            Some(to) if lasts(self.roomy, patience, now) => {
                (self.climbed, self.roomy) = (Some(now), None);
                self.tried_with = fitting.is_none().then_some(budget.bits_per_s);
                to
            }
            _ => current,
        }
    }

    /// The least that must be there for the current layer to stay.
    fn needs(&mut self, current: Layer<Id>, budget: Budget, now: Instant) -> f64 {
        let needs = current.bits_per_s as f64;
        self.tried_with = self.tried_with.filter(|_| budget.bits_per_s < needs);
        match (self.tried_with, self.climbed) {
            (Some(with), Some(at)) => {
                let tried_for = now.saturating_duration_since(at).as_secs_f64();
                needs.min(with * GROWTH_WHEN_TRIED.powf(tried_for))
            }
            _ => needs,
        }
    }

    fn is_probing(&mut self, budget: Budget, now: Instant) -> bool {
        let (began, with) = *self.probed.get_or_insert((now, budget.bits_per_s));
        let since = now.saturating_duration_since(began);
        let found = budget.bits_per_s > with * FOUND;
        if since >= PROBE_EVERY || (found && since >= PROBE_AGAIN) {
            self.probed = Some((now, budget.bits_per_s));
            return true;
        }
        since < PROBE_FOR
    }
}

#[derive(Clone, Copy)]
struct Budget {
    bits_per_s: f64,
    probes: bool,
}

impl Budget {
    /// The best that takes no more than this part of it.
    fn best_of<Id: Copy>(&self, sorted: &[Layer<Id>], part: f64) -> Option<Layer<Id>> {
        sorted.iter().rfind(|layer| layer.bits_per_s as f64 <= self.bits_per_s * part).copied()
    }
}

fn since(began: &mut Option<Instant>, holds: bool, now: Instant) {
    *began = if holds { Some(began.unwrap_or(now)) } else { None };
}

fn lasts(began: Option<Instant>, for_long: Duration, now: Instant) -> bool {
    began.is_some_and(|at| now.saturating_duration_since(at) >= for_long)
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
