//! WebRTC sessions on sharded sockets: one loop, whoever sends.
//!
//! In: offers of peers, tracks of the hall. Out: answers, and media over UDP or TCP on one port. [`Engine`] starts so
//! many shards, each a thread with its own socket on that port; a session waits until its first connectivity check
//! arrives and then belongs to the shard where the kernel delivered it. Packets are made once per frame
//! (`media::Frame::rtp`); per viewer remains a header, encryption, and its share of a system call.
//!
//! What was agreed on is in `answer` (viewers) and `reception` (publishers); what a session does with it in `viewing` and
//! `publishing`; that a publisher has the broadcast only when it is connected in `entry`; what publishers and viewers say to each other on data channels in `channel` and `exchange`. What a viewer's
//! path carries is estimated by the stack where there are several layers to choose from or few sessions (see `answer`);
//! `layers` chooses, `ladder` knows what there is to choose from. Deliberately absent: signalling (WHIP, WHEP and others are doors
//! of their own), TURN (ICE over TCP on the same port serves viewers without UDP), and codecs.

mod answer;
mod budget;
mod census;
mod channel;
mod clocks;
mod corridor;
mod dtls;
mod engine;
mod entry;
mod exchange;
mod feed;
mod formats;
mod inbox;
mod ladder;
mod layers;
mod net;
mod outgoing;
mod pace;
mod path;
mod publishing;
mod reception;
mod reorder;
mod roster;
mod sdp;
mod seam;
mod session;
mod shard;
mod tcp;
mod viewing;

pub use channel::SayError;
pub use corridor::{Corridor, Side, Utterance};
pub use engine::{
    Answer, Engine, IceSession, Incoming, JoinError, Member, RestartError, Settings, StartError, check_offer,
};
pub use exchange::{Distribution, To};
pub use layers::Quality;
pub use roster::{Role, SessionId, SessionStats, State};
pub use sdp::{Fragment, SDP_BYTES_MAX, SdpError};
pub use session::End;

use engine::Shared;

/// What a client gets after an ICE restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// Names the ICE session, for entity tags.
    pub etag: String,
    /// An SDP fragment (RFC 8840).
    pub fragment: String,
}

#[cfg(test)]
mod tests;
