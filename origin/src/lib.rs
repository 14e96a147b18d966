//! From publisher to hall, and what only an origin does.

pub mod record;
