//! Nodes that know each other: who is there, what is live where, and a way to each of them.
//!
//! In: the settings `[cluster]`. Deliberately absent: media, which travels by `relay`, and truth about claims, which is the
//! registry's: what is known here is what nodes tell each other, and is forgotten with the process.

pub mod identity;
pub mod tls;
