//! What both roles need: frames and codecs (`media`), the hall where they meet (`live`), and the machine around them.

pub mod antmedia;
pub mod audience;
pub mod chance;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod drain;
pub mod finder;
pub mod fmp4;
pub mod http;
pub mod ice_servers;
pub mod intake;
pub mod ladder;
pub mod live;
pub mod load;
pub mod media;
pub mod net;
pub mod node;
pub mod placement;
pub mod registry;
pub mod relay;
pub mod rtc;
pub mod store;
pub mod telemetry;
pub mod waiting;
pub mod wish;

#[doc(hidden)]
pub mod fuzz;
