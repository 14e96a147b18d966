//! Messages to chunks, for our own replies.
//!
//! Every message has a full header, so nothing depends on what was sent before; replies are too few for header
//! compression to matter.

use bytes::{BufMut, BytesMut};

use super::{CHUNK_BYTES_INITIAL, Message};

pub struct Writer {
    chunk_size: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self { chunk_size: CHUNK_BYTES_INITIAL }
    }
}

impl Writer {
    /// From the next message on. The peer has to be told before.
    pub fn set_chunk_size(&mut self, bytes: u32) {
        self.chunk_size = (bytes as usize).max(1);
    }

    /// `chunk_stream` is 2 to 63.
    pub fn write(&self, chunk_stream: u8, message: &Message, out: &mut BytesMut) {
        let timestamp = message.timestamp_ms as u32;
        let extended = timestamp >= 0xff_ffff;
        out.put_u8(chunk_stream & 0x3f);
        out.put_uint(timestamp.min(0xff_ffff).into(), 3);
        out.put_uint(message.payload.len() as u64, 3);
        out.put_u8(message.kind);
        out.put_u32_le(message.stream_id);
        if extended {
            out.put_u32(timestamp);
        }
        for (i, chunk) in message.payload.chunks(self.chunk_size).enumerate() {
            if i > 0 {
                out.put_u8(0xc0 | chunk_stream & 0x3f);
                if extended {
                    out.put_u32(timestamp);
                }
            }
            out.put_slice(chunk);
        }
    }
}
