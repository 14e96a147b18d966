//! Reads a track and writes other tracks of the same broadcast: AAC→Opus for WebRTC, Opus→AAC for MP4 and HLS,
//! H.264 without B-frames, H.264 made of anything browsers do not play everywhere, and the renditions of a ladder.
//!
//! In: the hub, the ladders that are asked for. Out: derived tracks on the source's clock and in its gops, written only
//! while somebody reads them. [`run`] watches, declares and starts. A job is a thread of its own (swscale must not change
//! threads, and an encoder would starve an async worker) around a plain converter: frames in, frames out, no clock. All
//! pictures that are made of a source come from one job, which decodes once. What happens when the machine is too slow
//! is decided in `pace`; how sound keeps its time in `grid`; all that is unsafe lies in `libav`.
//!
//! Deliberately absent: queues (a job reads the source's ring with a cursor of its own), and any conversion that nobody
//! has asked for.

mod audio;
mod card;
mod coder;
mod converter;
mod decoder;
mod encoder;
mod grid;
mod job;
mod libav;
mod nals;
mod output;
mod pace;
mod rate;
mod rendering;
pub(crate) mod still;
mod supervise;
#[cfg(test)]
mod tests;
mod trouble;
mod video;

pub use supervise::{Settings, run};

use headwater_common::media::{Codec, ConfigError};

/// Why a converter can't work. A frame that can't be decoded is none of these: it is counted, and the next one taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error("this build of FFmpeg has no {0}")]
    Missing(&'static str),
    #[error("no memory for a codec")]
    NoMemory,
    #[error("{} configuration record: {error}", codec.name())]
    Config { codec: Codec, error: ConfigError },
    #[error("{} decoder: {error}", codec.name())]
    Decoder { codec: Codec, error: ffmpeg_next::Error },
    #[error("{} encoder: {error}", codec.name())]
    Encoder { codec: Codec, error: ffmpeg_next::Error },
    #[error("{} encoder gave a configuration record that can't be read: {error}", codec.name())]
    Header { codec: Codec, error: ConfigError },
    #[error("resampler: {0}")]
    Resampler(ffmpeg_next::Error),
    #[error("scaler: {0}")]
    Scaler(ffmpeg_next::Error),
    #[error("{0} holds back pictures")]
    Late(&'static str),
    #[error("picture encoder: {0}")]
    Still(ffmpeg_next::Error),
}
