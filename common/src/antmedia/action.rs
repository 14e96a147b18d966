//! What the protocol asks of whoever runs it, and what it wants to hear of that.

use super::reply::{Measured, Rendition, Reply};
use crate::{live::BroadcastId, media::Kind};

/// Names one stay of a stream on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Send(Reply),
    /// Take the client's stream. Comes to [`Outcome::Answer`].
    Publish {
        ticket: Ticket,
        stream: BroadcastId,
        token: String,
        offer: String,
    },
    /// Offer the client a stream. Comes to [`Outcome::Offer`], or to [`Outcome::Absent`] and then, when it is live,
    /// to [`Outcome::Live`].
    Invite {
        ticket: Ticket,
        stream: BroadcastId,
    },
    /// The client's answer to that.
    Accept {
        ticket: Ticket,
        answer: String,
    },
    /// Send this quality; `None`: what the network carries.
    Quality {
        ticket: Ticket,
        height: Option<u32>,
    },
    Enable {
        ticket: Ticket,
        kind: Kind,
        enabled: bool,
    },
    /// Comes to [`Outcome::Measured`], if anything is known.
    Measure(Ticket),
    /// Let go of everything that is held under this ticket.
    Close(Ticket),
    /// Comes to [`Machine::found`](super::Machine::found).
    Look {
        stream: BroadcastId,
        what: Look,
    },
    /// Comes to [`Machine::ice_servers`](super::Machine::ice_servers).
    ListIceServers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Renditions,
    /// As REST describes the broadcast.
    Description,
    Tracks,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Renditions(Vec<Rendition>),
    /// JSON.
    Description(String),
    /// A broadcast that is live: it is its own only track here.
    Tracks,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// SDP, as is the next.
    Answer(String),
    Offer(String),
    /// Nobody publishes it now.
    Absent,
    /// Somebody does.
    Live,
    Refused(Refusal),
    /// Media flows.
    Running,
    Measured(Measured),
    Ended(Ending),
}

/// The texts are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another publisher has it.
    InUse(String),
    /// Not with this token.
    Unauthorized(String),
    /// The peers don't agree on what to send.
    Sdp(String),
    /// This node has all that it takes.
    Full(String),
    /// It may work in a moment.
    Busy(String),
    Registry(String),
    /// Nodes of this role do no such thing.
    Elsewhere(&'static str),
    /// This node drains, or stops.
    Stopping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The broadcast is over, or the client's side of the connection vanished.
    Over,
    /// Another publisher took the broadcast.
    Replaced,
    /// The operator stopped the broadcast.
    Stopped,
}
