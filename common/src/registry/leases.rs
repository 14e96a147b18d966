//! Who lives, by the rows that nodes keep beating. Pure: rows and `now` in, verdicts out.
//!
//! No clocks are compared. Whoever watches measures with its own monotonic clock how long another one's beat stands
//! still; the rows say only that it did. A time in which the registry was not read proves nothing, and the watch
//! begins anew after it. A node that is heard some other way is vouched for: it is cut off from the registry, not dead.
//! What is thought dead and beats again lives.

use std::collections::{BTreeMap, BTreeSet};

use super::{BroadcastRow, Life, NodeRow};

/// A beat that stands still for this long is the end of a life. Beats come once a second.
pub const DEAD_AFTER_US: i64 = 3_000_000;
/// Between two looks. A longer gap may have hidden any number of beats.
const GAP_US_MAX: i64 = 2_000_000;
/// A beat that stands still for this long is worth a word of those who hear its node.
const VOUCH_AFTER_US: i64 = 1_500_000;
/// As long as it was heard after its beat stood still: before the next one was due nothing was missing yet, and who died
/// then is dead.
const OUTLIVED_US: i64 = 1_000_000;
/// A node was heard just now if it was heard within this: links say something each second.
const HEARD_WITHIN_US: i64 = 1_500_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not watched for long enough.
    Unknown,
    Alive,
    Dead,
}

#[derive(Debug)]
pub struct Leases {
    us: Life,
    watched: BTreeMap<Life, Watch>,
    looked_us: Option<i64>,
    /// Who was heard over links, and when.
    heard: BTreeMap<Life, i64>,
}

#[derive(Debug)]
struct Watch {
    /// `None`: there is no row of this life.
    beat: Option<u64>,
    vouched: u64,
    beat_since_us: i64,
    sign_since_us: i64,
    moved: bool,
}

impl Leases {
    pub fn new(us: Life) -> Self {
        Self { us, watched: BTreeMap::new(), looked_us: None, heard: BTreeMap::new() }
    }

    /// All rows of nodes, and of broadcasts at least those that are live: an owner whose row is not there is watched as
    /// well. `now_us` is monotonic, when the rows had come.
    pub fn look(&mut self, nodes: &[NodeRow], broadcasts: &[BroadcastRow], now_us: i64) {
        let continuous = self.looked_us.replace(now_us).is_some_and(|looked_us| now_us - looked_us <= GAP_US_MAX);
        let rows: BTreeMap<&Life, &NodeRow> = nodes.iter().map(|row| (&row.life, row)).collect();
        let owners = broadcasts.iter().filter(|row| row.held_by(&row.owner)).map(|row| &row.owner);
        let lives: BTreeSet<&Life> = rows.keys().copied().chain(owners).collect();
        self.watched.retain(|life, _| continuous && lives.contains(life));
        self.heard.retain(|_, heard_us| now_us - *heard_us <= HEARD_WITHIN_US);
        for life in lives {
            let row = rows.get(life);
            let (beat, vouched) = (row.map(|row| row.beat), row.map_or(0, |row| row.vouched));
            let Some(watch) = self.watched.get_mut(life) else {
                let watch = Watch { beat, vouched, beat_since_us: now_us, sign_since_us: now_us, moved: false };
                self.watched.insert(life.clone(), watch);
                continue;
            };
            let beaten = beat.is_some() && beat != watch.beat;
            if beaten {
                watch.beat_since_us = now_us;
            }
            if beaten || (beat.is_some() && vouched != watch.vouched) {
                watch.sign_since_us = now_us;
                watch.moved = true;
            }
            (watch.beat, watch.vouched) = (beat, vouched);
        }
    }

    /// When a node was heard over a link last, by the clock of the looks.
    pub fn hear(&mut self, life: &Life, heard_us: i64) {
        self.heard.insert(life.clone(), heard_us);
    }

