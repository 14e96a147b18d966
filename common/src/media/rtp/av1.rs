//! AV1 (AOM "RTP Payload Format for AV1" 1.0): OBUs without their sizes, each element of a packet behind its length
//! (W = 0), the sequence header ahead of every keyframe.
//!
//! Without the dependency descriptor browsers take a packet that does not continue an OBU for the first of a frame, and
//! one that does not break one off for the last. So packets of a temporal unit always part within an OBU.

use std::sync::Arc;

use super::PAYLOAD_BYTES_MAX;
use crate::media::{
    Info,
    av1::{HAS_SIZE, Obu, SEQUENCE_HEADER, obus},
};

/// Aggregation header (section 4.4): the first element continues an OBU, the last one is continued, and a coded video
/// sequence starts.
pub(super) const CONTINUES: u8 = 0x80;
pub(super) const CONTINUED: u8 = 0x40;
pub(super) const NEW_SEQUENCE: u8 = 0x08;

/// Lengths below 16,384 take two bytes at most.
const LENGTH_BYTES_MAX: usize = 2;
/// Less of an OBU than this is not worth an element.
const FRAGMENT_BYTES_MIN: usize = 8;

/// `info` comes with keyframes.
pub(super) fn payloads(unit: &[u8], info: Option<&Info>) -> Vec<Arc<[u8]>> {
    let obus = bare_obus(unit, info);
    let mut rest = &obus[..];
    // Of the first in `rest`.
    let mut from = 0;
    let capacity = capacity(&obus);
    let mut payloads = Vec::new();
    while !rest.is_empty() {
        let start = if payloads.is_empty() && info.is_some() { NEW_SEQUENCE } else { 0 };
        let mut payload = Vec::with_capacity(capacity);
        payload.push(start | if from > 0 { CONTINUES } else { 0 });
        while let [obu, after @ ..] = rest {
            let left = &obu[from..];
            let room = capacity - payload.len();
            let whole = length_bytes(left.len()) + left.len();
            let fits = whole <= room && (after.is_empty() || whole + LENGTH_BYTES_MAX + FRAGMENT_BYTES_MIN <= room);
            // What would end with the packet although more follows ends one byte early.
            let taken = if fits { left.len() } else { fragment_bytes(room).min(left.len() - 1) };
            push_element(&mut payload, &left[..taken]);
            if !fits {
                payload[0] |= CONTINUED;
                from += taken;
                break;
            }
            (rest, from) = (after, 0);
        }
        payloads.push(payload.into());
    }
    payloads
}

/// As they travel: without their size. Those without a payload say nothing, and those behind a size that lies can't be
/// told apart.
fn bare_obus(unit: &[u8], info: Option<&Info>) -> Vec<Vec<u8>> {
    let walk = |bytes: &'_ [u8]| -> Vec<Obu> {
        obus(bytes).map_while(Result::ok).filter(|obu| !obu.payload.is_empty()).collect()
    };
    let bare = |bytes: &[u8], obu: &Obu| {
        let mut bare = vec![bytes[obu.whole.start] & !HAS_SIZE];
        bare.extend(obu.extension.map(|at| bytes[at]));
        bare.extend_from_slice(&bytes[obu.payload.clone()]);
        bare
    };
    let found = walk(unit);
    let mut bared: Vec<Vec<u8>> = found.iter().map(|obu| bare(unit, obu)).collect();
    if let Some(info) = info
        && !bared.is_empty()
        && !found.iter().any(|obu| obu.kind == SEQUENCE_HEADER)
        && let Some(known) = info.config.get(4..)
        && let Some(header) = walk(known).iter().find(|obu| obu.kind == SEQUENCE_HEADER)
    {
        bared.insert(0, bare(known, header));
    }
    bared
}

/// How large packets have to be to be equal, if there must be several.
fn capacity(obus: &[Vec<u8>]) -> usize {
    const OVERHEAD: usize = 1 + LENGTH_BYTES_MAX;
    let bytes: usize = obus.iter().map(|obu| obu.len() + LENGTH_BYTES_MAX).sum();
    let count = bytes.div_ceil(PAYLOAD_BYTES_MAX - OVERHEAD).max(1);
    (OVERHEAD + bytes.div_ceil(count) + FRAGMENT_BYTES_MIN).min(PAYLOAD_BYTES_MAX)
}

fn length_bytes(length: usize) -> usize {
    if length < 0x80 { 1 } else { LENGTH_BYTES_MAX }
}

/// What of an OBU fills this room together with its length.
fn fragment_bytes(room: usize) -> usize {
    if room <= 0x80 { room - 1 } else { room - LENGTH_BYTES_MAX }
}

fn push_element(payload: &mut Vec<u8>, element: &[u8]) {
    match element.len() {
        short @ ..0x80 => payload.push(short as u8),
        long => payload.extend_from_slice(&[long as u8 | 0x80, (long >> 7) as u8]),
    }
    payload.extend_from_slice(element);
}
