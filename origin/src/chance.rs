//! Chance. Out: numbers that are not the same twice, which keep apart what happens in the same millisecond and those that
//! failed together. Deliberately absent: anything that a secret could be made of.

use std::hash::{BuildHasher, Hasher, RandomState};

pub(crate) fn entropy() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}