    /// As of the last look.
    pub fn verdict(&self, life: &Life) -> Verdict {
        if life.node == self.us.node {
            // Earlier lives of this node are over: this one has begun.
            return if *life == self.us { Verdict::Alive } else { Verdict::Dead };
        }
        let (Some(watch), Some(looked_us)) = (self.watched.get(life), self.looked_us) else { return Verdict::Unknown };
        let is_heard = self.heard.get(life).is_some_and(|heard_us| looked_us - heard_us <= HEARD_WITHIN_US);
        match looked_us - watch.sign_since_us {
            still_us if still_us >= DEAD_AFTER_US && !is_heard => Verdict::Dead,
            _ if watch.moved || is_heard => Verdict::Alive,
            _ => Verdict::Unknown,
        }
    }

    /// When the first one will be dead of whom there is no sign until then: to be looked for at that moment, so that a death
    /// is known as soon as it can be, and nobody looks more often before. By the clock of the looks.
    pub fn next_death_us(&self) -> Option<i64> {
        let looked_us = self.looked_us?;
        let death_us = |(life, watch): (&Life, &Watch)| {
            let unheard_us = self.heard.get(life).map_or(i64::MIN, |heard_us| heard_us + HEARD_WITHIN_US + 1);
            (watch.sign_since_us + DEAD_AFTER_US).max(unheard_us)
        };
        let others = self.watched.iter().filter(|(life, _)| life.node != self.us.node);
        others.map(death_us).filter(|death_us| *death_us > looked_us).min()
    }

