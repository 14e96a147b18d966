//! Frames to RTP payloads, once per frame however many viewers there are.
//!
//! In: a frame in canonical form. Out: the payloads that carry it, each without its RTP header, which differs per
//! viewer. H.264 as RFC 6184 packetization-mode 1, H.265 as RFC 7798, VP8 as RFC 7741, VP9 as RFC 9628 in non-flexible
//! mode, AV1 as the Alliance's "RTP Payload Format for AV1", Opus as RFC 7587.
//!
//! Deliberately absent: sequence numbers, SSRCs, encryption, interleaved modes, which no browser receives, and whatever
//! in a payload would count frames (picture ids of VP8 and VP9, AV1's dependency descriptor). Payloads are shared by
//! viewers that joined at different times, and a viewer that lost its picture is sent the gop again: a number in there
//! would jump or stand still. Receivers without it go by sequence numbers, which have no gaps here.

mod av1;
mod h264;
mod h265;
mod units;
mod vp8;
mod vp9;

use std::sync::{Arc, OnceLock};

use super::{Codec, Frame};

/// What fits into a datagram of 1,200 bytes (the size every path carries) beside the RTP header, the extensions that
/// sessions use, the RTX header and the SRTP tag.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1_148;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpPayload {
    /// Shared by all viewers, and by their retransmission caches.
    pub payload: Arc<[u8]>,
    /// Last packet of an access unit (video only).
    pub marker: bool,
}

/// The payloads of a frame, made when the first viewer asks and kept beside it: all shards share one copy.
#[derive(Debug, Default)]
pub struct RtpCache(OnceLock<Box<[RtpPayload]>>);

impl Frame {
    /// Empty for AAC, which no session carries, and for frames that hold nothing a decoder needs.
    pub fn rtp(&self) -> &[RtpPayload] {
        self.rtp.0.get_or_init(|| {
            // A viewer that joins at a keyframe has nothing else to learn the stream's headers from.
            let headers = self.keyframe.then_some(&*self.info);
            let payloads = match self.info.codec {
                Codec::H264 => h264::payloads(&self.payload, headers),
                Codec::H265 => h265::payloads(&self.payload, headers),
                Codec::Vp8 => vp8::payloads(&self.payload),
                Codec::Vp9 => vp9::payloads(&self.payload, headers),
                Codec::Av1 => av1::payloads(&self.payload, headers),
                Codec::Opus => vec![Arc::from(&self.payload[..])],
                Codec::Aac => Vec::new(),
            };
            let last = payloads.len().checked_sub(1).filter(|_| self.info.codec != Codec::Opus);
            let marked = |(at, payload)| RtpPayload { payload, marker: Some(at) == last };
            payloads.into_iter().enumerate().map(marked).collect()
        })
    }
}

/// Cuts into as few pieces as there must be, of equal size (the last may be smaller): the kernel's segmentation offload
/// wants that. No piece is longer than `room`.
fn equal_pieces(bytes: &[u8], room: usize) -> std::slice::Chunks<'_, u8> {
    let count = bytes.len().div_ceil(room).max(1);
    bytes.chunks(bytes.len().div_ceil(count).max(1))
}

fn joined(head: &[u8], body: &[u8]) -> Arc<[u8]> {
    let mut payload = Vec::with_capacity(head.len() + body.len());
    payload.extend_from_slice(head);
    payload.extend_from_slice(body);
    payload.into()
}

#[cfg(test)]
mod tests;
