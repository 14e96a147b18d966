//! What both roles need: frames and codecs (`media`), the hall where they meet (`live`), who serves what (`registry`)
//! and where files go (`store`).

pub mod live;
pub mod media;
pub mod registry;
pub mod store;
pub mod telemetry;
