//! WebRTC sessions on sharded sockets: one loop, whoever sends.
//!
//! In: offers of peers, tracks of the hall. Out: answers, and media over UDP or TCP on one port. [`Engine`] starts so
//! many shards, each a thread with its own socket on that port; a session waits until its first connectivity check
//! arrives and then belongs to the shard where the kernel delivered it. Packets are made once per frame
//! (`media::Frame::rtp`); per viewer remains a header, encryption, and its share of a system call.
//!
//! Deliberately absent: signalling (WHEP and others are doors of their own), TURN (ICE over TCP on the same port
//! serves viewers without UDP), transport-wide congestion feedback (see `answer`), and codecs.

mod answer;
mod engine;
mod feed;
mod formats;
mod inbox;
mod net;
mod outgoing;
mod pace;
mod roster;
mod sdp;
mod session;
mod shard;
mod tcp;

pub use engine::{Answer, Engine, RestartError, Settings, StartError, ViewError, check_offer};
pub use roster::{SessionId, SessionStats};
pub use sdp::{Fragment, SDP_BYTES_MAX, SdpError};

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
