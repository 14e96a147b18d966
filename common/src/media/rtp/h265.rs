//! H.265 (RFC 7798, transmission mode SRST): single units, aggregation packets, fragmentation units. No decoding order
//! numbers: browsers do not offer `sprop-max-don-diff`.

use std::sync::Arc;

use super::{
    PAYLOAD_BYTES_MAX, equal_pieces, joined,
    units::{self, Format},
};
use crate::media::Info;

const ACCESS_UNIT_DELIMITER: u8 = 35;
const FILLER: u8 = 38;
pub(super) const AGGREGATION: u8 = 48;
pub(super) const FRAGMENTATION: u8 = 49;
/// The type is in the middle of the first byte; layer and temporal id fill the rest of both.
const NOT_TYPE: u8 = 0x81;

const FORMAT: Format = Format {
    header_bytes: 2,
    left_out: |header| matches!(kind(header), ACCESS_UNIT_DELIMITER | FILLER | AGGREGATION..),
    aggregate_header: |units| {
        // Section 4.4.2: the lowest layer and temporal id of what is inside. Other layers than the base layer never get
        // here, so that the rest of the first unit's header serves.
        let temporal_id = units.iter().map(|unit| unit[1] & 7).min().unwrap_or(1);
        let [first, second] = units.first().map_or([0, 0], |unit| [unit[0], unit[1]]);
        vec![first & NOT_TYPE | AGGREGATION << 1, second & 0xf8 | temporal_id]
    },
    fragment,
};

pub(super) fn payloads(access_unit: &[u8], info: Option<&Info>) -> Vec<Arc<[u8]>> {
    units::payloads(access_unit, info, &FORMAT)
}

fn kind(header: u8) -> u8 {
    header >> 1 & 0x3f
}

/// Section 4.4.3.
fn fragment(unit: &[u8], payloads: &mut Vec<Arc<[u8]>>) {
    let (header, body) = ([unit[0], unit[1]], &unit[2..]);
    let pieces = equal_pieces(body, PAYLOAD_BYTES_MAX - 3);
    let last = pieces.len() - 1;
    payloads.extend(pieces.enumerate().map(|(at, piece)| {
        let (start, end) = (u8::from(at == 0) << 7, u8::from(at == last) << 6);
        joined(&[header[0] & NOT_TYPE | FRAGMENTATION << 1, header[1], start | end | kind(header[0])], piece)
    }));
}
