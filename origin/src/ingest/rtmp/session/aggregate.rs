//! Aggregate messages: several FLV tags in one RTMP message (§7.1.6). Flash Media Server relays and some hardware
//! send them.

use bytes::{Buf, Bytes};

use super::Error;
use crate::ingest::rtmp::chunk::Message;

/// Type, length, timestamp, stream id.
const HEADER_BYTES: usize = 11;
/// The length of the tag again, behind it.
const BACK_POINTER_BYTES: usize = 4;

/// What is left of one. Its messages are cut out one by one: a list of them could be larger than the message.
pub(super) struct Aggregate {
    timestamp_ms: i64,
    stream_id: u32,
    rest: Bytes,
    first_timestamp: Option<u32>,
    /// Where the message ended, for errors.
    at: u64,
}

impl Aggregate {
    pub(super) fn new(message: Message, at: u64) -> Self {
        let Message { timestamp_ms, stream_id, payload, .. } = message;
        Self { timestamp_ms, stream_id, rest: payload, first_timestamp: None, at }
    }

    /// After an error nothing follows.
    pub(super) fn next(&mut self) -> Option<Result<Message, Error>> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.cut();
        if message.is_none() {
            self.rest.clear();
        }
        Some(message.ok_or(Error::Aggregate { at: self.at }))
    }

    fn cut(&mut self) -> Option<Message> {
        let header = self.rest.get(..HEADER_BYTES)?;
        let kind = header[0] & 0x1f;
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        // The extension is the top byte and stands behind the lower three.
        let timestamp = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        if self.rest.len() < HEADER_BYTES + length {
            return None;
        }
        self.rest.advance(HEADER_BYTES);
        let payload = self.rest.split_to(length);
        // Left out behind the last tag by some.
        self.rest.advance(BACK_POINTER_BYTES.min(self.rest.len()));
        // The message's own time belongs to its first tag; the tags may count from anywhere.
        let first = *self.first_timestamp.get_or_insert(timestamp);
        let offset = timestamp.wrapping_sub(first).cast_signed();
        let timestamp_ms = self.timestamp_ms.saturating_add(offset.into());
        Some(Message { timestamp_ms, kind, stream_id: self.stream_id, payload })
    }
}
