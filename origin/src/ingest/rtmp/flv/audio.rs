//! Audio tag bodies.

use bytes::Bytes;
use headwater_common::media::Codec;

use super::enhanced::{self, Numbering, Packet, payload};
use super::{Body, Error, Rest, Tag};

/// Sound formats (the upper nibble).
mod format {
    pub(super) const ENHANCED: u8 = 9;
    pub(super) const AAC: u8 = 10;
}

/// Enhanced packet types. 4 is a channel map, which the codecs carried here have in their own records.
mod packet {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    pub(super) const MULTITRACK: u8 = 5;
    pub(super) const MOD_EX: u8 = 7;
}

const NUMBERING: Numbering = Numbering { multitrack: packet::MULTITRACK, mod_ex: packet::MOD_EX };

pub fn audio(body: &Bytes) -> Result<Body, Error> {
    let mut rest = Rest::new("audio", body);
    // Encoders without sound send empty messages to keep their clock going.
    if body.is_empty() {
        return Ok(Tag::Ignored.into());
    }
    let first = rest.byte("the header")?;
    match first >> 4 {
        format::ENHANCED => {
            let (kind, offset_us) = enhanced::modifiers(first & 0x0f, &NUMBERING, &mut rest)?;
            enhanced::tracks(kind, offset_us, &NUMBERING, rest, enhanced_tag)
        }
        format::AAC => Ok(aac(rest)?.into()),
        other => Ok(Tag::Unsupported(legacy_name(other).into()).into()),
    }
}

fn aac(mut rest: Rest) -> Result<Tag, Error> {
    const CODEC: Codec = Codec::Aac;
    Ok(match rest.byte("the packet type")? {
        0 => payload(rest, |record| Tag::Config { codec: CODEC, record }),
        1 => payload(rest, |payload| frame(CODEC, 0, payload)),
        _ => Tag::Ignored,
    })
}

fn enhanced_tag(packet: Packet) -> Result<Tag, Error> {
    let Packet { kind, four_cc, offset_us, rest } = packet;
    let codec = match &four_cc {
        b"Opus" => Codec::Opus,
        b"mp4a" => Codec::Aac,
        b".mp3" => return Ok(Tag::Unsupported("MP3".into())),
        b"ac-3" => return Ok(Tag::Unsupported("AC-3".into())),
        b"ec-3" => return Ok(Tag::Unsupported("E-AC-3".into())),
        b"fLaC" => return Ok(Tag::Unsupported("FLAC".into())),
        _ => return Ok(enhanced::unknown(four_cc)),
    };
    Ok(match kind {
        packet::SEQUENCE_START => payload(rest, |record| Tag::Config { codec, record }),
        packet::CODED_FRAMES => payload(rest, |payload| frame(codec, offset_us, payload)),
        packet::SEQUENCE_END => Tag::End(codec),
        _ => Tag::Ignored,
    })
}

/// Every frame of the audio codecs carried here decodes on its own.
fn frame(codec: Codec, offset_us: i64, payload: Bytes) -> Tag {
    Tag::Frame { codec, keyframe: true, composition_us: 0, offset_us, payload }
}

fn legacy_name(format: u8) -> &'static str {
    match format {
        0 | 3 => "PCM",
        1 => "ADPCM",
        2 | 14 => "MP3",
        4..=6 => "Nellymoser",
        7 => "G.711 A-law",
        8 => "G.711 µ-law",
        11 => "Speex",
        15 => "device-specific sound",
        _ => "an unassigned sound format",
    }
}
