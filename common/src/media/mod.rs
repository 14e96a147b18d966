//! What a frame is, and the bitstream facts of each codec. Doors ask here; no door switches on codecs by itself.
//!
//! In: access units and configuration records as a protocol delivered them. Out: [`Frame`]s in the one canonical
//! payload form, and answers about them (dimensions, reordering, RFC 6381 names, what an output can carry).
//! Deliberately absent: sockets, tasks, clocks, and any knowledge of protocols.
//!
//! The canonical payload: H.264 and H.265 as access units of NAL units with 4-byte lengths, parameter sets only in
//! [`Info::config`] (avcC, hvcC); AV1 as a temporal unit without delimiters, in the low overhead format; VP8 and VP9
//! as the frame; AAC as the raw access unit (no ADTS); Opus as the packet.

pub mod aac;
mod audio_clock;
pub mod av1;
mod bits;
mod config;
mod frame;
pub mod h264;
pub mod h265;
mod info;
mod inspect;
#[cfg(test)]
mod inspect_tests;
pub mod nal;
pub mod opus;
pub(crate) mod rtp;
pub mod vp8;
pub mod vp9;

pub use audio_clock::AudioClock;
pub use config::ConfigError;
pub use frame::{Frame, Gop, Place, Sample};
pub use info::{Accepts, Codec, Conversion, Delivery, Info, Kind, Shape};
pub use inspect::{FrameError, Inspected, Inspector};
pub use nal::Framing;
pub use rtp::{RtpCache, RtpPayload};
