//! What a node does by itself: each second, and when it looks into the registry.

use super::*;
use crate::live::{LINGER_US, RESUME_US};

impl World {
    fn progress(&self, n: usize, id: &BroadcastId) -> Progress {
        let held = &self.machines[n].halls[id];
        let Hall { epoch, next_gop, discontinuity, segment_target_s, .. } = held.hall;
        let silent = held.status != HeldStatus::Live;
        Progress { id: id.clone(), epoch, next_gop, discontinuity, segment_target_s, silent }
    }

    pub(super) fn stay(&self, n: usize, id: &BroadcastId) -> Bid {
        let hall = self.machines[n].halls.get(id).map(|held| held.hall);
        Bid { life: self.machines[n].life.clone(), ask: Ask::Stay, hall, ..bid("", self.wall_us(n)) }
    }

    /// The hall's end of a broadcast, which the registry is to hear of.
    pub(super) fn end(&mut self, n: usize, id: &BroadcastId) {
        let wall_us = self.wall_us(n);
        let (last, stay) = (self.progress(n, id), self.stay(n, id));
        let held = self.machines[n].halls.get_mut(id).unwrap();
        (held.status, held.since_us) = (HeldStatus::Ended, wall_us);
        let stay = is_provisional(last.epoch).then_some(stay);
        self.machines[n].operations.push(Operation { id: id.clone(), what: What::End { last, stay }, read: None });
    }

    /// What a node does each second.
    pub(super) fn tick(&mut self, n: usize) {
        let (wall_us, monotonic_us) = (self.wall_us(n), self.monotonic_us(n));
        // The hall mints, sweeps, forgets.
        for (id, held) in self.machines[n].halls.clone() {
            match held.status {
                HeldStatus::Live => self.mint(n, &id),
                HeldStatus::Interrupted if wall_us - held.since_us >= RESUME_US => self.end(n, &id),
                HeldStatus::Ended if wall_us - held.since_us >= LINGER_US => {
                    self.machines[n].halls.remove(&id);
                }
                _ => {}
            }
        }
        let machine = &mut self.machines[n];
        let held: BTreeMap<_, _> = machine
            .halls
            .iter()
            .filter(|(_, held)| held.status != HeldStatus::Ended)
            .map(|(id, held)| (id.clone(), held.hall.epoch))
            .collect();
        machine.noticed.retain(|id, (epoch, _)| held.get(id) == Some(epoch));
        for (id, epoch) in &held {
            machine.noticed.entry(id.clone()).or_insert((*epoch, monotonic_us));
        }
        if !self.reaches(n) {
            return;
        }
        // Beat, and what was not told.
        let machine = &mut self.machines[n];
        let row = self.database.nodes.entry(machine.life.node.clone()).or_default();
        row.life = machine.life.clone();
        row.beat += 1;
        for (id, what) in std::mem::take(&mut machine.untold) {
            machine.operations.push(Operation { id, what, read: None });
        }
        for id in held.into_keys() {
            let progress = self.progress(n, &id);
            let told = self.machines[n].told.get(&id);
            if !is_provisional(progress.epoch) && told.is_none_or(|told| progress.is_news_after(told)) {
                if let Some((row, revision)) = self.database.rows.get_mut(&id) {
                    row.progress(&progress, wall_us);
                    *revision += 1;
                }
                self.machines[n].told.insert(id, progress);
            }
        }
    }

    fn mint(&mut self, n: usize, id: &BroadcastId) {
        let life = self.machines[n].life.clone();
        let hall = &mut self.machines[n].halls.get_mut(id).unwrap().hall;
        let mine = (life, hall.born_us);
        let minter = self.gops.entry((id.clone(), hall.next_gop)).or_insert_with(|| mine.clone());
        if self.removals && minter.1 != mine.1 {
            // Another broadcast of that name, whose numbers may begin anew.
            minter.clone_from(&mine);
        }
        assert!(self.partitions || *minter == mine, "{id}: gop {} was minted twice", hall.next_gop);
        hall.next_gop += 1;
    }

