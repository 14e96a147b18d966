//! What happens to a broadcast that its operator is told of: that it began, that it ended and how, that a recording of it is
//! ready. In: rows, as they change. Out: events, each with an id for good. An event is written in the very write that makes
//! it true, and from there goes into the broadcast's [`Mailbox`](super::Mailbox). Deliberately absent: to whom it is told, and
//! how. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{BroadcastRow, BroadcastStatus, RecordingRow, RecordingState};

/// A publisher that is replaced, or comes back before the broadcast is ended, ends and begins nothing: of one broadcast, a
/// beginning and an end follow each other strictly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Stays the same, whoever tells it and however often: who is told twice knows by it.
    pub id: String,
    /// When it happened, milliseconds of the Unix epoch.
    pub at_ms: i64,
    /// Since when somebody tries to tell it.
    pub tried_ms: Option<i64>,
    pub what: Happening,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Happening {
    LiveStreamStarted,
    LiveStreamEnded {
        status: BroadcastStatus,
    },
    VodReady {
        vod_id: String,
        file: String,
        duration_ms: i64,
        /// The broadcast was over by then, though that may not have been written yet.
        after_end: bool,
    },
}

impl Happening {
    /// As Ant Media calls it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::LiveStreamStarted => "liveStreamStarted",
            Self::LiveStreamEnded { .. } => "liveStreamEnded",
            Self::VodReady { .. } => "vodReady",
        }
    }
}

impl Event {
    /// `occasion` tells apart what happens more than once.
    fn new(row: (&str, &str), occasion: &str, at_ms: i64, what: Happening) -> Self {
        let (app, stream) = row;
        let text = format!("{app}/{stream}/{occasion}/{}", what.action());
        let digest = digest(&SHA256, text.as_bytes());
        let name: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id: format!("msg_{name}"), at_ms, tried_ms: None, what }
    }

    /// Of a broadcast, under the claim that its row has now. Epochs begin anew with a new registry, times don't.
    pub(super) fn of_broadcast(row: &BroadcastRow, at_ms: i64, what: Happening) -> Self {
        Self::new((&row.app, &row.stream), &format!("{:x}/{at_ms}", row.epoch), at_ms, what)
    }

    /// `after_end`: its broadcast was over by then. `None` for a recording that is not ready.
    pub fn of_recording(row: &RecordingRow, after_end: bool, at_ms: i64) -> Option<Self> {
        let what = Happening::VodReady {
            vod_id: row.vod_id.to_string(),
            file: row.file.clone(),
            duration_ms: row.duration_ms,
            after_end,
        };
        let is_ready = row.state == RecordingState::Ready;
        is_ready.then(|| Self::new((&row.app, &row.stream), row.vod_id.as_str(), at_ms, what))
    }
}
