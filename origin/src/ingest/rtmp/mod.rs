//! RTMP publishing: OBS, FFmpeg, GStreamer, hardware encoders.
//!
//! In: the bytes of a publisher's TCP connection. Out: FLV tag bodies read as codec facts, and the bytes to answer
//! with. Each step is a machine of its own: [`handshake`], [`chunk`] (bytes to messages), [`amf`] (values inside
//! messages), [`session`] (the conversation), [`flv`] (media bodies). Deliberately absent: playback, encryption by
//! RTMPE (RTMPS is TLS around the same bytes), and anything inside a codec's configuration record.

pub mod amf;
pub mod chunk;
pub mod flv;
pub mod handshake;
pub mod session;
