//! Ant Media's signalling, as its JavaScript SDK, its web player and its mobile SDKs speak it over a WebSocket.
//!
//! In: what a client says on its socket, and what became of what it asked for. Out: what to do for it, and what to tell
//! it. [`Machine`] is the protocol and nothing else; messages are in `message` (theirs) and `reply` (ours). Deliberately
//! absent: media, rooms, peer-to-peer and push messages, whose commands are answered with an error.

mod action;
mod machine;
mod message;
mod reply;
#[cfg(test)]
mod tests;

pub use action::{Action, Ending, Found, Look, Outcome, Refusal, Ticket};
pub use machine::Machine;
pub use reply::{Rendition, Reply};
