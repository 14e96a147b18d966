//! Who serves what, and what was recorded: the truth that outlives the process, in one file under the data directory.
//!
//! In: claims, progress and ends of broadcasts; the states of recordings. Out: the rows that REST lists, and the
//! epoch and numbers that a claim goes on from. Rows are JSON, so that fields can be added without a migration: a
//! missing one has its default. The rules are plain functions in [`broadcast`](BroadcastRow) and
//! [`recording`](RecordingRow); [`Registry`] keeps their results.
//!
//! Deliberately absent: media, clocks (`now_ms` is an argument, milliseconds of the Unix epoch), and anything on the
//! path of a frame or a request for one. Every method is synchronous: a read takes microseconds, a write ends with an
//! fsync and takes what the disk takes, so callers on async threads wrap writes in `spawn_blocking` ([`Registry`] is
//! cheap to clone for that).

mod broadcast;
mod embedded;
mod recording;

pub use broadcast::{BroadcastRow, BroadcastStatus, Claimed, Details, Ending, Progress};
pub use embedded::{Opened, Registry, RegistryError};
pub use recording::{ObjectRow, RecordingFilter, RecordingRow, RecordingState, VodId};

#[cfg(test)]
mod tests;
