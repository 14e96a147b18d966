//! Who serves what, and what was recorded: the truth that outlives the process.
//!
//! In: claims, progress and ends of broadcasts; the states of recordings. Out: the rows that REST lists, and the
//! epoch and numbers that a claim goes on from. [`Registry`] is kept by [`Embedded`], a file of this process alone, or
//! by a database that nodes share. The rules are plain functions in [`broadcast`](BroadcastRow), [`takes`](Takes) and
//! [`recording`](RecordingRow); what is to be told waits in a [`Mailbox`]. A registry reads a row, asks the rule, and keeps
//! the result if nobody has changed the row meanwhile.
//!
//! Deliberately absent: media, clocks (`now_us` is an argument, microseconds of the Unix epoch), and anything on the
//! path of a frame or a request for one.

mod bid;
mod broadcast;
mod duties;
mod embedded;
mod epoch;
mod event;
mod leases;
mod mailbox;
mod mongo;
mod node;
mod pace;
mod recording;
mod seen;
mod takes;

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;

pub use bid::{Ask, Bid, Claimed, Denied, Hall};
pub use broadcast::{BroadcastRow, BroadcastStatus, Details, Ending, Life, Progress};
pub use duties::{Duty, audit};
pub use embedded::Embedded;
pub use epoch::{is_next_grant, is_provisional};
pub use event::{Event, Happening};
pub use leases::{DEAD_AFTER_US, Leases, Verdict};
pub use mailbox::{Mailbox, Mailboxes, Turn};
pub use mongo::{Beaten, Mongo};
pub use node::NodeRow;
pub use recording::{ObjectRow, RecordingFilter, RecordingRow, RecordingState, VodId};
pub use seen::{Seen, SeenNode};
pub use takes::{Take, Takes, TooMany};

use crate::live::BroadcastId;

#[async_trait]
pub trait Registry: Mailboxes {
    /// Gives the broadcast to who asks: the next epoch, and numbers that nobody has used. Of two that ask at once, one
    /// gets it first and the other one's claim is the newer, or is refused.
    async fn claim(&self, id: &BroadcastId, bid: &Bid) -> Result<Claimed, RegistryError>;

    /// How far broadcasts of this node have come. Those held by another claim are left alone.
    async fn progress(&self, batch: &[Progress], now_us: i64) -> Result<(), RegistryError>;

    /// The broadcast is over. False, and nothing is changed, when another claim holds it.
    async fn finish(&self, last: &Progress, ending: Ending, now_us: i64) -> Result<bool, RegistryError>;

    /// Makes a broadcast known before anybody publishes it.
    async fn create(&self, id: &BroadcastId, details: Details, now_us: i64) -> Result<BroadcastRow, RegistryError>;

    /// False when there is no such broadcast.
    async fn set_details(&self, id: &BroadcastId, details: Details) -> Result<bool, RegistryError>;

    /// `None` leaves it to the application's setting. False when there is no such broadcast.
    async fn set_record(&self, id: &BroadcastId, record_override: Option<bool>) -> Result<bool, RegistryError>;

    /// Asks for a recording beside that one, or against it; `None` leaves it to the application's setting. False when
    /// there is no such broadcast.
    async fn set_take(
        &self,
        id: &BroadcastId,
        take: &Take,
        on: Option<bool>,
        now_us: i64,
    ) -> Result<bool, RegistryError>;

    async fn get(&self, id: &BroadcastId) -> Result<Option<BroadcastRow>, RegistryError>;

    /// An application's broadcasts by name.
    async fn list(&self, app: &str, offset: usize, size: usize) -> Result<Vec<BroadcastRow>, RegistryError>;

    async fn count(&self, app: &str) -> Result<usize, RegistryError>;

    /// Forgets a broadcast that is over, and refuses one that goes on. What is to be told of it is told. A later one of the
    /// same name gets a higher epoch: its last publisher may still be in a hall, and is not let back by that. False when
    /// there is no such broadcast.
    async fn remove(&self, id: &BroadcastId) -> Result<bool, RegistryError>;

    /// Adds a recording or replaces its row. Refuses a file name that another recording has.
    async fn put_recording(&self, row: &RecordingRow) -> Result<(), RegistryError>;

    async fn recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError>;

    async fn recording_of_file(&self, app: &str, file: &str) -> Result<Option<RecordingRow>, RegistryError>;

    /// An application's recordings, newest first.
    async fn list_recordings(
        &self,
        app: &str,
        filter: RecordingFilter<'_>,
        offset: usize,
        size: usize,
    ) -> Result<Vec<RecordingRow>, RegistryError>;

    async fn count_recordings(&self, app: &str, filter: RecordingFilter<'_>) -> Result<usize, RegistryError>;

    /// Recordings of all applications that a dead process of this node left unfinished.
    async fn unfinished_recordings(&self, node: &str) -> Result<Vec<RecordingRow>, RegistryError>;

    /// How long an operation takes, on average.
    fn operation_time(&self) -> Duration;

    /// Forgets a recording and returns what was known of it. Its file is the caller's business.
    async fn remove_recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError>;
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("registry {} can't be opened: {source}", .path.display())]
    Open { path: PathBuf, source: Box<redb::Error> },
    #[error("registry {} is held by another process", .path.display())]
    Held { path: PathBuf },
    #[error("registry {} is of version {found}, this program knows up to {}", .path.display(), embedded::VERSION)]
    Version { path: PathBuf, found: u64 },
    #[error("registry {}: {source}", .path.display())]
    Storage { path: PathBuf, source: Box<redb::Error> },
    #[error("registry {}: row {key:?} can't be read: {source}", .path.display())]
    Row { path: PathBuf, key: String, source: serde_json::Error },
    #[error("registry.mongodb: {problem}")]
    Address { problem: String },
    #[error("registry {hosts}: {problem}")]
    Database { hosts: String, problem: String },
    #[error("registry {hosts} takes neither user name nor password of registry.mongodb: {problem}")]
    Refused { hosts: String, problem: String },
    #[error("the registry has not answered the last beat of this node")]
    Away,
    #[error("the registry has not answered within {within:?}")]
    Late { within: Duration },
    #[error("this process ends, its registry takes nothing any more")]
    Closed,
    #[error("another process has begun a life of node {node}: two of them can't share one data directory or its copy")]
    Displaced { node: String },
    #[error("broadcast {id} exists already")]
    BroadcastExists { id: BroadcastId },
    #[error("{id} is being published by {protocol} from {remote} on node {node}")]
    InUse { id: BroadcastId, protocol: String, remote: String, node: String },
    #[error("{id} was claimed by node {node} meanwhile (epoch {epoch:#x})")]
    Outrun { id: BroadcastId, node: String, epoch: u64 },
    #[error("{id} was removed, and its claim with it")]
    Removed { id: BroadcastId },
    #[error(transparent)]
    TooManyTakes(#[from] TooMany),
    #[error("file {app}/{file} belongs to another recording")]
    FileTaken { app: String, file: String },
}

impl RegistryError {
    /// The registry gave no answer, rather than one that nobody likes: others may reach it, and it may be back soon.
    /// A file of this process is never away.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Database { .. } | Self::Refused { .. } | Self::Away | Self::Late { .. })
    }

    pub fn denied(id: &BroadcastId, denied: Denied) -> Self {
        let id = id.clone();
        match denied {
            Denied::InUse { owner, protocol, remote } => Self::InUse { id, protocol, remote, node: owner.node },
            Denied::Outrun { owner, epoch } => Self::Outrun { id, node: owner.node, epoch },
            Denied::Removed => Self::Removed { id },
        }
    }
}

#[cfg(test)]
mod tests;
