//! The chunk stream: messages cut into pieces and interleaved on one connection (RTMP specification §5.3).
//!
//! In: bytes. Out: [`Message`]s on one unwrapped timeline; and the way back for our own replies. Protocol messages
//! about chunking itself (Set Chunk Size, Abort) are obeyed here and go no further. Deliberately absent: what messages
//! mean.

mod reader;
mod timeline;
mod writer;

use bytes::Bytes;

pub use reader::Reader;
pub use writer::Writer;

/// Both directions begin with this (§5.4.1).
pub const CHUNK_BYTES_INITIAL: usize = 128;
/// The length field of a message has 24 bits, so no message is longer, and no chunk needs to be.
pub const MESSAGE_BYTES_MAX: usize = 0xff_ffff;
/// Encoders use less than ten.
pub const CHUNK_STREAMS_MAX: usize = 64;
/// Of messages that have begun and not ended, over all chunk streams: every chunk stream could hold one of 16 MiB.
pub const PARTIAL_BYTES_MAX: usize = 32 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Milliseconds on the peer's clock, unwrapped: it goes on growing where the 32 bits begin anew.
    pub timestamp_ms: i64,
    /// One of [`kind`].
    pub kind: u8,
    pub stream_id: u32,
    pub payload: Bytes,
}

/// Message types (§5.4, §7.1).
pub mod kind {
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_ACK_SIZE: u8 = 5;
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA_AMF0: u8 = 18;
    pub const COMMAND_AMF0: u8 = 20;
    pub const AGGREGATE: u8 = 22;
}

/// After any of these the stream of chunks cannot be followed any further. `at` counts from the first byte after the
/// handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("byte {at}: chunk stream {id} begins with a header of type {format}, which continues one never sent")]
    NoPreviousHeader { at: u64, id: u32, format: u8 },
    #[error("byte {at}: chunk stream {id} would be the peer's {}th", CHUNK_STREAMS_MAX + 1)]
    TooManyStreams { at: u64, id: u32 },
    #[error("byte {at}: unfinished messages hold more than {PARTIAL_BYTES_MAX} bytes")]
    TooMuchUnfinished { at: u64 },
    #[error("byte {at}: Set Chunk Size to 0")]
    ZeroChunkSize { at: u64 },
    #[error("byte {at}: {what} needs 4 bytes, {length} came")]
    ShortControl { at: u64, what: &'static str, length: usize },
}