    pub(super) fn look(&mut self, n: usize) {
        let asked_us = self.monotonic_us(n);
        let nodes: Vec<_> = self.database.nodes.values().cloned().collect();
        let rows: Vec<_> = self.database.rows.values().map(|(row, _)| row.clone()).collect();
        let heard: Vec<_> =
            (0..NODES).filter(|other| self.hears(n, *other)).map(|other| self.machines[other].life.clone()).collect();
        // Links say something each second.
        let ago_us: Vec<_> = heard.iter().map(|_| self.random.below(S as u64) as i64).collect();
        let machine = &mut self.machines[n];
        heard.iter().zip(ago_us).for_each(|(life, ago_us)| machine.leases.hear(life, asked_us - ago_us));
        machine.leases.look(&nodes, &rows, asked_us);
        machine.signs.check(&machine.life, &machine.leases, &nodes, asked_us);
        if let Some(death_us) = machine.leases.next_death_us() {
            machine.next_look_us = machine.next_look_us.min(self.now_us + death_us - asked_us);
        }
        for life in machine.leases.cut_off() {
            let row = self.database.nodes.get_mut(&life.node).filter(|row| row.life == life);
            row.unwrap().vouched += 1;
        }
        for row in &rows {
            if row.held_by(&row.owner) && machine.leases.verdict(&row.owner) == Verdict::Dead {
                let id = BroadcastId::new(&row.app, &row.stream).unwrap();
                let what = What::Bury(row.owner.clone());
                machine.operations.push(Operation { id, what, read: None });
            }
        }
        machine.rows.clone_from(&rows);
        machine.look = Some((rows, asked_us));
    }

    pub(super) fn agree(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        let Some((rows, asked_us)) = machine.look.take() else { return };
        let held = machine.noticed.iter().filter(|(_, (_, since_us))| *since_us < asked_us);
        let is_held = |id: &BroadcastId, epoch: u64| {
            machine.halls.get(id).is_some_and(|held| held.status != HeldStatus::Ended && held.hall.epoch == epoch)
        };
        let held: BTreeMap<_, _> =
            held.filter(|(id, (epoch, _))| is_held(id, *epoch)).map(|(id, (epoch, _))| (id.clone(), *epoch)).collect();
        let lives = |life: &Life| machine.leases.verdict(life) == Verdict::Alive;
        for duty in audit(&machine.life.clone(), &rows, &held, lives) {
            let (id, what) = match duty {
                Duty::Stay { id, held } => {
                    let bid = self.stay(n, &id);
                    (id, What::Renew { held, bid })
                }
                Duty::Fence { id, held, .. } => {
                    self.counts.fenced += 1;
                    let wall_us = self.wall_us(n);
                    let fenced = self.machines[n].halls.get_mut(&id).unwrap();
                    assert_eq!(fenced.hall.epoch, held);
                    (fenced.status, fenced.since_us) = (HeldStatus::Ended, wall_us);
                    continue;
                }
                Duty::End { row } => {
                    let id = BroadcastId::new(&row.app, &row.stream).unwrap();
                    let known = self.machines[n].halls.get(&id).filter(|held| held.hall.epoch == row.epoch);
                    if known.is_some_and(|held| held.status != HeldStatus::Ended) {
                        continue;
                    }
                    let (next_gop, discontinuity) = match known {
                        Some(held) => (held.hall.next_gop, held.hall.discontinuity),
                        None => (row.next_gop, row.discontinuity),
                    };
                    let last = progress(id.stream(), row.epoch, next_gop, discontinuity);
                    (id, What::End { last, stay: None })
                }
            };
            if !self.is_claiming(n, &id) {
                self.machines[n].operations.push(Operation { id, what, read: None });
            }
        }
    }
}
