//! Chunks to messages.
//!
//! A chunk is taken from the input once it is there as a whole. A message is copied once, into a buffer of its own: a
//! slice would keep all of the input in memory as long as one small audio frame of it lives. Messages of several chunks
//! are gathered by chunk stream, so audio between two chunks of a video frame (or Set Chunk Size there) disturbs neither.
//! Memory is bounded by [`PARTIAL_BYTES_MAX`] here plus one chunk and one read in the input.

use bytes::{Buf, BytesMut};

use super::{
    CHUNK_BYTES_INITIAL, CHUNK_STREAMS_MAX, Error, MESSAGE_BYTES_MAX, Message, PARTIAL_BYTES_MAX, kind,
    timeline::Timeline,
};

/// What a buffer starts with at most, whatever length its message claims: the rest is paid for by bytes that came. Most
/// keyframes fit, so that a frame in the hall pins no more memory than it needs.
const PARTIAL_BYTES_INITIAL: usize = 256 << 10;

pub struct Reader {
    chunk_size: usize,
    streams: Vec<ChunkStream>,
    partial_bytes: usize,
    consumed: u64,
    abandoned: u64,
    timeline: Timeline,
}

struct ChunkStream {
    id: u32,
    header: Header,
    /// Empty between messages.
    partial: BytesMut,
}

#[derive(Clone, Copy, Default)]
struct Header {
    timestamp: u32,
    delta: u32,
    /// The extended timestamp as it was sent, where there was one.
    extended: Option<u32>,
    length: usize,
    kind: u8,
    stream_id: u32,
}

/// A chunk that is in the input as a whole.
struct Chunk {
    id: u32,
    header: Header,
    header_bytes: usize,
    payload_bytes: usize,
    /// Goes on with the message its chunk stream has begun.
    continues: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            chunk_size: CHUNK_BYTES_INITIAL,
            streams: Vec::new(),
            partial_bytes: 0,
            consumed: 0,
            abandoned: 0,
            timeline: Timeline::default(),
        }
    }
}

impl Reader {
    /// The next message, or `None` when `input` has to grow first. After an error the connection is lost.
    pub fn read(&mut self, input: &mut BytesMut) -> Result<Option<Message>, Error> {
        loop {
            let Some(chunk) = self.find(input)? else { return Ok(None) };
            let Some(message) = self.take(chunk, input)? else { continue };
            match message.kind {
                kind::SET_CHUNK_SIZE => self.set_chunk_size(&message)?,
                kind::ABORT => self.abort(&message)?,
                _ => return Ok(Some(message)),
            }
        }
    }

    /// Bytes taken from the input so far.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Bytes held of messages that have not ended.
    pub fn partial_bytes(&self) -> usize {
        self.partial_bytes
    }

    /// Messages that were given up for the next one on their chunk stream, without an Abort.
    pub fn abandoned(&self) -> u64 {
        self.abandoned
    }

    fn find(&self, input: &[u8]) -> Result<Option<Chunk>, Error> {
        let Some((format, id, basic_bytes)) = basic_header(input) else { return Ok(None) };
        let stream = self.streams.iter().find(|stream| stream.id == id);
        if stream.is_none() && self.streams.len() == CHUNK_STREAMS_MAX {
            return Err(Error::TooManyStreams { at: self.consumed, id });
        }
        let partial = stream.map_or(0, |stream| stream.partial.len());
        let continues = format == 3 && partial > 0;
        let previous = match (format, stream) {
            (_, Some(stream)) => stream.header,
            // librtmp opens chunk stream 2 with a type 1 header for its pings.
            (0 | 1, None) => Header::default(),
            (_, None) => return Err(Error::NoPreviousHeader { at: self.consumed, id, format }),
        };
        let Some((header, fields_bytes)) = message_header(format, previous, continues, &input[basic_bytes..]) else {
            return Ok(None);
        };
        let received = if continues { partial } else { 0 };
        let payload_bytes = self.chunk_size.min(header.length - received);
        let header_bytes = basic_bytes + fields_bytes;
        if input.len() < header_bytes + payload_bytes {
            return Ok(None);
        }
        Ok(Some(Chunk { id, header, header_bytes, payload_bytes, continues }))
    }

