//! Bodies of FLV audio and video tags: which codec, and is it configuration or a frame.
//!
//! In: the body of one RTMP audio or video message, legacy (FLV 10.1, annex E.4) or enhanced (E-RTMP v1 and v2). Out:
//! a [`Body`]. Only the first track of a multitrack message is taken; the others are counted. Deliberately absent:
//! what stands in a configuration record or a frame.

mod audio;
mod enhanced;
mod video;

use std::borrow::Cow;

use bytes::Bytes;
use headwater_common::media::Codec;

pub use audio::audio;
pub use video::video;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub tag: Tag,
    /// Multitrack: those that are not the first and were left out.
    pub tracks_ignored: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The codec's configuration record as MP4 stores it; for Opus its identification header (RFC 7845 §5.1).
    Config { codec: Codec, record: Bytes },
    Frame {
        codec: Codec,
        keyframe: bool,
        /// Presentation minus decoding.
        composition_us: i64,
        /// To be added to the message's timestamp, which has only milliseconds. Below one millisecond.
        offset_us: i64,
        /// As the tag has it: length-prefixed NAL units, raw AAC, one Opus packet.
        payload: Bytes,
    },
    /// The encoder says that nothing follows in this codec.
    End(Codec),
    /// A codec that is not carried, by name.
    Unsupported(Cow<'static, str>),
    /// Nothing to carry: commands, colour metadata, channel maps, silence.
    Ignored,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("FLV {kind} tag of {length} bytes ends inside {what}")]
    Truncated { kind: &'static str, what: &'static str, length: usize },
    #[error("FLV {kind} tag: multitrack inside multitrack")]
    Nested { kind: &'static str },
    #[error("FLV {kind} tag: unknown multitrack type {multitrack}")]
    Multitrack { kind: &'static str, multitrack: u8 },
}

impl From<Tag> for Body {
    fn from(tag: Tag) -> Self {
        Self { tag, tracks_ignored: 0 }
    }
}

/// What is left of a body, with errors that say where it ended.
#[derive(Clone)]
struct Rest {
    kind: &'static str,
    length: usize,
    bytes: Bytes,
}

impl Rest {
    fn new(kind: &'static str, body: &Bytes) -> Self {
        Self { kind, length: body.len(), bytes: body.clone() }
    }

    fn take(&mut self, length: usize, what: &'static str) -> Result<Bytes, Error> {
        if self.bytes.len() < length {
            return Err(Error::Truncated { kind: self.kind, what, length: self.length });
        }
        Ok(self.bytes.split_to(length))
    }

    /// Big-endian, of one to four bytes.
    fn number(&mut self, length: usize, what: &'static str) -> Result<u32, Error> {
        Ok(self.take(length, what)?.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, Error> {
        Ok(self.number(1, what)? as u8)
    }

    /// SI24, in milliseconds.
    fn composition_us(&mut self) -> Result<i64, Error> {
        let unsigned = self.number(3, "the composition time")?;
        Ok(i64::from((unsigned << 8).cast_signed() >> 8) * 1000)
    }
}

#[cfg(test)]
mod tests;
