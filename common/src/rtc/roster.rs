//! Who is connected: all sessions of this node, and where each lives.
//!
//! In: sessions as they are answered, adopted by a shard, ended. Out: which shard a peer's check belongs to, counts and
//! snapshots for REST. Deliberately absent: packets. Asked only when a session comes, goes or changes its address.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::session::{End, Session};
use crate::live::BroadcastId;

/// An answered session that never sends a check is forgotten after this.
pub(super) const PENDING_PATIENCE: Duration = Duration::from_secs(10);
/// Answered sessions that no check has arrived for: each holds about 40 kB.
const PENDING_MAX: usize = 2_048;

/// Names a session in URLs. Unguessable: whoever knows it may end the session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

impl SessionId {
    pub(super) fn random() -> Self {
        let mut bytes = [0; 16];
        // Fails only where the operating system has no entropy at all; an id of zeroes would then be refused as taken.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        Self(u128::from_be_bytes(bytes).to_string().into())
    }
}

impl From<&str> for SessionId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a peer is here for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Publisher,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// ICE and DTLS are under way, or a publisher is not let in yet.
    Connecting,
    Connected,
    Ended(End),
}

/// One session as REST shows it. Counters are refreshed every few seconds.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SessionStats {
    pub id: String,
    pub broadcast: String,
    pub role: Role,
    /// False while ICE and DTLS are under way, and until a publisher is let in.
    pub connected: bool,
    pub age_ms: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Over the last few seconds.
    pub send_bps: u64,
    pub receive_bps: u64,
    /// Of media.
    pub packets_sent: u64,
    /// Of its data channel. Dropped are those that could not be told it, and those of its own that were too much.
    pub messages_sent: u64,
    pub messages_received: u64,
    pub messages_dropped: u64,
    /// Retransmissions and keyframes that a viewer asked for.
    pub nacks: u64,
    pub plis: u64,
    /// Keyframes that a publisher was asked for.
    pub keyframes_asked: u64,
    pub lost_percent: Option<f32>,
    pub jitter_ms: Option<f32>,
    pub rtt_ms: Option<f32>,
    /// What the path to a viewer is believed to carry.
    pub estimate_bps: Option<u64>,
    /// What a viewer is held to, because its path carries less than picture and sound take.
    pub limit_bps: Option<u64>,
    /// What the viewer's picture takes, where there are layers to choose from, and how many lines it has.
    pub layer_bps: Option<u64>,
    pub layer_height: Option<u32>,
    pub layer_switches: u64,
    /// The rate that room is being looked for.
    pub target_bps: Option<u64>,
    /// Pictures left out because they would have come too late.
    pub skipped: u64,
    pub protocol: &'static str,
    pub local: String,
    pub remote: String,
    /// Microseconds of the Unix epoch.
    pub began_us: i64,
}

/// What of a session others than its shard may see.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) id: SessionId,
    pub(super) broadcast: BroadcastId,
    pub(super) role: Role,
    pub(super) began: Instant,
    state: watch::Sender<State>,
    /// It can be told things by this node.
    hears: AtomicBool,
    ice: Mutex<Ice>,
    stats: Mutex<SessionStats>,
}

#[derive(Clone, Debug)]
pub(super) struct Ice {
    pub(super) local_ufrag: String,
    pub(super) remote_ufrag: String,
}

