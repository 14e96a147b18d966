//! From hall to viewer.

pub mod hls;
