//! From hall to viewer.

pub mod hls;
pub mod webrtc;
