//! VP8 (RFC 7741), with the one mandatory byte of the payload descriptor. Partitions are not told apart: section 4.2
//! allows partition index 0 throughout, and that is what browsers send.

use std::sync::Arc;

use super::{PAYLOAD_BYTES_MAX, equal_pieces, joined};

/// S: a partition starts here. Browsers take it, with index 0, for the start of a frame.
pub(super) const START: u8 = 0x10;

pub(super) fn payloads(frame: &[u8]) -> Vec<Arc<[u8]>> {
    let pieces = equal_pieces(frame, PAYLOAD_BYTES_MAX - 1);
    pieces.enumerate().map(|(at, piece)| joined(&[if at == 0 { START } else { 0 }], piece)).collect()
}
