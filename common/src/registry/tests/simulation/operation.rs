//! What is read, decided and written back, and what becomes of it in the hall.

use super::*;

const NOTHING: Claimed = Claimed { epoch: 0, next_gop: 0, discontinuity: 0, born_us: 0, segment_target_s: None };

impl World {
    /// One step of an operation: it reads, or it writes if nobody has written since.
    pub(super) fn advance(&mut self, n: usize, mut operation: Operation) {
        if !self.reaches(n) {
            return self.failed(n, operation);
        }
        let Some(read) = operation.read.take() else {
            operation.read = Some(self.database.rows.get(&operation.id).cloned());
            return self.machines[n].operations.push(operation);
        };
        let revision = self.database.rows.get(&operation.id).map(|(_, revision)| *revision);
        let (wall_us, id) = (self.wall_us(n), operation.id.clone());
        let is_new = read.is_none();
        let made = (self.database.made + 1) << 32;
        let (mut row, seen) = read.unwrap_or_else(|| (BroadcastRow::new(&id, self.database.floor, wall_us), made));
        let before = row.clone();
        let outcome = match &operation.what {
            What::Enter(bid) | What::Renew { bid, .. } | What::End { stay: Some(bid), .. } => row.claim(bid).map(Some),
            What::End { last, stay: None } => Ok(row.finish(last, Ending::Finished, wall_us).then_some(NOTHING)),
            What::Bury(life) => Ok(row.bury(life, wall_us).then_some(NOTHING)),
            What::Remove => row.may_be_removed().map(|()| (!is_new).then_some(NOTHING)),
        };
        let Ok(Some(claimed)) = outcome else {
            self.counts.refused += u32::from(outcome.is_err());
            if let (Err(Denied::Removed), What::Renew { held, .. }) = (outcome, operation.what) {
                self.forget(n, &id, held);
            }
            return;
        };
        if revision != (!is_new).then_some(seen) {
            return self.machines[n].operations.push(operation);
        }
        if matches!(operation.what, What::Remove) {
            return self.removed(&id, &row);
        }
        self.database.made += u64::from(is_new);
        let events = std::mem::take(&mut row.events);
        self.database.rows.insert(id.clone(), (row.clone(), seen + 1));
        self.written(&id, &before, &row, wall_us);
        self.told.entry(id.clone()).or_default().extend(events);
        // The answer may be lost.
        if self.partitions && !self.calm && self.random.one_in(20) {
            return self.failed(n, operation);
        }
        match operation.what {
            What::Enter(bid) => self.enter(n, &id, &bid, claimed),
            What::Renew { held, .. } => self.renewed(n, &id, held, claimed),
            What::End { last, stay: Some(_) } => {
                let last = Progress { epoch: claimed.epoch, ..last };
                self.machines[n].operations.push(Operation { id, what: What::End { last, stay: None }, read: None });
            }
            What::End { stay: None, .. } => {}
            What::Bury(_) => self.counts.buried += 1,
            What::Remove => {}
        }
    }

    fn removed(&mut self, id: &BroadcastId, row: &BroadcastRow) {
        self.counts.removed += 1;
        self.database.rows.remove(id);
        self.database.floor = self.database.floor.max(row.epoch);
        self.ended_us.remove(id);
    }

    /// What this node publishes was removed while it was cut off.
    fn forget(&mut self, n: usize, id: &BroadcastId, held: u64) {
        let wall_us = self.wall_us(n);
        let known = self.machines[n].halls.get_mut(id);
        if let Some(known) = known.filter(|known| known.hall.epoch == held && known.status != HeldStatus::Ended) {
            (known.status, known.since_us) = (HeldStatus::Ended, wall_us);
            self.counts.forgotten += 1;
        }
    }

    fn enter(&mut self, n: usize, id: &BroadcastId, bid: &Bid, claimed: Claimed) {
        let Claimed { epoch, next_gop, discontinuity, born_us, segment_target_s } = claimed;
        let life = self.machines[n].life.clone();
        self.owned(id, epoch, &life);
        let known = self.machines[n].halls.get(id).map(|known| known.hall);
        if known.is_some_and(|known| known.epoch >= epoch) {
            return self.end_of(n, id, &claimed);
        }
        let began_us = bid.now_us;
        // It may have gone on while the registry was asked.
        let next_gop = known.map_or(next_gop, |known| known.next_gop.max(next_gop));
        let segment_target_s = segment_target_s.or(Some(4));
        let hall = Hall { epoch, next_gop, discontinuity, born_us, began_us, segment_target_s };
        self.counts.claims += 1;
        let held = Held { hall, status: HeldStatus::Live, since_us: began_us };
        self.machines[n].halls.insert(id.clone(), held);
    }

    /// Of a claim that was granted and that nobody needs any more.
    fn end_of(&mut self, n: usize, id: &BroadcastId, claimed: &Claimed) {
        let last = progress(id.stream(), claimed.epoch, claimed.next_gop, claimed.discontinuity);
        let what = What::End { last, stay: None };
        self.machines[n].operations.push(Operation { id: id.clone(), what, read: None });
    }

    fn renewed(&mut self, n: usize, id: &BroadcastId, held: u64, claimed: Claimed) {
        let known = self.machines[n].halls.get_mut(id);
        if let Some(known) = known.filter(|known| known.hall.epoch == held && known.status != HeldStatus::Ended) {
            assert!(claimed.epoch > held);
            known.hall.epoch = claimed.epoch;
            known.hall.next_gop = known.hall.next_gop.max(claimed.next_gop);
            known.hall.discontinuity = known.hall.discontinuity.max(claimed.discontinuity);
            self.counts.renewed += 1;
            return;
        }
        self.end_of(n, id, &claimed);
    }

    /// The registry has not answered.
    fn failed(&mut self, n: usize, operation: Operation) {
        let id = operation.id;
        match operation.what {
            What::Enter(bid) => {
                let seen = self.machines[n].rows.iter().find(|row| row.stream == id.stream()).cloned();
                let mut row = seen.unwrap_or_else(|| BroadcastRow::new(&id, 0, bid.now_us));
                // What other nodes tell over links.
                let told = (0..NODES)
                    .filter(|other| self.hears(n, *other))
                    .filter_map(|other| self.machines[other].halls.get(&id).map(|held| held.hall.epoch));
                row.epoch = row.epoch.max(told.max().unwrap_or_default());
                let hall = self.machines[n].halls.get(&id).map(|held| held.hall);
                let bid = Bid { hall, ..bid };
                match row.claim_provisionally(&bid) {
                    Ok(claimed) => {
                        self.counts.provisional += 1;
                        self.enter(n, &id, &bid, claimed);
                    }
                    Err(_) => self.counts.refused += 1,
                }
            }
            // The next look tells.
            What::Renew { .. } | What::Bury(_) | What::Remove => {}
            what @ What::End { .. } => {
                self.machines[n].untold.insert(id, what);
            }
        }
    }
}