    /// Those whose beat stands still although they are heard: to be vouched for now, and again after each look.
    pub fn cut_off(&self) -> Vec<Life> {
        let Some(looked_us) = self.looked_us else { return Vec::new() };
        let is_cut_off = |(life, heard_us): &(&Life, &i64)| {
            let outlived = |watch: &Watch| {
                let is_still = looked_us - watch.beat_since_us >= VOUCH_AFTER_US && watch.beat.is_some();
                is_still && **heard_us - watch.beat_since_us >= OUTLIVED_US
            };
            let is_heard = looked_us - **heard_us <= HEARD_WITHIN_US;
            is_heard && **life != self.us && self.watched.get(*life).is_some_and(outlived)
        };
        self.heard.iter().filter(is_cut_off).map(|(life, _)| life.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn life(node: &str, incarnation: u64) -> Life {
        Life { node: node.into(), incarnation }
    }

    fn node(life: &Life, beat: u64) -> NodeRow {
        NodeRow { life: life.clone(), beat, ..NodeRow::default() }
    }

    fn row_of(owner: &Life) -> BroadcastRow {
        let status = crate::registry::BroadcastStatus::Broadcasting;
        BroadcastRow { owner: owner.clone(), status, ..BroadcastRow::default() }
    }

    #[test]
    fn a_beat_that_stands_still_for_three_seconds_is_a_death_and_one_that_goes_on_a_life() {
        let (us, a, b) = (life("us", 1), life("a", 1), life("b", 1));
        let mut leases = Leases::new(us);
        for second in 0..10 {
            let stopped = node(&b, second.min(4));
            leases.look(&[node(&a, second), stopped], &[], second as i64 * S);
            let expected = match second {
                0 => Verdict::Unknown,
                1..=6 => Verdict::Alive,
                _ => Verdict::Dead,
            };
            assert_eq!(leases.verdict(&b), expected, "second {second}");
            // Of the one that beats, three seconds after this look; of the other one after its last beat was seen.
            let death = if (5..7).contains(&second) { 7 } else { second + 3 };
            assert_eq!(leases.next_death_us(), Some(death as i64 * S), "second {second}");
            assert_eq!(leases.verdict(&a), if second == 0 { Verdict::Unknown } else { Verdict::Alive });
        }
        leases.look(&[node(&a, 10), node(&b, 5)], &[], 10 * S);
        assert_eq!(leases.verdict(&b), Verdict::Alive, "it beats again");
    }

    #[test]
    fn a_time_without_looks_proves_nothing() {
        let (us, a) = (life("us", 1), life("a", 1));
        let mut leases = Leases::new(us);
        leases.look(&[node(&a, 1)], &[], 0);
        leases.look(&[node(&a, 2)], &[], S);
        for (second, expected) in
            [(60, Verdict::Unknown), (61, Verdict::Unknown), (62, Verdict::Unknown), (63, Verdict::Dead)]
        {
            leases.look(&[node(&a, 2)], &[], second * S);
            assert_eq!(leases.verdict(&a), expected, "second {second}");
        }
    }

    #[test]
    fn owners_without_a_row_and_earlier_lives_are_dead() {
        let (us, gone, old) = (life("us", 2), life("gone", 1), life("a", 1));
        let former = life("us", 1);
        let mut leases = Leases::new(us.clone());
        for second in 0..=3 {
            let broadcasts = [row_of(&gone), row_of(&old), row_of(&former)];
            leases.look(&[node(&life("a", 2), second)], &broadcasts, second as i64 * S);
            assert_eq!((leases.verdict(&us), leases.verdict(&former)), (Verdict::Alive, Verdict::Dead));
        }
        assert_eq!((leases.verdict(&gone), leases.verdict(&old)), (Verdict::Dead, Verdict::Dead));
        assert_eq!(leases.verdict(&life("a", 2)), Verdict::Alive);
        assert_eq!(leases.verdict(&life("stranger", 1)), Verdict::Unknown);
    }

    /// Whoever heard it says when: its links may take seconds to notice that nothing comes.
    #[test]
    fn the_last_word_of_a_dead_node_does_not_keep_it_alive() {
        const DIED_US: i64 = 10 * S;
        let a = life("a", 1);
        for beat_before_us in (0..1_000_000).step_by(50_000) {
            let mut leases = Leases::new(life("us", 1));
            let mut found_us = None;
            for look in 0..80 {
                let now_us = look * S / 4;
                let alive_us = now_us.min(DIED_US);
                let beat = (alive_us + beat_before_us) / S;
                leases.hear(&a, alive_us);
                leases.look(&[node(&a, beat as u64)], &[], now_us);
                assert_eq!(leases.cut_off(), [], "{now_us}");
                let is_dead = leases.verdict(&a) == Verdict::Dead;
                found_us = found_us.or(is_dead.then_some(now_us));
            }
            let took_us = found_us.unwrap() - DIED_US;
            assert!((2 * S..=3 * S + S / 4).contains(&took_us), "{took_us}");
        }
    }

    #[test]
    fn who_is_heard_is_vouched_for_and_lives() {
        let (us, a) = (life("us", 1), life("a", 1));
        let (mut near, mut far) = (Leases::new(us), Leases::new(life("far", 1)));
        let mut vouched = 0;
        for second in 0..20 {
            let row = NodeRow { vouched, ..node(&a, 7) };
            near.hear(&a, second * S);
            near.look(std::slice::from_ref(&row), &[], second * S + 500_000);
            far.look(&[row], &[], second * S + 900_000);
            assert_ne!((near.verdict(&a), far.verdict(&a)), (Verdict::Dead, Verdict::Dead), "second {second}");
            assert_ne!(far.verdict(&a), Verdict::Dead, "it is told by the one that hears it");
            vouched += near.cut_off().len() as u64;
        }
        // Nobody hears it any more: a little later nobody vouches, and then it is dead.
        for second in 20..27 {
            let row = NodeRow { vouched, ..node(&a, 7) };
            near.look(std::slice::from_ref(&row), &[], second * S + 500_000);
            far.look(&[row], &[], second * S + 900_000);
            vouched += near.cut_off().len() as u64;
        }
        assert_eq!((near.verdict(&a), far.verdict(&a)), (Verdict::Dead, Verdict::Dead));
    }
}
