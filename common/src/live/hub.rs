//! This node's set of broadcasts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::watch;

use super::{Broadcast, BroadcastId, Fenced, Publisher, Status, Writer, minter::Minter};

/// A publisher that has written nothing for this long has vanished, whatever its connection says.
pub const SILENT_US: i64 = 2_000_000;
/// How long an interrupted broadcast waits for its publisher to come back.
pub const RESUME_US: i64 = 10_000_000;
/// How long an ended broadcast stays to be read: players fetch the last segments, a publisher that returns finds
/// its viewers still there.
pub const LINGER_US: i64 = 60_000_000;

/// What happens to a publisher that is alive when another one asks for the same broadcast. A silent one is always
/// replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Takeover {
    #[default]
    Replace,
    Refuse,
}

/// Everything that a claim brings from the registry and the publisher.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Counts the claims of this broadcast; the hub takes none that is not newer than the one it knows.
    pub epoch: u64,
    /// Of its first gop; higher if the hub knows better.
    pub next_gop: u64,
    pub discontinuity: u64,
    /// Wall-clock of timestamp zero: a broadcast that was born at another time is another one.
    pub born_us: i64,
    /// Where the broadcast has one already.
    pub segment_target_s: Option<u32>,
    pub publisher: Publisher,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClaimError {
    #[error("{id} is being published by {protocol} from {remote}")]
    InUse { id: BroadcastId, protocol: String, remote: String },
    #[error("{id} was claimed meanwhile (epoch {known}, ours is {ours})")]
    Outrun { id: BroadcastId, known: u64, ours: u64 },
}

#[derive(Debug, Default)]
pub struct Hub {
    broadcasts: Mutex<BTreeMap<BroadcastId, Arc<Broadcast>>>,
    version: watch::Sender<u64>,
}

impl Hub {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn get(&self, id: &BroadcastId) -> Option<Arc<Broadcast>> {
        self.lock().get(id).cloned()
    }

    pub fn list(&self) -> Vec<Arc<Broadcast>> {
        self.lock().values().cloned().collect()
    }

    /// Resolves when a broadcast appeared or left since the receiver last looked.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Whether a publisher would get this broadcast now. Asked before the registry counts a new epoch.
    pub fn check(&self, id: &BroadcastId, takeover: Takeover, now_us: i64) -> Result<(), ClaimError> {
        self.get(id).map_or(Ok(()), |broadcast| give_way(&broadcast, takeover, now_us))
    }

    /// Gives the broadcast to a publisher; whoever held it before is fenced off.
    pub fn claim(&self, id: &BroadcastId, claim: Claim, takeover: Takeover, now_us: i64) -> Result<Writer, ClaimError> {
        let mut broadcasts = self.lock();
        let known = broadcasts.get(id).cloned();
        if let Some(known) = &known {
            give_way(known, takeover, now_us)?;
            let known = known.claimed_epoch();
            if claim.epoch <= known {
                return Err(ClaimError::Outrun { id: id.clone(), known, ours: claim.epoch });
            }
        }
        let is_over = |known: &Broadcast| known.status() == Status::Ended && known.born_us() != claim.born_us;
        let (over, goes_on) = known.map_or((None, None), |known| match is_over(&known) {
            true => (Some(known), None),
            false => (None, Some(known)),
        });
        let broadcast = goes_on.unwrap_or_else(|| {
            let minter = Minter::new(claim.next_gop, claim.discontinuity, claim.segment_target_s);
            let broadcast = Broadcast::new(id.clone(), claim.born_us, minter);
            broadcasts.insert(id.clone(), broadcast.clone());
            broadcast
        });
        let writer = broadcast.begin_epoch(claim, now_us);
        drop(broadcasts);
        over.inspect(|over| over.close());
        self.changed();
        Ok(writer)
    }

    /// The claim that is held was made anew with a higher epoch, while its publisher went on. False when that claim
    /// does not hold the broadcast any more.
    pub fn renew(&self, id: &BroadcastId, held: u64, epoch: u64, next_gop: u64, discontinuity: u64) -> bool {
        self.get(id).is_some_and(|broadcast| broadcast.renew(held, epoch, next_gop, discontinuity))
    }

    /// The claim that is held here is void: its publisher is turned away as soon as it looks, with its next sample or in
    /// a second or two. False when that claim does not hold the broadcast any more.
    pub fn turn_away(&self, id: &BroadcastId, held: u64, why: Fenced, now_us: i64) -> bool {
        self.get(id).is_some_and(|broadcast| broadcast.turn_away(held, why, now_us))
    }

    /// Ends what was interrupted for too long and forgets what ended long ago; returns what it ended.
    pub fn sweep(&self, now_us: i64) -> Vec<Arc<Broadcast>> {
        let mut ended = Vec::new();
        let mut gone = Vec::new();
        for broadcast in self.list() {
            match broadcast.idle_since_us() {
                Some((Status::Interrupted, since_us)) if now_us - since_us >= RESUME_US => {
                    broadcast.end(broadcast.epoch(), now_us, Status::Ended);
                    ended.push(broadcast);
                }
                Some((Status::Ended, since_us)) if now_us - since_us >= LINGER_US => gone.push(broadcast),
                _ => {}
            }
        }
        for broadcast in gone {
            let mut broadcasts = self.lock();
            // It may have been claimed again since it was looked at.
            if broadcast.status() == Status::Ended {
                broadcasts.remove(broadcast.id());
                broadcast.close();
            }
            drop(broadcasts);
            self.changed();
        }
        ended
    }

    pub(super) fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<BroadcastId, Arc<Broadcast>>> {
        self.broadcasts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn give_way(broadcast: &Broadcast, takeover: Takeover, now_us: i64) -> Result<(), ClaimError> {
    match broadcast.silent_for_us(now_us) {
        Some(silent_us) if silent_us < SILENT_US && takeover == Takeover::Refuse => {
            let Publisher { protocol, remote, .. } = broadcast.publisher();
            Err(ClaimError::InUse { id: broadcast.id().clone(), protocol: protocol.to_owned(), remote })
        }
        _ => Ok(()),
    }
}
