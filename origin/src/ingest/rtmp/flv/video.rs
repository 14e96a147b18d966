//! Video tag bodies.

use bytes::Bytes;
use headwater_common::media::Codec;

use super::enhanced::{self, Numbering, Packet, payload};
use super::{Body, Error, Rest, Tag};

/// Frame types (the upper nibble, without the bit that announces an enhanced header).
mod frame {
    pub(super) const KEY: u8 = 1;
    /// Made by a server; it decodes on its own just as well.
    pub(super) const GENERATED_KEY: u8 = 4;
    pub(super) const COMMAND: u8 = 5;
}

/// Enhanced packet types.
mod packet {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    pub(super) const CODED_FRAMES_X: u8 = 3;
    pub(super) const METADATA: u8 = 4;
    pub(super) const MULTITRACK: u8 = 6;
    pub(super) const MOD_EX: u8 = 7;
}

const NUMBERING: Numbering = Numbering { multitrack: packet::MULTITRACK, mod_ex: packet::MOD_EX };

pub fn video(body: &Bytes) -> Result<Body, Error> {
    let mut rest = Rest::new("video", body);
    if body.is_empty() {
        return Ok(Tag::Ignored.into());
    }
    let first = rest.byte("the header")?;
    let frame_type = first >> 4 & 0x07;
    if first & 0x80 == 0 {
        return Ok(legacy(frame_type, first & 0x0f, rest)?.into());
    }
    let (kind, offset_us) = enhanced::modifiers(first & 0x0f, &NUMBERING, &mut rest)?;
    if frame_type == frame::COMMAND && kind != packet::METADATA {
        return Ok(Tag::Ignored.into());
    }
    let read = if is_key(frame_type) { enhanced_tag::<true> } else { enhanced_tag::<false> };
    enhanced::tracks(kind, offset_us, &NUMBERING, rest, read)
}

fn is_key(frame_type: u8) -> bool {
    matches!(frame_type, frame::KEY | frame::GENERATED_KEY)
}

fn legacy(frame_type: u8, codec_id: u8, mut rest: Rest) -> Result<Tag, Error> {
    if frame_type == frame::COMMAND {
        return Ok(Tag::Ignored);
    }
    let codec = match codec_id {
        7 => Codec::H264,
        // Never standard: what Chinese encoders and CDNs agreed on before enhanced RTMP.
        12 => Codec::H265,
        other => return Ok(Tag::Unsupported(legacy_name(other).into())),
    };
    let packet = rest.byte("the packet type")?;
    let composition_us = rest.composition_us()?;
    Ok(match packet {
        0 => payload(rest, |record| Tag::Config { codec, record }),
        1 => payload(rest, |payload| Tag::Frame {
            codec,
            keyframe: is_key(frame_type),
            composition_us,
            offset_us: 0,
            payload,
        }),
        2 => Tag::End(codec),
        _ => Tag::Ignored,
    })
}

fn enhanced_tag<const KEYFRAME: bool>(packet: Packet) -> Result<Tag, Error> {
    let Packet { kind, four_cc, offset_us, mut rest } = packet;
    let codec = match &four_cc {
        b"avc1" => Codec::H264,
        b"hvc1" => Codec::H265,
        b"av01" => Codec::Av1,
        b"vp09" => Codec::Vp9,
        b"vp08" => Codec::Vp8,
        _ => return Ok(enhanced::unknown(four_cc)),
    };
    let composition_us = match (kind, codec) {
        (packet::CODED_FRAMES, Codec::H264 | Codec::H265) => rest.composition_us()?,
        _ => 0,
    };
    Ok(match kind {
        packet::SEQUENCE_START => payload(rest, |record| Tag::Config { codec, record }),
        packet::CODED_FRAMES | packet::CODED_FRAMES_X => {
            payload(rest, |payload| Tag::Frame { codec, keyframe: KEYFRAME, composition_us, offset_us, payload })
        }
        packet::SEQUENCE_END => Tag::End(codec),
        // Colour metadata, and AV1 as MPEG-2 TS describes it.
        _ => Tag::Ignored,
    })
}

fn legacy_name(codec_id: u8) -> &'static str {
    match codec_id {
        1 => "JPEG",
        2 => "Sorenson H.263",
        3 => "Screen Video",
        4 => "VP6",
        5 => "VP6 with alpha",
        6 => "Screen Video 2",
        8 => "H.263",
        9 => "MPEG-4 Part 2",
        13 => "AV1 by legacy id 13",
        _ => "an unassigned video codec id",
    }
}
