//! What enhanced audio and video headers have in common (E-RTMP v2, "ExVideoTagHeader", "ExAudioTagHeader").

use bytes::Bytes;

use super::{Body, Error, Rest, Tag};

/// Audio and video number two of their packet types differently.
pub(super) struct Numbering {
    pub(super) multitrack: u8,
    pub(super) mod_ex: u8,
}

/// One track's part of a message.
pub(super) struct Packet {
    pub(super) kind: u8,
    pub(super) four_cc: [u8; 4],
    pub(super) offset_us: i64,
    pub(super) rest: Rest,
}

/// Takes the modifiers in front of a packet. Returns the type of what follows, and the offset they contain.
pub(super) fn modifiers(mut kind: u8, numbering: &Numbering, rest: &mut Rest) -> Result<(u8, i64), Error> {
    const TIMESTAMP_OFFSET_NANO: u8 = 0;
    let mut offset_us = 0;
    while kind == numbering.mod_ex {
        let mut length = rest.number(1, "a modifier")? as usize + 1;
        if length == 256 {
            length = rest.number(2, "a modifier")? as usize + 1;
        }
        let data = rest.take(length, "a modifier")?;
        let next = rest.byte("a modifier's type")?;
        kind = next & 0x0f;
        if next >> 4 == TIMESTAMP_OFFSET_NANO && data.len() >= 3 {
            let nanoseconds = i64::from(u32::from_be_bytes([0, data[0], data[1], data[2]]));
            // Up to 999 999 by definition: more would reach into the next millisecond.
            offset_us = nanoseconds.min(999_999) / 1000;
        }
    }
    Ok((kind, offset_us))
}

/// Reads the rest of the header, picks the first track and lets `tag` read it.
pub(super) fn tracks(
    kind: u8,
    offset_us: i64,
    numbering: &Numbering,
    mut rest: Rest,
    tag: fn(Packet) -> Result<Tag, Error>,
) -> Result<Body, Error> {
    if kind != numbering.multitrack {
        let four_cc = four_cc(&mut rest)?;
        return Ok(tag(Packet { kind, four_cc, offset_us, rest })?.into());
    }

    const ONE_TRACK: u8 = 0;
    const MANY_TRACKS_MANY_CODECS: u8 = 2;
    let byte = rest.byte("the multitrack type")?;
    let (multitrack, kind) = (byte >> 4, byte & 0x0f);
    if kind == numbering.multitrack {
        return Err(Error::Nested { kind: rest.kind });
    }
    if multitrack > MANY_TRACKS_MANY_CODECS {
        return Err(Error::Multitrack { kind: rest.kind, multitrack });
    }
    let common = if multitrack == MANY_TRACKS_MANY_CODECS { None } else { Some(four_cc(&mut rest)?) };
    let mut body = Body::from(Tag::Ignored);
    while !rest.bytes.is_empty() {
        let four_cc = match common {
            Some(four_cc) => four_cc,
            None => four_cc(&mut rest)?,
        };
        let track = rest.byte("a track number")?;
        let length = match multitrack {
            ONE_TRACK => rest.bytes.len(),
            _ => rest.number(3, "a track's length")? as usize,
        };
        let bytes = rest.take(length, "a track")?;
        if track == 0 {
            let rest = Rest { bytes, ..rest.clone() };
            body.tag = tag(Packet { kind, four_cc, offset_us, rest })?;
        } else {
            body.tracks_ignored = body.tracks_ignored.saturating_add(1);
        }
        if multitrack == ONE_TRACK {
            break;
        }
    }
    Ok(body)
}

/// A codec without support, by its code.
pub(super) fn unknown(four_cc: [u8; 4]) -> Tag {
    Tag::Unsupported(format!("FourCC {}", four_cc.escape_ascii()).into())
}

/// What is left, or nothing to carry.
pub(super) fn payload(rest: Rest, tag: impl FnOnce(Bytes) -> Tag) -> Tag {
    if rest.bytes.is_empty() { Tag::Ignored } else { tag(rest.bytes) }
}

fn four_cc(rest: &mut Rest) -> Result<[u8; 4], Error> {
    Ok(rest.number(4, "the FourCC")?.to_be_bytes())
}
