//! What both roles need: frames and codecs (`media`), the hall where they meet (`live`).

pub mod live;
pub mod media;
pub mod rtc;
pub mod telemetry;
