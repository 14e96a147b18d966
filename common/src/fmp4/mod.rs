//! Frames to MP4, one writer for recordings and for HLS. In: what tracks are, samples in the canonical form. Out: an
//! initialisation section ([`init`]), fragments ([`Fragment`]), and from a recording made of these an ordinary MP4
//! file ([`progressive`]), whether it was finished or torn. Deliberately absent: segment names and durations, playlists,
//! when to cut, and reading files that others wrote.
//!
//! A recording is an initialisation section, then fragments. When a track changes or joins, another initialisation
//! section follows in the same file, and what comes behind it is described by that one. The same track keeps its
//! number. Players stop understanding such a file at the second section, so it is for [`progressive`] only.

mod fragment;
mod init;
pub mod progressive;
pub mod read;
mod tables;
#[cfg(test)]
mod tests;

pub use fragment::Fragment;
pub use init::{InitError, TrackSpec, init};

/// Microseconds to a track's ticks, rounded: times on a track's own grid come back exactly.
pub fn ticks(us: i64, timescale: u32) -> i64 {
    let scaled = i128::from(us) * i128::from(timescale);
    ((scaled + 500_000).div_euclid(1_000_000)) as i64
}
