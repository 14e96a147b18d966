//! Why nothing more comes from the node a broadcast is pulled from. Deliberately absent: what to do about it.

use headwater_common::{live::MirrorError, relay::wire::WireError, rtc::SayError};

use super::talk::{BEGIN_WITHIN, SILENT_MAX};

#[derive(Debug, thiserror::Error)]
pub(super) enum Loss {
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("no answer within {} s", BEGIN_WITHIN.as_secs())]
    Unanswered,
    #[error("nothing came for {} ms", SILENT_MAX.as_millis())]
    Stalled,
    #[error("the broadcast is over there")]
    Over,
    #[error("it would come in a circle: {}", .0.join(" → "))]
    Loop(Vec<String>),
    #[error("what was told makes no sense: {0}")]
    Wire(#[from] WireError),
    #[error("what was told makes no sense: {0}")]
    Order(String),
    #[error("{0}")]
    Mirror(#[from] MirrorError),
    #[error("what was said on a data channel can't be passed on: {0}")]
    Said(#[from] SayError),
    #[error("a bug")]
    Bug,
}

impl Loss {
    /// The other node knows nothing of the broadcast.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == tonic::Code::NotFound)
    }

    /// Nothing came, not even an end: the connection may be to blame, and who waits for it to break waits for seconds.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Unanswered | Self::Stalled)
    }
}
