//! A look into the registry each second, and at the moment at which somebody would be dead. In: its rows, and whom this node
//! hears over links. Out: [`Seen`]; an end for the broadcasts of the dead; a word for those that are cut off from the registry
//! and not dead.
//!
//! So a death is told 4 s after the last beat at the latest, and the time of a few answers: a beat is seen up to a second after it
//! was written, and then stands still for three. What the dead claimed after their last beat is read when they are found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use headwater_common::{
    clock,
    live::BroadcastId,
    registry::{BroadcastRow, Leases, Life, NodeRow, RegistryError, SeenNode, Verdict},
};
use tokio::time::{Instant, sleep_until};

use super::{Contact, EVERY, Shared};

/// Broadcasts are looked through this often even if nobody has a reason to.
const ROWS_EVERY_US: i64 = 5_000_000;
/// How long an ended broadcast is among those that are seen: longer than a hall keeps it.
const ENDED_FOR_MS: i64 = 120_000;

/// Ends that are written at the same time: a node may leave hundreds of broadcasts, and each write waits for disks.
const BURIED_AT_ONCE: usize = 16;

/// What one look leaves for the next.
struct Look {
    leases: Leases,
    rows: Vec<BroadcastRow>,
    rows_asked_us: Option<i64>,
    /// What nodes said of their writing when the rows were read.
    changes: BTreeMap<Life, u64>,
    dead: BTreeSet<Life>,
}

pub(super) async fn run(shared: Arc<Shared>) {
    let leases = Leases::new(shared.life.clone());
    let (rows, changes, dead) = Default::default();
    let mut look = Look { leases, rows, rows_asked_us: None, changes, dead };
    loop {
        let begun = Instant::now();
        match look.once(&shared).await {
            Ok(nodes) => {
                shared.seen.send_modify(|seen| {
                    seen.looks += 1;
                    seen.answers = true;
                    seen.nodes = nodes;
                    if look.rows_asked_us != Some(seen.asked_us) {
                        seen.broadcasts.clone_from(&look.rows);
                        seen.asked_us = look.rows_asked_us.unwrap_or_default();
                    }
                });
            }
            // Whatever this process thinks of the later life's broadcasts, it is not to act on it.
            Err(error @ RegistryError::Displaced { .. }) => return shared.is_now(Contact::without(error)),
            Err(error) => {
                tracing::debug!(%error, "no look into the registry");
                look.rows_asked_us = None;
                shared.seen.send_modify(|seen| seen.answers = false);
            }
        }
        let death = look.leases.next_death_us().and_then(|death_us| u64::try_from(death_us).ok());
        let death = death.map(|death_us| Instant::from_std(shared.begun + Duration::from_micros(death_us)));
        sleep_until(death.map_or(begun + EVERY, |death| death.min(begun + EVERY))).await;
    }
}

impl Look {
    async fn once(&mut self, shared: &Shared) -> Result<Vec<SeenNode>, RegistryError> {
        // Before that, what is there may be what this node left behind when it died.
        let has_joined = matches!(*shared.contact.borrow(), Contact::Answers);
        let nodes = shared.mongo.nodes().await?;
        let is_double = |row: &NodeRow| row.life.node == shared.life.node && row.life != shared.life;
        if has_joined && nodes.iter().any(is_double) {
            return Err(RegistryError::Displaced { node: shared.life.node.clone() });
        }
        let changes: BTreeMap<_, _> = nodes.iter().map(|row| (row.life.clone(), row.changes)).collect();
        let asked_us = shared.now_us();
        let is_old = |asked: i64| asked_us - asked >= ROWS_EVERY_US;
        let is_unsure = shared.unsure.swap(false, Relaxed);
        if is_unsure || changes != self.changes || self.rows_asked_us.is_none_or(is_old) {
            self.read_rows(shared).await?;
            self.changes = changes;
        }
        let now_us = shared.now_us();
        for (life, ago) in (shared.surroundings.heard)() {
            self.leases.hear(&life, now_us.saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX)));
        }
        self.leases.look(&nodes, &self.rows, now_us);
        for life in self.leases.cut_off() {
            shared.mongo.vouch(&life).await?;
        }
        let is_dead = |life: &&Life| self.leases.verdict(life) == Verdict::Dead;
        let dead: BTreeSet<_> = nodes.iter().map(|row| &row.life).filter(is_dead).cloned().collect();
        if !dead.is_subset(&self.dead) && self.rows_asked_us.is_none_or(|asked| asked < asked_us) {
            // It may have claimed something after its last beat.
            self.read_rows(shared).await?;
        }
        self.dead = dead;
        self.bury(shared).await?;
        let judged = nodes.into_iter().map(|row| SeenNode { verdict: self.leases.verdict(&row.life), row });
        Ok(judged.collect())
    }

    async fn read_rows(&mut self, shared: &Shared) -> Result<(), RegistryError> {
        let asked_us = shared.now_us();
        self.rows = shared.mongo.recent(clock::now_us() / 1_000 - ENDED_FOR_MS).await?;
        self.rows_asked_us = Some(asked_us);
        Ok(())
    }

    /// Ends what the dead have left. Others do the same at the same time: the registry lets one of them.
    async fn bury(&mut self, shared: &Shared) -> Result<(), RegistryError> {
        let is_orphan =
            |row: &&BroadcastRow| row.held_by(&row.owner) && self.leases.verdict(&row.owner) == Verdict::Dead;
        let orphans: Vec<_> = self.rows.iter().filter(is_orphan).cloned().collect();
        if orphans.is_empty() {
            return Ok(());
        }
        // What they are now stands in the registry.
        self.rows_asked_us = None;
        let ends = stream::iter(orphans).map(|row| bury_one(shared, row)).buffer_unordered(BURIED_AT_ONCE);
        ends.try_collect().await
    }
}

async fn bury_one(shared: &Shared, row: BroadcastRow) -> Result<(), RegistryError> {
    let Ok(id) = BroadcastId::new(&row.app, &row.stream) else { return Ok(()) };
    if shared.mongo.bury(&id, &row.owner, clock::now_us()).await? {
        tracing::warn!(broadcast = %id, node = row.owner.node, "ended: its node is dead");
        shared.changes.fetch_add(1, Relaxed);
    }
    Ok(())
}
