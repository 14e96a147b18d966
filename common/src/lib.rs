//! What both roles need: frames and codecs (`media`), the hall where they meet (`live`).

pub mod fmp4;
#[doc(hidden)]
pub mod fuzz;
pub mod media;
