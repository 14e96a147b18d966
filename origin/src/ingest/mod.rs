//! The doors publishers come in by, one room per protocol.

pub mod rtmp;
pub mod webrtc;
