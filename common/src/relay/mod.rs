//! Media for other nodes. An origin serves what is published on it, an edge what it pulls itself: the cluster may be a
//! tree.
//!
//! In: the hall, and what nodes that pull wish. Out: pieces of each broadcast ([`serving`]), all that one node pulls on
//! one stream ([`Carrier`]), as fast as the other side reads. [`Line`] is the other end of it, and reads [`Pieces`].
//! `wire` is the one place where messages and what the hall holds are made of each other; `transport` the one place
//! where connections are tuned. Deliberately absent: who may connect, and where a broadcast lives.

mod carrier;
mod line;
mod pieces;
mod rota;
mod serve;
mod serving;
pub mod transport;
pub mod wire;

pub use carrier::Carrier;
pub use line::{Line, Pulled, Take};
pub(crate) use pieces::Messages;
pub use pieces::Pieces;
pub use serve::Serve;
