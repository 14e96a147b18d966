//! What must never be, and how everything must be in the end.

use super::*;

/// Of other lives, as they were seen in the registry: the last sign, and since when there was none.
#[derive(Default)]
pub(super) struct Signs {
    last: BTreeMap<Life, ((u64, u64), i64)>,
    looked_us: i64,
}

impl Signs {
    /// Nobody is thought dead before three seconds without a sign have been watched without a gap.
    pub(super) fn check(&mut self, us: &Life, leases: &Leases, nodes: &[NodeRow], now_us: i64) {
        if now_us - self.looked_us > 2 * S {
            self.last.clear();
        }
        self.looked_us = now_us;
        for row in nodes {
            let sign = (row.beat, row.vouched);
            let (seen, since_us) = self.last.entry(row.life.clone()).or_insert((sign, now_us));
            if *seen != sign {
                (*seen, *since_us) = (sign, now_us);
            }
            let is_thought_dead = row.life.node != us.node && leases.verdict(&row.life) == Verdict::Dead;
            assert!(
                !is_thought_dead || now_us - *since_us >= 3 * S,
                "{:?} gave a sign at {since_us}, it is {now_us}",
                row.life
            );
        }
    }
}

impl World {
    /// What the registry has taken.
    pub(super) fn written(&mut self, id: &BroadcastId, before: &BroadcastRow, after: &BroadcastRow, wall_us: i64) {
        let was_live = before.held_by(&before.owner);
        let is_live = after.held_by(&after.owner);
        assert!(after.epoch >= before.epoch && after.next_gop + 256 >= before.next_gop, "{before:?} {after:?}");
        if is_live && after.epoch != before.epoch {
            self.owned(id, after.epoch, &after.owner);
            let ended_us = self.ended_us.get(id).copied();
            // Clocks are up to ten seconds apart.
            let soon = was_live || ended_us.is_some_and(|ended_us| wall_us - ended_us < 40 * S);
            if !self.partitions && soon && before.born_us != 0 {
                assert_eq!(after.born_us, before.born_us, "{id} goes on");
            }
        }
        if was_live && !is_live {
            let ends = self.ends.entry((id.clone(), after.epoch)).or_default();
            *ends += 1;
            assert_eq!(*ends, 1, "{id}: the end of {:x} was told twice", after.epoch);
            self.ended_us.insert(id.clone(), wall_us);
        }
    }

    pub(super) fn owned(&mut self, id: &BroadcastId, epoch: u64, life: &Life) {
        let owner = self.owners.entry((id.clone(), epoch)).or_insert_with(|| life.clone());
        assert_eq!(owner, life, "{id}: two owners of {epoch:x}");
    }

    pub(super) fn check_calm(&self) {
        for (id, (row, _)) in &self.database.rows {
            self.check_told(id, row.held_by(&row.owner));
            if !row.held_by(&row.owner) {
                continue;
            }
            let owner = self.machines.iter().find(|machine| machine.life == row.owner && !machine.down);
            let owner = owner.unwrap_or_else(|| panic!("{id} is stuck with {:?}, which is dead", row.owner));
            let held = owner.halls.get(id).map(|held| (held.hall.epoch, held.status));
            assert_eq!(held, Some((row.epoch, HeldStatus::Live)), "{id} is stuck: {row:?}");
        }
        for machine in self.machines.iter().filter(|machine| !machine.down) {
            for (id, held) in machine.halls.iter().filter(|(_, held)| held.status != HeldStatus::Ended) {
                let row = &self.database.rows[id].0;
                assert!(
                    row.held_by(&machine.life) && row.epoch == held.hall.epoch,
                    "{id} is live unknown to the registry"
                );
            }
        }
    }

    /// Whoever ended it and however often it was tried: a beginning, its end, the next beginning.
    fn check_told(&self, id: &BroadcastId, is_live: bool) {
        let told = self.told.get(id).map_or(&[][..], Vec::as_slice);
        for (n, event) in told.iter().enumerate() {
            let is_end = matches!(event.what, Happening::LiveStreamEnded { .. });
            assert_eq!(is_end, n % 2 == 1, "{id}: {told:#?}");
        }
        assert_eq!(told.len() % 2 == 1, is_live, "{id}: {told:#?}");
        let ids: BTreeSet<_> = told.iter().map(|event| &event.id).collect();
        assert_eq!(ids.len(), told.len(), "{id}: {told:#?}");
    }
}
