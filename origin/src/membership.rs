//! This node among those that share its registry.
//!
//! In: what this node is, whom it hears over links. Out: a beat each second on a task of its own, so that nothing else
//! can hold it up; [`Seen`], what a look into the registry shows each second; an end for the broadcasts of the dead; a
//! word for those that are cut off from the registry and not dead. Costs two operations a second, and one more when
//! some node says that it has written a claim or an end. Deliberately absent: links, and what lies in the hall.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use headwater_common::{
    clock,
    live::BroadcastId,
    registry::{BroadcastRow, Leases, Life, Mongo, NodeRow, RegistryError, Seen, SeenNode, Verdict},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, sleep_until},
};

const EVERY: Duration = Duration::from_secs(1);
/// While it is not known whether somebody is dead: viewers wait for the answer.
const PRESSING_EVERY: Duration = Duration::from_millis(250);
/// A beat that failed is not waited for: others count the seconds.
const BEAT_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Broadcasts are looked through this often even if no node says that it has written.
const ROWS_EVERY_US: i64 = 5_000_000;
/// How long an ended broadcast is among those that are seen: longer than a hall keeps it.
const ENDED_FOR_MS: i64 = 120_000;
/// An answer that took longer says little about the clock of who gave it.
const CLOCK_TRIP_MAX: Duration = Duration::from_millis(500);

pub type NewestEpoch = Arc<dyn Fn(&BroadcastId) -> Option<u64> + Send + Sync>;

/// What the rest of the process knows of this node and of others.
#[derive(Clone)]
pub struct Surroundings {
    /// What this node says of itself. Counters are kept here.
    pub about: Arc<dyn Fn() -> NodeRow + Send + Sync>,
    /// Who is heard over links now.
    pub heard: Arc<dyn Fn() -> Vec<Life> + Send + Sync>,
    /// The newest claim of a broadcast by what other nodes tell.
    pub newest_epoch: NewestEpoch,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Membership {
    shared: Arc<Shared>,
}

struct Shared {
    mongo: Mongo,
    life: Life,
    surroundings: Surroundings,
    begun: Instant,
    changes: AtomicU64,
    away: watch::Sender<bool>,
    seen: watch::Sender<Seen>,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl Membership {
    /// Beats and looks from now on. A registry that does not answer is waited for in the background.
    pub fn start(mongo: Mongo, life: Life, surroundings: Surroundings) -> Self {
        let shared = Shared {
            mongo,
            life,
            surroundings,
            begun: Instant::now(),
            changes: AtomicU64::new(0),
            away: watch::Sender::new(true),
            seen: watch::Sender::default(),
            tasks: Default::default(),
        };
        let membership = Self { shared: Arc::new(shared) };
        let tasks = [tokio::spawn(beat(membership.shared.clone())), tokio::spawn(look(membership.shared.clone()))];
        membership.shared.tasks().extend(tasks);
        membership
    }

    /// What is seen in the registry, look by look.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.shared.seen.subscribe()
    }

    /// The registry has not answered the last beat: no use in asking it something else.
    pub fn is_away(&self) -> bool {
        *self.shared.away.borrow()
    }

    /// Resolves when the registry has answered.
    pub async fn joined(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.away.subscribe().wait_for(|away| !away).await;
    }

    /// This node has written a claim or an end: others are to look.
    pub(crate) fn changed(&self) {
        self.shared.changes.fetch_add(1, Relaxed);
    }

    /// This node's monotonic clock, in which [`Seen`] tells the time.
    pub(crate) fn now_us(&self) -> i64 {
        self.shared.now_us()
    }

    /// By all that is known while the registry is away.
    pub(crate) fn last_known(&self, id: &BroadcastId, now_us: i64) -> BroadcastRow {
        let is_it = |row: &&BroadcastRow| (row.app.as_str(), row.stream.as_str()) == (id.app(), id.stream());
        let seen = self.shared.seen.borrow().broadcasts.iter().find(is_it).cloned();
        let mut row = seen.unwrap_or_else(|| BroadcastRow::new(id, 0, now_us));
        row.epoch = row.epoch.max((self.shared.surroundings.newest_epoch)(id).unwrap_or_default());
        row
    }

