//! This node among those that share its registry.
//!
//! In: what this node is, whom it hears over links. Out: a beat each second on a task of its own, so that nothing else
//! can hold it up; [`Seen`], what a look into the registry shows each second; an end for the broadcasts of the dead; a
//! word for those that are cut off from the registry and not dead. Costs two operations a second, and one more when
//! some node says that it has written a claim or an end, or this one holds a claim that is newer than what it has seen.
//! Deliberately absent: links, and what lies in the hall.

mod beat;
mod look;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use headwater_common::{
    clock,
    live::BroadcastId,
    node::Phase,
    registry::{BroadcastRow, Life, Mongo, NodeRow, RegistryError, Seen, SeenNode, Verdict},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::inquiry;

const EVERY: Duration = Duration::from_secs(1);
/// Links tell of a death up to so much earlier than beats that stand still, and of a removal before the next look.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);

pub type NewestEpoch = Arc<dyn Fn(&BroadcastId) -> Option<u64> + Send + Sync>;

/// What the rest of the process knows of this node and of others.
#[derive(Clone)]
pub struct Surroundings {
    /// What this node says of itself. Counters are kept here.
    pub about: Arc<dyn Fn() -> NodeRow + Send + Sync>,
    /// Who is heard over links now, and how long ago.
    pub heard: Arc<dyn Fn() -> Vec<(Life, Duration)> + Send + Sync>,
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
    /// Rows are to be read at the next look, whatever others say.
    unsure: AtomicBool,
    contact: watch::Sender<Contact>,
    seen: watch::Sender<Seen>,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl Membership {
    /// Beats and looks from now on. A registry that does not answer is waited for in the background.
    pub fn start(mongo: Mongo, life: Life, surroundings: Surroundings) -> Self {
        clock::expect();
        let shared = Shared {
            mongo,
            life,
            surroundings,
            begun: Instant::now(),
            changes: AtomicU64::new(0),
            unsure: AtomicBool::new(false),
            contact: watch::Sender::new(Contact::Awaited),
            seen: watch::Sender::default(),
            tasks: Default::default(),
        };
        let membership = Self { shared: Arc::new(shared) };
        let shared = || membership.shared.clone();
        let tasks = [tokio::spawn(beat::run(shared())), tokio::spawn(look::run(shared()))];
        membership.shared.tasks().extend(tasks);
        membership
    }

    /// What is seen in the registry, look by look.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.shared.seen.subscribe()
    }

    /// The registry has not answered the last beat: no use in asking it something else.
    pub fn is_away(&self) -> bool {
        !matches!(*self.shared.contact.borrow(), Contact::Answers)
    }

    /// Resolves when the registry has answered, or has said that it won't: then the settings are wrong.
    pub async fn joined(&self) -> Result<(), Arc<RegistryError>> {
        self.until(|contact| match contact {
            Contact::Answers => Some(Ok(())),
            Contact::Away(error) if matches!(**error, RegistryError::Refused { .. }) => Some(Err(error.clone())),
            _ => None,
        })
        .await
    }

    /// Resolves when another process has begun a life of this node. This one's is over.
    pub async fn displaced(&self) -> Arc<RegistryError> {
        self.until(|contact| match contact {
            Contact::Displaced(error) => Some(error.clone()),
            _ => None,
        })
        .await
    }

    async fn until<T>(&self, mut found: impl FnMut(&Contact) -> Option<T>) -> T {
        let mut contact = self.shared.contact.subscribe();
        loop {
            if let Some(found) = found(&contact.borrow_and_update()) {
                return found;
            }
            // The sender lives as long as `self`.
            let _ = contact.changed().await;
        }
    }

    /// This node has written a claim or an end: others are to look.
    pub(crate) fn changed(&self) {
        self.shared.changes.fetch_add(1, Relaxed);
    }

    /// What was seen last can't tell of all that this node holds.
    pub(crate) fn look_again(&self) {
        self.shared.unsure.store(true, Relaxed);
    }

    /// For nodes that are dead or have left. `is_gone`: so it is said over links, where the registry was not watched for
    /// long enough. The last look may be older than what was heard, so one that shows a life is not the last one.
    pub async fn remove_node(&self, node: &str, is_gone: bool) -> Result<Removal, RegistryError> {
        if self.is_away() {
            return Err(RegistryError::Away);
        }
        let may_live = |seen: &SeenNode| match seen.verdict {
            Verdict::Dead => false,
            Verdict::Alive => seen.row.phase != Phase::Stopping.name(),
            Verdict::Unknown => !is_gone,
        };
        let lives = |seen: &Seen| seen.nodes.iter().any(|seen| seen.row.life.node == node && may_live(seen));
        let mut seen = self.shared.seen.subscribe();
        if timeout(SETTLED_WITHIN, seen.wait_for(|seen| !lives(seen))).await.is_err() {
            return Ok(Removal::Lives);
        }
        let removed = inquiry::within(inquiry::WITHIN, self.shared.mongo.remove_node(node)).await?;
        Ok(if removed { Removal::Removed } else { Removal::Unknown })
    }

    /// This node's monotonic clock, in which [`Seen`] tells the time.
    pub(crate) fn now_us(&self) -> i64 {
        self.shared.now_us()
    }

    /// What was seen last of a broadcast that is live, or was lately.
    pub(crate) fn last_seen(&self, id: &BroadcastId) -> Option<BroadcastRow> {
        let is_it = |row: &&BroadcastRow| (row.app.as_str(), row.stream.as_str()) == (id.app(), id.stream());
        self.shared.seen.borrow().broadcasts.iter().find(is_it).cloned()
    }

    /// By all that is known while the registry is away.
    pub(crate) fn last_known(&self, id: &BroadcastId, now_us: i64) -> BroadcastRow {
        let mut row = self.last_seen(id).unwrap_or_else(|| BroadcastRow::new(id, 0, now_us));
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

    fn is_now(&self, contact: Contact) {
        // From there is no way back.
        if matches!(*self.contact.borrow(), Contact::Displaced(_)) {
            return;
        }
        let before = self.contact.send_replace(contact.clone());
        match (before, contact) {
            (Contact::Answers, Contact::Answers) => {}
            (_, Contact::Answers) => tracing::info!(node = self.life.node, "registry answers"),
            (Contact::Answers | Contact::Awaited, Contact::Away(error)) => {
                tracing::error!(%error, "registry is away: what runs goes on, new publishers are let in provisionally");
            }
            _ => {}
        }
    }
}

/// How it went to remove a node's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    Removed,
    Unknown,
    /// It beats, or may.
    Lives,
}

/// How this node stands with the registry.
#[derive(Clone)]
enum Contact {
    /// Nothing was heard yet.
    Awaited,
    Answers,
    Away(Arc<RegistryError>),
    /// It knows a later life of this node.
    Displaced(Arc<RegistryError>),
}

impl Contact {
    fn without(error: RegistryError) -> Self {
        match error {
            error @ RegistryError::Displaced { .. } => Self::Displaced(Arc::new(error)),
            error => Self::Away(Arc::new(error)),
        }
    }
}
