//! Viewers on simulated links: capacity over time, an estimator that behaves as GoogCC does (it falls to 0.85 of what
//! arrives when a queue builds, grows to 1.5 times what is sent, and finds out about more only when it probes).

use super::*;

const TICK: Duration = Duration::from_millis(100);
const SOUND: u64 = 64_000;
const LADDER: [Layer<u32>; 3] = [
    Layer { id: 180, height: 180, bits_per_s: 150_000 },
    Layer { id: 360, height: 360, bits_per_s: 500_000 },
    Layer { id: 720, height: 720, bits_per_s: 1_500_000 },
];

struct Link {
    now: Instant,
    began: Instant,
    estimate: f64,
    /// Seconds of what is on its way too slowly.
    queue_s: f64,
    probes: bool,
    dice: u32,
    /// Layers sent, each with the time it began.
    switches: Vec<(f64, u32)>,
    /// The longest that clearly more was asked for than the link could carry.
    longest_above: Duration,
    above: Duration,
}

impl Link {
    fn new(estimate: u64, probes: bool) -> Self {
        let now = Instant::now();
        Self {
            now,
            began: now,
            estimate: estimate as f64,
            queue_s: 0.0,
            probes,
            dice: 7,
            switches: Vec::new(),
            longest_above: Duration::ZERO,
            above: Duration::ZERO,
        }
    }

    /// Between 0 and 1.
    fn throw(&mut self) -> f64 {
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.dice >> 8) / f64::from(1 << 24)
    }

    fn at_s(&self) -> f64 {
        (self.now - self.began).as_secs_f64()
    }

    fn run(&mut self, switch: &mut Switch<u32>, layers: &[Layer<u32>], capacity: u64, seconds: u32) {
        for _ in 0..seconds * 10 {
            self.tick(switch, layers, capacity as f64);
        }
    }

    fn tick(&mut self, switch: &mut Switch<u32>, layers: &[Layer<u32>], capacity: f64) {
        let estimate = Estimate { bits_per_s: self.estimate as u64, probes: self.probes };
        let choice = switch.choose(layers, SOUND, Some(estimate), self.now).unwrap();
        if self.switches.last().is_none_or(|(_, layer)| *layer != choice.layer) {
            self.switches.push((self.at_s(), choice.layer));
        }
        let layer = layers.iter().find(|layer| layer.id == choice.layer).unwrap();
        // An encoder is never at its rate exactly.
        let sent = (layer.bits_per_s as f64 * (0.85 + 0.3 * self.throw())) + SOUND as f64;
        self.above =
            if (layer.bits_per_s + SOUND) as f64 > capacity * 1.1 { self.above + TICK } else { Duration::ZERO };
        self.longest_above = self.longest_above.max(self.above);
        self.queue_s = (self.queue_s + (sent / capacity - 1.0) * TICK.as_secs_f64()).clamp(0.0, 0.5);
        let noise = 0.9 + 0.2 * self.throw();
        if self.queue_s > 0.05 && sent > capacity {
            self.estimate = self.estimate.min(0.85 * capacity.min(sent) * noise);
        } else if self.probes && choice.look_for_bits_per_s as f64 > self.estimate {
            self.estimate = (choice.look_for_bits_per_s as f64).min(2.0 * self.estimate).min(capacity * noise);
        } else if self.estimate < 1.5 * sent && self.queue_s == 0.0 {
            self.estimate *= 1.008;
        }
        self.now += TICK;
    }

    fn layer(&self) -> u32 {
        self.switches.last().unwrap().1
    }

    fn switches_since(&self, at_s: f64) -> usize {
        self.switches.iter().filter(|(at, _)| *at > at_s).count()
    }
}

#[test]
fn any_link_is_settled_on_what_it_carries() {
    for capacity in (100_000..4_000_000).step_by(50_000) {
        let mut link = Link::new(600_000, true);
        let mut switch = Switch::default();
        link.run(&mut switch, &LADDER, capacity, 120);
        let carried = LADDER.iter().rfind(|layer| (layer.bits_per_s + SOUND) as f64 * 1.5 < capacity as f64);
        assert!(link.layer() >= carried.map_or(180, |layer| layer.id), "{capacity}: {:?}", link.switches);
        assert!(link.switches.len() <= 10, "{capacity}: {:?}", link.switches);
        assert!(link.switches_since(60.0) <= 4, "{capacity}: {:?}", link.switches);
        let possible = (LADDER[0].bits_per_s + SOUND) < capacity;
        assert!(!possible || link.longest_above <= Duration::from_secs(3), "{capacity}: {:?}", link.longest_above);
    }
}

