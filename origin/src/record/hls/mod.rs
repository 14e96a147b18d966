//! Recordings that are kept as HLS: segments, and the playlist that names them. In: what the cutter hands out. Out: a folder of
//! pieces on the disk, whole at any moment, beside the playlist ([`reel`]), and at the end, or after a crash, the playlist of
//! an event that is over ([`salvage`]). Deliberately absent: HTTP, buckets, rows.

pub(super) mod playlist;
pub(super) mod reel;
pub(super) mod salvage;
