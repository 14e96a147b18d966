//! What both roles need: frames and codecs (`media`), the hall where they meet (`live`), settings and numbers.

pub mod config;
pub mod live;
pub mod media;
pub mod telemetry;