    /// To be called when the node stops, after its last end was told: a last beat says that it leaves.
    pub(crate) async fn leave(&self) {
        self.shared.tasks().drain(..).for_each(|task| task.abort());
        if !self.is_away()
            && let Err(error) = self.shared.mongo.beat(&self.shared.about()).await
        {
            tracing::warn!(%error, "the registry does not know that this node leaves, it will take it for dead");
        }
    }
}

impl Shared {
    fn now_us(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn about(&self) -> NodeRow {
        let about = (self.surroundings.about)();
        NodeRow { life: self.life.clone(), changes: self.changes.load(Relaxed), ..about }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn answered(&self, answered: Result<(), &RegistryError>) {
        let was_away = self.away.send_replace(answered.is_err());
        match answered {
            Ok(()) if was_away => tracing::info!(node = self.life.node, "registry answers"),
            Err(error) if !was_away => {
                tracing::error!(%error, "registry is away: what runs goes on, new publishers are let in provisionally");
            }
            _ => {}
        }
    }
}

async fn beat(shared: Arc<Shared>) {
    let mut turn = interval(EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut joined = false;
    let mut told = false;
    loop {
        turn.tick().await;
        loop {
            let asked = Instant::now();
            let beaten = match joined {
                false => join(&shared).await,
                true => shared.mongo.beat(&shared.about()).await,
            };
            match beaten {
                Ok(beaten) => {
                    let took = asked.elapsed();
                    if took < CLOCK_TRIP_MAX {
                        // The server wrote in the middle of the trip, and within the millisecond that it told.
                        clock::hear(beaten.server_ms * 1_000 + 500 + took.as_micros() as i64 / 2);
                    }
                    joined = true;
                    shared.answered(Ok(()));
                    break;
                }
                Err(error) => {
                    if !told {
                        tracing::error!(%error, "no beat");
                    }
                    shared.answered(Err(&error));
                    told = true;
                }
            }
            sleep(BEAT_AGAIN_AFTER).await;
        }
        told = false;
    }
}

async fn join(shared: &Shared) -> Result<headwater_common::registry::Beaten, RegistryError> {
    let beaten = shared.mongo.join(&shared.about()).await?;
    if let Err(error) = shared.mongo.prepare().await {
        tracing::error!(%error, "indexes are missing in the registry: lists are slower, and rows of dead nodes stay");
    }
    Ok(beaten)
}

/// What one look leaves for the next.
struct Look {
    leases: Leases,
    rows: Vec<BroadcastRow>,
    rows_asked_us: Option<i64>,
    /// What nodes said of their writing when the rows were read.
    changes: BTreeMap<Life, u64>,
}

async fn look(shared: Arc<Shared>) {
    let leases = Leases::new(shared.life.clone());
    let mut look = Look { leases, rows: Vec::new(), rows_asked_us: None, changes: BTreeMap::new() };
    loop {
        let begun = tokio::time::Instant::now();
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
            Err(error) => {
                tracing::debug!(%error, "no look into the registry");
                look.rows_asked_us = None;
                shared.seen.send_modify(|seen| seen.answers = false);
            }
        }
        sleep_until(begun + if look.leases.is_pressing() { PRESSING_EVERY } else { EVERY }).await;
    }
}

impl Look {
    async fn once(&mut self, shared: &Shared) -> Result<Vec<SeenNode>, RegistryError> {
        let nodes = shared.mongo.nodes().await?;
        let changes: BTreeMap<_, _> = nodes.iter().map(|row| (row.life.clone(), row.changes)).collect();
        let asked_us = shared.now_us();
        let is_old = |asked: i64| asked_us - asked >= ROWS_EVERY_US;
        if changes != self.changes || self.rows_asked_us.is_none_or(is_old) {
            self.rows = shared.mongo.recent(clock::now_us() / 1_000 - ENDED_FOR_MS).await?;
            self.rows_asked_us = Some(asked_us);
            self.changes = changes;
        }
        let now_us = shared.now_us();
        for life in (shared.surroundings.heard)() {
            self.leases.hear(&life, now_us);
        }
        self.leases.look(&nodes, &self.rows, now_us);
        for life in self.leases.cut_off() {
            shared.mongo.vouch(&life).await?;
        }
        self.bury(shared).await?;
        let judged = nodes.into_iter().map(|row| SeenNode { verdict: self.leases.verdict(&row.life), row });
        Ok(judged.collect())
    }

    /// Ends what the dead have left. Others do the same at the same time: the registry lets one of them.
    async fn bury(&mut self, shared: &Shared) -> Result<(), RegistryError> {
        let is_orphan =
            |row: &&BroadcastRow| row.held_by(&row.owner) && self.leases.verdict(&row.owner) == Verdict::Dead;
        let orphans: Vec<_> = self.rows.iter().filter(is_orphan).cloned().collect();
        for row in orphans {
            let Ok(id) = BroadcastId::new(&row.app, &row.stream) else { continue };
            if shared.mongo.bury(&id, &row.owner, clock::now_us()).await? {
                tracing::warn!(broadcast = %id, node = row.owner.node, "ended: its node is dead");
                shared.changes.fetch_add(1, Relaxed);
            }
            // What it is now stands in the registry.
            self.rows_asked_us = None;
        }
        Ok(())
    }
}
