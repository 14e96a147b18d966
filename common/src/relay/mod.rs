//! Media for other nodes. An origin serves what is published on it, an edge what it pulls itself: the cluster may be a
//! tree.
//!
//! In: the hall, and what nodes that pull wish. Out: one stream of pieces for each broadcast and node ([`Serving`]), written
//! as fast as the other side reads. `wire` is the one place where messages and what the hall holds are made of
//! each other; `transport` the one place where connections are tuned, `gather` what a connection that many broadcasts share
//! does about their number. Deliberately absent: who may connect, and where a
//! broadcast lives.

mod gather;
mod serve;
mod serving;
pub mod transport;
pub mod wire;

pub use gather::Gathered;
pub use serve::Serve;
pub use serving::Serving;
