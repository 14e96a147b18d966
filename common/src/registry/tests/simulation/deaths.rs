//! How soon a death is known where nothing but the registry tells of it. Nodes look at it as often as they do, and whenever
//! [`Leases`] says so; answers take a while, beats are late now and then, and sometimes the registry can't be read.

use super::*;

const ANSWER_US_MAX: i64 = 40 * MS;
/// A look may come a second after the last beat; then three seconds pass, and there are two answers to wait for.
const TOLD_US_MAX: i64 = 4 * S + 2 * ANSWER_US_MAX;
const RUN_US: i64 = 40 * S;

struct Stage {
    random: Random,
    /// When each beat was written, in order. The first one was before everything.
    beats: Vec<i64>,
    killed_us: i64,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let killed_us = 10 * S + random.below(10_000) as i64 * MS;
        let mut beats = vec![0];
        let mut due_us = random.below(1_000) as i64 * MS;
        while due_us < killed_us {
            let late_us = if random.one_in(8) { 1_900 } else { 40 };
            due_us += random.below(late_us) as i64 * MS;
            if due_us < killed_us {
                beats.push(due_us);
            }
            due_us += S;
        }
        Self { random, beats, killed_us }
    }

    fn answer_us(&mut self) -> i64 {
        self.random.below(ANSWER_US_MAX as u64) as i64
    }

    fn beat_at(&self, at_us: i64) -> u64 {
        self.beats.partition_point(|written_us| *written_us <= at_us) as u64
    }

    /// Of one who looks: when the death was known, and how many looks there were. `away`: from when on and until when it
    /// can't read.
    fn watch(&mut self, away: std::ops::Range<i64>) -> (i64, i64) {
        let dying = life("dying");
        let mut leases = Leases::new(life("us"));
        let (mut looks, mut found_us, mut signs) = (0, None, Signs::default());
        let mut next_us = self.random.below(1_000) as i64 * MS;
        while next_us < RUN_US {
            let begun_us = next_us;
            next_us = begun_us + S;
            if away.contains(&begun_us) {
                continue;
            }
            looks += 1;
            let read_us = begun_us + self.answer_us();
            let answered_us = read_us + self.answer_us().min(begun_us + ANSWER_US_MAX - read_us);
            let row = NodeRow { life: dying.clone(), beat: self.beat_at(read_us), ..NodeRow::default() };
            leases.look(std::slice::from_ref(&row), &[], answered_us);
            signs.check(&life("us"), &leases, &[row], answered_us);
            let is_dead = leases.verdict(&dying) == Verdict::Dead;
            assert!(
                !is_dead || begun_us > self.killed_us,
                "thought dead at {answered_us}, killed at {}",
                self.killed_us
            );
            if is_dead {
                found_us.get_or_insert(answered_us);
            }
            if let Some(death_us) = leases.next_death_us() {
                next_us = next_us.min(death_us);
            }
            next_us = next_us.max(answered_us);
        }
        (found_us.expect("it is dead"), looks)
    }
}

#[test]
fn a_death_is_known_in_time_and_nobody_looks_more_often_before() {
    let mut longest_us = 0;
    for seed in 1..=3_000 {
        let mut stage = Stage::new(seed);
        let (found_us, looks) = stage.watch(0..0);
        let took_us = found_us - stage.killed_us;
        assert!(took_us <= TOLD_US_MAX, "seed {seed}: {took_us}");
        // One at the moment of the death, and one for each beat that was so late.
        assert!(looks <= RUN_US / S + 2, "seed {seed}: {looks} looks");
        longest_us = longest_us.max(took_us);
    }
    println!("known {longest_us} us after the kill at the latest");
    assert!(longest_us > 4 * S - 200 * MS, "the worst case is among them");
}

#[test]
fn after_a_time_without_the_registry_the_watch_begins_anew() {
    for seed in 1..=1_000 {
        let mut stage = Stage::new(seed);
        let away_us = stage.killed_us - 4 * S + stage.random.below(6_000) as i64 * MS;
        let back_us = away_us + 2 * S + stage.random.below(6_000) as i64 * MS;
        let (found_us, _) = stage.watch(away_us..back_us);
        let (low_us, high_us) = (back_us + 3 * S, back_us.max(stage.killed_us) + TOLD_US_MAX);
        // Known before it went, or not before it was back for long enough.
        let is_known_before = found_us < away_us + ANSWER_US_MAX;
        assert!(is_known_before || (low_us..=high_us).contains(&found_us), "seed {seed}: {found_us}, back {back_us}");
    }
}
