//! Chance. Out: numbers that are not the same twice, which keep apart what happens in the same millisecond and those that
//! failed together. Deliberately absent: anything that a secret could be made of.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

pub fn entropy() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

/// Of this time: from none to all of it.
pub fn a_part_of(time: Duration) -> Duration {
    time.mul_f64(f64::from(entropy()) / f64::from(u32::MAX))
}