impl Card {
    pub(super) fn new(broadcast: BroadcastId, role: Role, ice: Ice, began: Instant, began_us: i64) -> Arc<Self> {
        let id = SessionId::random();
        let stats = SessionStats {
            id: id.to_string(),
            broadcast: broadcast.to_string(),
            role,
            connected: false,
            age_ms: 0,
            bytes_sent: 0,
            bytes_received: 0,
            send_bps: 0,
            receive_bps: 0,
            packets_sent: 0,
            messages_sent: 0,
            messages_received: 0,
            messages_dropped: 0,
            nacks: 0,
            plis: 0,
            keyframes_asked: 0,
            lost_percent: None,
            jitter_ms: None,
            rtt_ms: None,
            estimate_bps: None,
            limit_bps: None,
            layer_bps: None,
            layer_height: None,
            layer_switches: 0,
            target_bps: None,
            skipped: 0,
            protocol: "",
            local: String::new(),
            remote: String::new(),
            began_us,
        };
        let state = watch::Sender::new(State::Connecting);
        let (hears, ice, stats) = (AtomicBool::new(false), Mutex::new(ice), Mutex::new(stats));
        Arc::new(Self { id, broadcast, role, began, state, hears, ice, stats })
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn set_state(&self, state: State) {
        self.update(|stats| stats.connected = state == State::Connected);
        self.state.send_replace(state);
    }

    pub(super) fn hears(&self) -> bool {
        self.hears.load(Relaxed)
    }

    pub(super) fn set_hears(&self, hears: bool) {
        self.hears.store(hears, Relaxed);
    }

    pub(super) fn ice(&self) -> Ice {
        self.lock_ice().clone()
    }

    pub(super) fn set_ice(&self, ice: Ice) {
        *self.lock_ice() = ice;
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut SessionStats)) {
        update(&mut self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    pub(super) fn stats(&self) -> SessionStats {
        let mut stats = self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        stats.age_ms = self.began.elapsed().as_millis() as u64;
        stats
    }

    fn lock_ice(&self) -> MutexGuard<'_, Ice> {
        self.ice.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Where the session with a certain local ufrag is.
pub(super) enum Found {
    /// It waited for its first check: it is the asker's now.
    Adopted(Box<Session>),
    Shard(usize),
    Unknown,
}

enum Place {
    Pending(Box<Session>),
    Shard(usize),
}

#[derive(Default)]
pub(super) struct Roster(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    places: HashMap<String, Place>,
    sessions: HashMap<SessionId, Arc<Card>>,
    by_broadcast: HashMap<BroadcastId, Vec<SessionId>>,
    pending: usize,
}

impl Inner {
    fn remove(&mut self, card: &Card) -> Option<Box<Session>> {
        self.sessions.remove(&card.id);
        if let Some(ids) = self.by_broadcast.get_mut(&card.broadcast) {
            ids.retain(|id| *id != card.id);
            if ids.is_empty() {
                self.by_broadcast.remove(&card.broadcast);
            }
        }
        match self.places.remove(&card.ice().local_ufrag) {
            Some(Place::Pending(session)) => {
                self.pending -= 1;
                Some(session)
            }
            _ => None,
        }
    }
}

impl Roster {
    /// `false` when too many wait already.
    pub(super) fn await_check(&self, session: Box<Session>) -> bool {
        let mut inner = self.lock();
        if inner.pending >= PENDING_MAX {
            return false;
        }
        let card = session.card.clone();
        inner.pending += 1;
        inner.places.insert(card.ice().local_ufrag, Place::Pending(session));
        inner.by_broadcast.entry(card.broadcast.clone()).or_default().push(card.id.clone());
        inner.sessions.insert(card.id.clone(), card);
        true
    }

    pub(super) fn find(&self, ufrag: &str, shard: usize) -> Found {
        let mut inner = self.lock();
        let Some(place) = inner.places.get_mut(ufrag) else { return Found::Unknown };
        match std::mem::replace(place, Place::Shard(shard)) {
            Place::Pending(session) => {
                inner.pending -= 1;
                Found::Adopted(session)
            }
            Place::Shard(owner) => {
                *place = Place::Shard(owner);
                Found::Shard(owner)
            }
        }
    }

    /// After an ICE restart.
    pub(super) fn rename(&self, old: &str, new: &str) {
        let mut inner = self.lock();
        if let Some(place) = inner.places.remove(old) {
            inner.places.insert(new.to_owned(), place);
        }
    }

    /// The session is over. Returns it if no shard had it yet.
    pub(super) fn remove(&self, card: &Card) -> Option<Box<Session>> {
        self.lock().remove(card)
    }

    /// Forgets sessions that were answered and never heard of again.
    pub(super) fn expire(&self, now: Instant) -> Vec<Box<Session>> {
        let mut inner = self.lock();
        let pending = inner.places.values().filter_map(|place| match place {
            Place::Pending(session) => Some(&session.card),
            Place::Shard(_) => None,
        });
        let late = |card: &&Arc<Card>| now.saturating_duration_since(card.began) > PENDING_PATIENCE;
        let late: Vec<Arc<Card>> = pending.filter(late).cloned().collect();
        late.iter().filter_map(|card| inner.remove(card)).collect()
    }

    /// Runs something on a session that waits for its first check.
    pub(super) fn with_pending<T>(&self, ufrag: &str, act: impl FnOnce(&mut Session) -> T) -> Option<T> {
        match self.lock().places.get_mut(ufrag) {
            Some(Place::Pending(session)) => Some(act(session)),
            _ => None,
        }
    }

    pub(super) fn shard_of(&self, card: &Card) -> Option<usize> {
        match self.lock().places.get(&card.ice().local_ufrag) {
            Some(Place::Shard(shard)) => Some(*shard),
            _ => None,
        }
    }

    pub(super) fn card(&self, id: &SessionId) -> Option<Arc<Card>> {
        self.lock().sessions.get(id).cloned()
    }

    pub(super) fn viewers(&self, broadcast: &BroadcastId) -> usize {
        let inner = self.lock();
        let ids = inner.by_broadcast.get(broadcast).into_iter().flatten();
        ids.filter(|id| inner.sessions.get(id).is_some_and(|card| card.role == Role::Viewer)).count()
    }

    pub(super) fn cards(&self, broadcast: &BroadcastId) -> Vec<Arc<Card>> {
        let inner = self.lock();
        let ids = inner.by_broadcast.get(broadcast).into_iter().flatten();
        ids.filter_map(|id| inner.sessions.get(id).cloned()).collect()
    }

    pub(super) fn all(&self) -> Vec<Arc<Card>> {
        self.lock().sessions.values().cloned().collect()
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.sessions.len(), inner.pending)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
