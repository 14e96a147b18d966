//! From publisher to hall, and what only an origin does.

#[cfg(feature = "transcode")]
pub mod transcode;
