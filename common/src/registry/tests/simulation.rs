//! Thousands of bad days: nodes whose clocks are seconds apart crash, come back, lose the registry or each other, while
//! publishers come and go on any of them. The rules are the real ones; what stands around them here (a database that
//! compares and sets, messages that are lost, halls) is as small as it can be. Everything follows from a seed, which
//! is printed when something is wrong.

mod checks;
mod deaths;
mod machine;
mod operation;
mod people;
mod random;

use std::collections::{BTreeMap, BTreeSet};

use self::{checks::Signs, random::Random};
use super::*;

const NODES: usize = 3;
const STREAMS: usize = 2;
const MS: i64 = 1_000;
/// After this without any trouble everything must be in order: a beat's death, an interruption, and some looks.
const CALM_US: i64 = 40 * S;

#[derive(Default)]
struct Database {
    rows: BTreeMap<BroadcastId, (BroadcastRow, u64)>,
    nodes: BTreeMap<String, NodeRow>,
    /// No removed row had a higher epoch.
    floor: u64,
    /// Of rows that were made. One that is made anew is not taken for the one that was removed.
    made: u64,
}

/// A broadcast in the hall of a node.
#[derive(Clone)]
struct Held {
    hall: Hall,
    status: HeldStatus,
    since_us: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HeldStatus {
    Live,
    Interrupted,
    Ended,
}

/// Something that is read, decided and written back in steps, between which anything can happen.
#[derive(Clone)]
struct Operation {
    id: BroadcastId,
    what: What,
    read: Option<Option<(BroadcastRow, u64)>>,
}

#[derive(Clone)]
enum What {
    Enter(Bid),
    Renew {
        held: u64,
        bid: Bid,
    },
    /// The end of a claim; of one that was never granted after a claim.
    End {
        last: Progress,
        stay: Option<Bid>,
    },
    Bury(Life),
    /// By an operator.
    Remove,
}

struct Machine {
    life: Life,
    /// Not running.
    down: bool,
    /// How wrong its wall-clock is. Its monotonic one began at another time.
    skew_us: i64,
    reaches_registry: bool,
    leases: Leases,
    halls: BTreeMap<BroadcastId, Held>,
    noticed: BTreeMap<BroadcastId, (u64, i64)>,
    told: BTreeMap<BroadcastId, Progress>,
    untold: BTreeMap<BroadcastId, What>,
    operations: Vec<Operation>,
    /// Rows and when they were asked for; not laid beside the hall yet.
    look: Option<(Vec<BroadcastRow>, i64)>,
    rows: Vec<BroadcastRow>,
    next_tick_us: i64,
    next_look_us: i64,
    /// What a bystander makes of its looks.
    signs: Signs,
}

struct World {
    random: Random,
    now_us: i64,
    database: Database,
    database_down: bool,
    machines: Vec<Machine>,
    /// Between which nodes nothing passes.
    cut: BTreeSet<(usize, usize)>,
    lives: u64,
    /// With trouble of the network or the database, numbers can't be kept apart by anybody.
    partitions: bool,
    /// Operators remove broadcasts.
    removals: bool,
    calm: bool,
    owners: BTreeMap<(BroadcastId, u64), Life>,
    /// By whom, and of which broadcast of that name.
    gops: BTreeMap<(BroadcastId, u64), (Life, i64)>,
    ends: BTreeMap<(BroadcastId, u64), u32>,
    /// What operators are told of each broadcast.
    told: BTreeMap<BroadcastId, Vec<Event>>,
    ended_us: BTreeMap<BroadcastId, i64>,
    counts: Counts,
}

#[derive(Default, Debug)]
struct Counts {
    claims: u32,
    provisional: u32,
    renewed: u32,
    fenced: u32,
    buried: u32,
    refused: u32,
    removed: u32,
    forgotten: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let machines = (0..NODES)
            .map(|n| Machine {
                life: Life { node: format!("n{n}"), incarnation: 1 + random.below(1 << 40) },
                down: false,
                skew_us: random.below(10_000) as i64 * MS - 5 * S,
                reaches_registry: true,
                leases: Leases::new(life("nobody")),
                halls: BTreeMap::new(),
                noticed: BTreeMap::new(),
                told: BTreeMap::new(),
                untold: BTreeMap::new(),
                operations: Vec::new(),
                look: None,
                rows: Vec::new(),
                next_tick_us: 0,
                next_look_us: 0,
                signs: Signs::default(),
            })
            .collect();
        let (partitions, removals) = (!random.one_in(4), random.one_in(2));
        let mut world = Self {
            random,
            now_us: 1_790_000_000 * S,
            database: Database::default(),
            database_down: false,
            machines,
            cut: BTreeSet::new(),
            lives: 0,
            partitions,
            removals,
            calm: false,
            owners: BTreeMap::new(),
            gops: BTreeMap::new(),
            ends: BTreeMap::new(),
            told: BTreeMap::new(),
            ended_us: BTreeMap::new(),
            counts: Counts::default(),
        };
        (0..NODES).for_each(|n| world.start(n));
        world
    }

