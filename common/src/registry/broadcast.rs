//! The life of a broadcast's row: created, claimed (again and again, each time with a higher epoch), finished or lost.
//! Pure: rows and `now` in, rows out.

use serde::{Deserialize, Serialize};

use crate::{
    ladder::Rung,
    live::{BroadcastId, Publisher},
};

/// Numbers that are set aside with every claim and every report of progress. A process that is killed has used more
/// numbers than it reported, and its successor must not use them again; a gop lasts a second or longer, so this
/// covers reports that come as seldom as once a minute.
const GOPS_AHEAD: u64 = 64;
const DISCONTINUITIES_AHEAD: u64 = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BroadcastStatus {
    /// Known by name, never published or not yet.
    #[default]
    Created,
    Broadcasting,
    Finished,
    /// Its publisher vanished, or the process that served it died.
    TerminatedUnexpectedly,
}

/// How a broadcast ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Finished,
    TerminatedUnexpectedly,
}

/// What whoever created the broadcast says about it; the server only keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    pub name: String,
    pub description: String,
    pub metadata: String,
    /// The qualities that are made of it. `None`: as the application's setting says.
    pub ladder: Option<Vec<Rung>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BroadcastRow {
    pub app: String,
    pub stream: String,
    pub status: BroadcastStatus,
    /// Of the newest claim; 0 before the first.
    pub epoch: u64,
    /// The first gop number that nobody can have used.
    pub next_gop: u64,
    /// At least as high as any discontinuity number that was used.
    pub discontinuity: u64,
    /// Protocol of the newest publisher.
    pub publish_type: String,
    /// Address of the newest publisher.
    pub remote: String,
    pub agent: String,
    pub created_ms: i64,
    /// When the newest publisher took it.
    pub started_ms: Option<i64>,
    pub updated_ms: i64,
    pub ended_ms: Option<i64>,
    /// Record this broadcast or don't, whatever the application's setting says.
    pub record_override: Option<bool>,
    pub details: Details,
}

/// What a claim hands to the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub epoch: u64,
    pub next_gop: u64,
    pub discontinuity: u64,
}

/// How far a broadcast that goes on has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub id: BroadcastId,
    pub epoch: u64,
    pub next_gop: u64,
    pub discontinuity: u64,
}

impl BroadcastRow {
    /// `epoch` is higher than zero where a row of this name was removed: its publisher may still be around.
    pub(super) fn new(id: &BroadcastId, epoch: u64, now_ms: i64) -> Self {
        Self {
            app: id.app().to_owned(),
            stream: id.stream().to_owned(),
            epoch,
            created_ms: now_ms,
            updated_ms: now_ms,
            ..Self::default()
        }
    }

    pub(super) fn claim(&mut self, publisher: &Publisher, now_ms: i64) -> Claimed {
        let first = self.started_ms.is_none();
        self.epoch += 1;
        let claimed = Claimed {
            epoch: self.epoch,
            next_gop: self.next_gop,
            discontinuity: self.discontinuity + u64::from(!first),
        };
        self.status = BroadcastStatus::Broadcasting;
        self.publish_type = publisher.protocol.to_owned();
        self.remote.clone_from(&publisher.remote);
        self.agent.clone_from(&publisher.agent);
        self.started_ms = Some(now_ms);
        self.ended_ms = None;
        self.set_aside(claimed.next_gop, claimed.discontinuity, now_ms);
        claimed
    }

    /// False when another claim holds the row.
    pub(super) fn progress(&mut self, epoch: u64, next_gop: u64, discontinuity: u64, now_ms: i64) -> bool {
        if !self.held_by(epoch) {
            return false;
        }
        self.set_aside(next_gop, discontinuity, now_ms);
        true
    }

    /// False when another claim holds the row. Numbers are exact now, except that they never go back.
    pub(super) fn finish(
        &mut self,
        epoch: u64,
        ending: Ending,
        next_gop: u64,
        discontinuity: u64,
        now_ms: i64,
    ) -> bool {
        if !self.held_by(epoch) {
            return false;
        }
        self.next_gop = next_gop.max(self.next_gop.saturating_sub(GOPS_AHEAD));
        self.discontinuity = discontinuity.max(self.discontinuity.saturating_sub(DISCONTINUITIES_AHEAD));
        self.end(ending, now_ms);
        true
    }

    /// For rows that a dead process left: nobody broadcasts when the registry is opened. The last sign of life is
    /// taken for the end. False when there is nothing to do.
    pub(super) fn orphaned(&mut self) -> bool {
        let orphaned = self.status == BroadcastStatus::Broadcasting;
        if orphaned {
            self.end(Ending::TerminatedUnexpectedly, self.updated_ms);
        }
        orphaned
    }

    fn end(&mut self, ending: Ending, now_ms: i64) {
        self.status = match ending {
            Ending::Finished => BroadcastStatus::Finished,
            Ending::TerminatedUnexpectedly => BroadcastStatus::TerminatedUnexpectedly,
        };
        self.updated_ms = now_ms;
        self.ended_ms = Some(now_ms);
    }

    fn held_by(&self, epoch: u64) -> bool {
        self.epoch == epoch && self.status == BroadcastStatus::Broadcasting
    }

    fn set_aside(&mut self, next_gop: u64, discontinuity: u64, now_ms: i64) {
        self.next_gop = self.next_gop.max(next_gop + GOPS_AHEAD);
        self.discontinuity = self.discontinuity.max(discontinuity + DISCONTINUITIES_AHEAD);
        self.updated_ms = now_ms;
    }
}
