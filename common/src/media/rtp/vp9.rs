//! VP9 (RFC 9628) in non-flexible mode, as one layer: neither picture id nor layer indices, but the size with each
//! keyframe, which GStreamer's muxers ask for.

use std::sync::Arc;

use super::{PAYLOAD_BYTES_MAX, equal_pieces, joined};
use crate::media::{Info, Shape};

/// P: predicted from other pictures.
pub(super) const INTER: u8 = 0x40;
/// B and E: first and last packet of a frame.
pub(super) const START: u8 = 0x08;
pub(super) const END: u8 = 0x04;
/// V: a scalability structure follows.
pub(super) const STRUCTURE: u8 = 0x02;
/// Of one layer (N_S 0), with its size (Y), without a description of the group of pictures.
pub(super) const ONE_LAYER_WITH_SIZE: u8 = 0x10;

/// `info` comes with keyframes. Only they count as not predicted: receivers take a packet without P for one.
pub(super) fn payloads(frame: &[u8], info: Option<&Info>) -> Vec<Arc<[u8]>> {
    if frame.is_empty() {
        return Vec::new();
    }
    let structure = info.and_then(structure);
    let predicted = if info.is_some() { 0 } else { INTER };
    // The structure stands between the first packet's descriptor and the frame: cut with it, packets stay equal.
    let body = structure.map(|structure| [&structure[..], frame].concat());
    let pieces = equal_pieces(body.as_deref().unwrap_or(frame), PAYLOAD_BYTES_MAX - 1);
    let last = pieces.len() - 1;
    let flags = |at| {
        let start = if at == 0 { START | if structure.is_some() { STRUCTURE } else { 0 } } else { 0 };
        predicted | start | if at == last { END } else { 0 }
    };
    pieces.enumerate().map(|(at, piece)| joined(&[flags(at)], piece)).collect()
}

/// Section 4.2.1.
fn structure(info: &Info) -> Option<[u8; 5]> {
    let Shape::Video { width, height, .. } = info.shape else { return None };
    let ([w1, w2], [h1, h2]) = (u16::try_from(width).ok()?.to_be_bytes(), u16::try_from(height).ok()?.to_be_bytes());
    Some([ONE_LAYER_WITH_SIZE, w1, w2, h1, h2])
}
