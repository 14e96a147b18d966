//! From hall to viewer.

pub mod webrtc;
