//! From publisher to hall, and what only an origin does.

pub mod announce;
pub mod ingest;
pub mod record;
#[cfg(feature = "transcode")]
pub mod transcode;

#[doc(hidden)]
pub mod fuzz;
