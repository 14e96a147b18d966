//! What both roles need.

pub mod fmp4;
pub mod live;
pub mod media;
pub mod registry;
pub mod store;
pub mod telemetry;
