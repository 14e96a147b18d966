//! The one wall-clock. Rooms that are pure take its reading as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds of the Unix epoch.
pub fn now_us() -> i64 {
    // Before 1970 the clock is broken anyway; zero then, rather than a panic.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
