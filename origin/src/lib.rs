//! From publisher to hall, and what only an origin does.

pub mod announce;
pub mod ingest;

#[doc(hidden)]
pub mod fuzz;
