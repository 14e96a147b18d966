//! What both roles need: frames and codecs (`media`), the hall where they meet (`live`), frames as MP4 (`fmp4`).

pub mod fmp4;
pub mod live;
pub mod media;
pub mod telemetry;
