//! H.264 (RFC 6184, packetization-mode 1): single units, STAP-A, FU-A.

use std::sync::Arc;

use super::{
    PAYLOAD_BYTES_MAX, equal_pieces, joined,
    units::{self, Format},
};
use crate::media::Info;

const NAL_DELIMITER: u8 = 9;
const NAL_FILLER: u8 = 12;
pub(super) const STAP_A: u8 = 24;
pub(super) const FU_A: u8 = 28;
const REF_IDC: u8 = 0x60;

const FORMAT: Format = Format {
    header_bytes: 1,
    left_out: |header| matches!(header & 0x1f, NAL_DELIMITER | NAL_FILLER | STAP_A..),
    // Section 5.7: the highest importance of what is inside.
    aggregate_header: |units| vec![units.iter().map(|unit| unit[0] & REF_IDC).max().unwrap_or(0) | STAP_A],
    fragment,
};

pub(super) fn payloads(access_unit: &[u8], info: Option<&Info>) -> Vec<Arc<[u8]>> {
    units::payloads(access_unit, info, &FORMAT)
}

/// Section 5.8.
fn fragment(unit: &[u8], payloads: &mut Vec<Arc<[u8]>>) {
    let (header, body) = (unit[0], &unit[1..]);
    let pieces = equal_pieces(body, PAYLOAD_BYTES_MAX - 2);
    let last = pieces.len() - 1;
    payloads.extend(pieces.enumerate().map(|(at, piece)| {
        let (start, end) = (u8::from(at == 0) << 7, u8::from(at == last) << 6);
        joined(&[(header & (0x80 | REF_IDC)) | FU_A, start | end | (header & 0x1f)], piece)
    }));
}