#[test]
fn a_limit_that_comes_and_goes_is_followed_down_and_up() {
    for capacity in [150_000, 250_000, 400_000, 800_000, 1_200_000] {
        let mut link = Link::new(600_000, true);
        let mut switch = Switch::default();
        link.run(&mut switch, &LADDER, 10_000_000, 20);
        assert_eq!(link.layer(), 720);
        for _ in 0..3 {
            let limited = link.at_s();
            link.run(&mut switch, &LADDER, capacity, 3);
            assert!(link.layer() < 720, "{capacity}: {:?}", link.switches);
            link.run(&mut switch, &LADDER, capacity, 27);
            assert!(link.switches_since(limited) <= 6, "{capacity}: {:?}", link.switches);
            link.run(&mut switch, &LADDER, 10_000_000, 10);
            assert_eq!(link.layer(), 720, "{capacity}: {:?}", link.switches);
            let free = link.at_s();
            link.run(&mut switch, &LADDER, 10_000_000, 20);
            assert_eq!(link.switches_since(free), 0, "{capacity}: {:?}", link.switches);
        }
    }
}

#[test]
fn a_moment_s_trouble_changes_nothing() {
    let mut link = Link::new(600_000, true);
    let mut switch = Switch::default();
    link.run(&mut switch, &LADDER, 3_000_000, 20);
    let before = link.switches.len();
    for _ in 0..10 {
        link.estimate = 1_300_000.0;
        link.run(&mut switch, &LADDER, 3_000_000, 10);
    }
    assert_eq!((link.layer(), link.switches.len()), (720, before));
}

#[test]
fn a_receiver_that_estimates_by_itself_is_tried_out() {
    let mut link = Link::new(600_000, false);
    let mut switch = Switch::default();
    link.run(&mut switch, &LADDER, 10_000_000, 30);
    assert_eq!(link.layer(), 720, "{:?}", link.switches);
    // Less than the best takes: the trials become rare.
    link.run(&mut switch, &LADDER, 1_000_000, 60);
    let at_s = link.at_s();
    link.run(&mut switch, &LADDER, 1_000_000, 300);
    assert!(link.switches_since(at_s) <= 10, "{:?}", link.switches);
}

#[test]
fn sound_is_paid_first() {
    let mut switch = Switch::default();
    let estimate = |bits_per_s| Some(Estimate { bits_per_s, probes: true });
    let now = Instant::now();
    assert_eq!(switch.choose(&LADDER, 64_000, estimate(520_000), now).unwrap().layer, 180);
    let mut switch = Switch::default();
    assert_eq!(switch.choose(&LADDER, 64_000, estimate(564_000), now).unwrap().layer, 360);
}

#[test]
fn who_cannot_tell_gets_the_best() {
    assert_eq!(Switch::default().choose(&LADDER, 0, None, Instant::now()).unwrap().layer, 720);
    assert_eq!(Switch::<u32>::default().choose(&[], 0, None, Instant::now()), None);
}

#[test]
fn what_is_asked_for_is_sent_as_long_as_it_lives() {
    let mut switch = Switch { quality: Quality::Height(720), ..Switch::default() };
    let poor = Some(Estimate { bits_per_s: 100_000, probes: true });
    let now = Instant::now();
    assert_eq!(switch.choose(&LADDER, 0, poor, now).unwrap().layer, 720);
    assert_eq!(switch.choose(&LADDER[..2], 0, poor, now).unwrap().layer, 180);
    assert_eq!(switch.choose(&LADDER, 0, poor, now).unwrap().layer, 720);
    switch.quality = Quality::Auto;
    let later = |ms| now + Duration::from_millis(ms);
    for ms in [0, 500, 1_000] {
        switch.choose(&LADDER, 0, poor, later(ms));
    }
    assert_eq!(switch.choose(&LADDER, 0, poor, later(1_500)).unwrap().layer, 180);
}

#[test]
fn room_is_looked_for_while_there_is_more_to_show_and_not_all_the_time() {
    let mut switch = Switch::default();
    let now = Instant::now();
    let estimate = Some(Estimate { bits_per_s: 300_000, probes: true });
    let looked = |tick: u64| {
        let choice = switch.choose(&LADDER, SOUND, estimate, now + TICK * tick as u32).unwrap();
        assert_eq!(choice.layer, 180);
        choice.look_for_bits_per_s > 1_500_000
    };
    let looked: Vec<bool> = (0..300).map(looked).collect();
    let begun = looked.windows(2).filter(|pair| !pair[0] && pair[1]).count();
    assert!((13..=16).contains(&begun), "{begun} probes in 30 seconds");
    let plenty = Some(Estimate { bits_per_s: 5_000_000, probes: true });
    for tick in 300..400 {
        let choice = switch.choose(&LADDER, SOUND, plenty, now + TICK * tick).unwrap();
        assert!(choice.look_for_bits_per_s <= 1_500_000 + SOUND);
    }
}