    fn start(&mut self, n: usize) {
        self.lives += 1;
        let incarnation = self.random.below(1 << 40) + 1;
        let machine = &mut self.machines[n];
        machine.life.incarnation = incarnation;
        machine.down = false;
        machine.leases = Leases::new(machine.life.clone());
        machine.halls.clear();
        machine.noticed.clear();
        machine.told.clear();
        machine.untold.clear();
        machine.operations.clear();
        machine.look = None;
        machine.rows.clear();
        machine.next_tick_us = self.now_us;
        machine.next_look_us = self.now_us;
        machine.signs = Signs::default();
    }

    fn reaches(&self, n: usize) -> bool {
        self.machines[n].reaches_registry && !self.database_down
    }

    fn wall_us(&self, n: usize) -> i64 {
        self.now_us + self.machines[n].skew_us
    }

    fn monotonic_us(&self, n: usize) -> i64 {
        self.now_us - 1_000 * S + n as i64 * 77 * S
    }

    fn hears(&self, n: usize, other: usize) -> bool {
        n != other && !self.machines[other].down && !self.cut.contains(&(n.min(other), n.max(other)))
    }

    fn run(&mut self) {
        let end_us = self.now_us + 120 * S;
        while self.now_us < end_us {
            self.trouble();
            self.step();
        }
        self.heal();
        let end_us = self.now_us + CALM_US;
        while self.now_us < end_us {
            self.step();
        }
        self.check_calm();
    }

    fn step(&mut self) {
        self.now_us += self.random.below(120) as i64 * MS;
        let n = self.random.node();
        if self.machines[n].down {
            return;
        }
        if self.now_us >= self.machines[n].next_tick_us {
            self.machines[n].next_tick_us = self.now_us + S;
            self.tick(n);
        }
        if self.now_us >= self.machines[n].next_look_us {
            self.machines[n].next_look_us = self.now_us + S;
            if self.reaches(n) {
                self.look(n);
            }
        }
        if !self.machines[n].operations.is_empty() {
            let which = self.random.below(self.machines[n].operations.len() as u64) as usize;
            let operation = self.machines[n].operations.swap_remove(which);
            self.advance(n, operation);
        }
        if self.random.one_in(2) {
            self.agree(n);
        }
    }

    fn trouble(&mut self) {
        let n = self.random.node();
        match self.random.below(400) {
            0..=1 => {
                self.machines[n].down = true;
            }
            2..=5 if self.machines[n].down => self.start(n),
            6..=7 if self.partitions => self.machines[n].reaches_registry ^= true,
            8..=9 if self.partitions => {
                let other = (n + 1) % NODES;
                let pair = (n.min(other), n.max(other));
                if !self.cut.remove(&pair) {
                    self.cut.insert(pair);
                }
            }
            10 if self.partitions => self.database_down ^= true,
            20..=35 if !self.machines[n].down => self.publish(n),
            40..=48 if !self.machines[n].down => self.leave(n),
            50..=54 if self.removals && !self.machines[n].down => self.remove(n),
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.calm = true;
        self.database_down = false;
        self.cut.clear();
        for n in 0..NODES {
            self.machines[n].reaches_registry = true;
        }
        // Somebody must be there to see to it.
        if self.machines.iter().all(|machine| machine.down) {
            self.start(0);
        }
    }
}

#[test]
fn no_epoch_has_two_owners_no_end_is_told_twice_and_nothing_is_stuck() {
    let only = std::env::var("HEADWATER_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = only.map_or(1..=3_000, |seed| seed..=seed);
    let mut total = Counts::default();
    for seed in seeds {
        let mut world = World::new(seed);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        if let Err(cause) = ran {
            eprintln!("seed {seed} (HEADWATER_SEED={seed} runs it alone), after {:?}", world.counts);
            std::panic::resume_unwind(cause);
        }
        let Counts { claims, provisional, renewed, fenced, buried, refused, removed, forgotten } = world.counts;
        total.claims += claims;
        total.provisional += provisional;
        total.renewed += renewed;
        total.fenced += fenced;
        total.buried += buried;
        total.refused += refused;
        total.removed += removed;
        total.forgotten += forgotten;
    }
    println!("{total:?}");
    // Everything that could go wrong has had its chance.
    if only.is_none() {
        let Counts { claims, provisional, renewed, fenced, buried, refused, removed, forgotten } = total;
        let counts = [claims, provisional, renewed, fenced, buried, refused, removed, forgotten];
        for (what, count) in counts.into_iter().enumerate() {
            assert!(count > 100, "{what}: {total:?}");
        }
    }
}
