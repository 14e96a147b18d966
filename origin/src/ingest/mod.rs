//! The doors publishers come in by, one room per protocol, and the gate they all pass.

mod gate;
pub mod rtmp;

pub use gate::{Gate, Refused};