    fn take(&mut self, chunk: Chunk, input: &mut BytesMut) -> Result<Option<Message>, Error> {
        let at = self.consumed;
        let payload = &input[chunk.header_bytes..][..chunk.payload_bytes];
        self.consumed += (chunk.header_bytes + chunk.payload_bytes) as u64;

        let index = self.streams.iter().position(|stream| stream.id == chunk.id).unwrap_or_else(|| {
            self.streams.push(ChunkStream { id: chunk.id, header: Header::default(), partial: BytesMut::new() });
            self.streams.len() - 1
        });
        let stream = &mut self.streams[index];
        stream.header = chunk.header;
        if !chunk.continues && !stream.partial.is_empty() {
            // Not allowed by §5.3.1.2, but the new message is whole: only the old one is lost.
            self.abandoned += 1;
            self.partial_bytes -= stream.partial.len();
            stream.partial = BytesMut::new();
        }

        self.partial_bytes += payload.len();
        if self.partial_bytes > PARTIAL_BYTES_MAX {
            return Err(Error::TooMuchUnfinished { at });
        }
        if stream.partial.is_empty() {
            stream.partial.reserve(chunk.header.length.min(PARTIAL_BYTES_INITIAL));
        }
        stream.partial.extend_from_slice(payload);
        input.advance(chunk.header_bytes + chunk.payload_bytes);
        if stream.partial.len() < chunk.header.length {
            return Ok(None);
        }
        self.partial_bytes -= stream.partial.len();
        let whole = std::mem::take(&mut stream.partial);
        let is_media = matches!(chunk.header.kind, kind::AUDIO | kind::VIDEO | kind::AGGREGATE);
        Ok(Some(Message {
            timestamp_ms: self.timeline.place(chunk.header.timestamp, is_media),
            kind: chunk.header.kind,
            stream_id: chunk.header.stream_id,
            payload: whole.freeze(),
        }))
    }

    fn set_chunk_size(&mut self, message: &Message) -> Result<(), Error> {
        // The top bit has to be zero (§5.4.1); some encoders forget.
        let size = self.control_number(message, "Set Chunk Size")? & 0x7fff_ffff;
        if size == 0 {
            return Err(Error::ZeroChunkSize { at: self.consumed });
        }
        self.chunk_size = (size as usize).min(MESSAGE_BYTES_MAX);
        Ok(())
    }

    fn abort(&mut self, message: &Message) -> Result<(), Error> {
        let id = self.control_number(message, "Abort")?;
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) {
            self.partial_bytes -= stream.partial.len();
            stream.partial = BytesMut::new();
        }
        Ok(())
    }

    fn control_number(&self, message: &Message, what: &'static str) -> Result<u32, Error> {
        let length = message.payload.len();
        let number = message.payload.first_chunk().copied().map(u32::from_be_bytes);
        number.ok_or(Error::ShortControl { at: self.consumed, what, length })
    }
}

/// Type, chunk stream and bytes of the basic header, which has three forms (§5.3.1.1).
fn basic_header(input: &[u8]) -> Option<(u8, u32, usize)> {
    let first = *input.first()?;
    let format = first >> 6;
    Some(match first & 0x3f {
        0 => (format, 64 + u32::from(*input.get(1)?), 2),
        1 => (format, 64 + u32::from(*input.get(1)?) + 256 * u32::from(*input.get(2)?), 3),
        id => (format, id.into(), 1),
    })
}

/// The message header after this chunk, and the bytes it took (§5.3.1.2, §5.3.1.3).
fn message_header(format: u8, previous: Header, continues: bool, input: &[u8]) -> Option<(Header, usize)> {
    if format == 3 {
        return repeated_header(previous, continues, input);
    }
    let mut header = previous;
    let fields = input.get(..[11, 7, 3][usize::from(format)])?;
    let field = be24(fields);
    if let Some(rest) = fields.get(3..7) {
        header.length = be24(rest) as usize;
        header.kind = rest[3];
    }
    if let Some(id) = fields.get(7..11) {
        header.stream_id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
    }
    let mut length = fields.len();
    header.extended = None;
    if field == 0xff_ffff {
        let extended = input[length..].first_chunk().copied().map(u32::from_be_bytes)?;
        header.extended = Some(extended);
        length += 4;
    }
    let time = header.extended.unwrap_or(field);
    if format == 0 {
        header.timestamp = time;
        // §5.3.1.2.4 wants a type 3 message after this one to add the whole timestamp once more; several encoders
        // mean "the same time" by it. Believing them is wrong by a frame at worst, the other way by the uptime.
        header.delta = 0;
    } else {
        header.timestamp = previous.timestamp.wrapping_add(time);
        header.delta = time;
    }
    Some((header, length))
}

/// A type 3 chunk repeats everything. It should repeat the extended timestamp too (§5.3.1.3), which old librtmp and
/// some hardware leave out: it is there if the next four bytes are it.
fn repeated_header(previous: Header, continues: bool, input: &[u8]) -> Option<(Header, usize)> {
    let mut header = previous;
    let length = match previous.extended {
        None => 0,
        // Some repeat the message's time where the delta was sent.
        Some(extended) => {
            let same = |time: u32| input.iter().zip(time.to_be_bytes()).all(|(&a, b)| a == b);
            if same(extended) || same(previous.timestamp) {
                if input.len() < 4 {
                    return None;
                }
                4
            } else {
                0
            }
        }
    };
    if !continues {
        header.timestamp = previous.timestamp.wrapping_add(previous.delta);
    }
    Some((header, length))
}

fn be24(bytes: &[u8]) -> u32 {
    bytes.iter().take(3).fold(0, |number, &byte| number << 8 | u32::from(byte))
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
