//! What H.264 and H.265 have in common: NAL units that are small share a packet, those that are large are cut.
//!
//! In: an access unit, and how a codec writes the three kinds of packets. Out: payloads. Deliberately absent: what the
//! headers mean.

use std::sync::Arc;

use super::PAYLOAD_BYTES_MAX;
use crate::media::{Info, nal};

/// How one codec writes its packets.
pub(super) struct Format {
    /// Of a NAL unit, and of the packet around several.
    pub(super) header_bytes: usize,
    /// Delimiters, which say what the marker says, filler, which says nothing, and types that mean something else here.
    pub(super) left_out: fn(header: u8) -> bool,
    pub(super) aggregate_header: fn(&[&[u8]]) -> Vec<u8>,
    pub(super) fragment: fn(&[u8], &mut Vec<Arc<[u8]>>),
}

/// The parameter sets of `info` go first.
pub(super) fn payloads(access_unit: &[u8], info: Option<&Info>, format: &Format) -> Vec<Arc<[u8]>> {
    let sets = info.map(nal::parameter_sets).unwrap_or_default();
    // A length that lies costs what follows it.
    let slices = nal::units(access_unit, nal::LENGTH_SIZE).map_while(Result::ok).map(|range| &access_unit[range]);
    let carried = |unit: &&[u8]| unit.len() >= format.header_bytes && !(format.left_out)(unit[0]);
    let units: Vec<&[u8]> = sets.iter().map(|set| &set[..]).chain(slices).filter(carried).collect();

    let mut payloads = Vec::new();
    let mut rest = &units[..];
    while let [first, ..] = rest {
        if first.len() > PAYLOAD_BYTES_MAX {
            (format.fragment)(first, &mut payloads);
            rest = &rest[1..];
            continue;
        }
        // As many as fit travel together: parameter sets with each other, small slices with their neighbours.
        let mut bytes = format.header_bytes;
        let together = rest.iter().take_while(|unit| {
            bytes += 2 + unit.len();
            bytes <= PAYLOAD_BYTES_MAX
        });
        let (group, after) = rest.split_at(together.count().max(1));
        payloads.push(match group {
            [single] => Arc::from(*single),
            _ => aggregate(group, format),
        });
        rest = after;
    }
    payloads
}

/// RFC 6184 section 5.7.1, RFC 7798 section 4.4.2.
fn aggregate(units: &[&[u8]], format: &Format) -> Arc<[u8]> {
    let mut payload = (format.aggregate_header)(units);
    for unit in units {
        payload.extend_from_slice(&(unit.len() as u16).to_be_bytes());
        payload.extend_from_slice(unit);
    }
    payload.into()
}
