//! From hall to viewer.

pub mod webrtc;
pub mod hls;
