//! Which encoder makes H.264 on this machine. In: what FFmpeg knows and what really opens. Out: its name, the form of
//! pictures it takes, its options. Deliberately absent: how pictures get onto a card.
//!
//! A card that is there is tried at the start, with a picture: drivers are often missing, old, or forbidden in a
//! container. One that fails later is given up for good, and libx264 goes on with the very picture that failed.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use ffmpeg_next::{self as ff, Codec as Encoder, format::Pixel};

use super::{
    ConvertError,
    encoder::{H264, Profile, Spending},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Coder {
    X264,
    /// NVIDIA.
    Nvenc,
    /// Intel.
    QuickSync,
    /// AMD, and Intel where Quick Sync's runtime is missing.
    Vaapi,
}

const CARDS: [Coder; 3] = [Coder::Nvenc, Coder::QuickSync, Coder::Vaapi];
static CHOSEN: AtomicU8 = AtomicU8::new(Coder::X264 as u8);

impl Coder {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::X264 => "libx264",
            Self::Nvenc => "h264_nvenc",
            Self::QuickSync => "h264_qsv",
            Self::Vaapi => "h264_vaapi",
        }
    }

    pub(super) fn find(self) -> Result<Encoder, ConvertError> {
        ff::encoder::find_by_name(self.name()).ok_or(ConvertError::Missing(self.name()))
    }

    pub(super) fn format(self) -> Pixel {
        match self {
            Self::X264 | Self::Nvenc => Pixel::YUV420P,
            Self::QuickSync | Self::Vaapi => Pixel::NV12,
        }
    }

    /// Whether it takes such pictures only in the card's own memory.
    pub(super) fn takes_surfaces(self) -> bool {
        self == Self::Vaapi
    }

    pub(super) fn profile(self, profile: Profile) -> &'static str {
        match (self, profile) {
            // What everybody means by it, and the only one that cards have.
            (Self::Vaapi, Profile::Baseline) => "constrained_baseline",
            (_, Profile::Baseline) => "baseline",
            (_, Profile::Main) => "main",
            (_, Profile::High) => "high",
        }
    }

    /// No picture held back, and no keyframes but those that are asked for.
    pub(super) fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::X264 => {
                &[("tune", "zerolatency"), ("forced-idr", "1"), ("x264-params", "keyint=infinite:scenecut=0")]
            }
            Self::Nvenc => &[
                ("preset", "p3"),
                ("tune", "ull"),
                ("zerolatency", "1"),
                ("delay", "0"),
                ("forced-idr", "1"),
                ("no-scenecut", "1"),
                ("g", "-1"),
            ],
            Self::QuickSync => &[
                ("preset", "veryfast"),
                ("async_depth", "1"),
                ("look_ahead", "0"),
                ("forced_idr", "1"),
                ("g", "65535"),
            ],
            Self::Vaapi => &[("async_depth", "1"), ("idr_interval", "0"), ("g", "65535")],
        }
    }

    pub(super) fn chosen() -> Self {
        let chosen = CHOSEN.load(Relaxed);
        CARDS.into_iter().find(|card| *card as u8 == chosen).unwrap_or(Self::X264)
    }

    /// Looks for a card, once at the start.
    pub(super) fn choose() {
        for card in CARDS {
            match card.try_out() {
                Ok(()) => {
                    CHOSEN.store(card as u8, Relaxed);
                    tracing::info!(encoder = card.name(), "pictures are encoded by this card");
                    return;
                }
                Err(why) => tracing::debug!(encoder = card.name(), %why, "not used"),
            }
        }
        tracing::info!(encoder = Self::X264.name(), "pictures are encoded by the processor: no card that can do it");
    }

    /// It failed: nobody uses it again.
    pub(super) fn give_up(self) {
        if CHOSEN.swap(Self::X264 as u8, Relaxed) == self as u8 {
            tracing::warn!(encoder = self.name(), "the card's encoder failed: the processor takes over");
        }
    }

    /// Whether it encodes a picture, at once, into something that can be read.
    fn try_out(self) -> Result<(), ConvertError> {
        let mut picture = ff::frame::Video::new(self.format(), 640, 360);
        for plane in 0..picture.planes() {
            picture.data_mut(plane).fill(128);
        }
        let mut encoder = H264::open_with(self, &picture, Profile::Main, Spending::AtMost { kbps: 1_000 }, None)?;
        let made = encoder.encode(&mut picture, 0, true);
        match made.map_err(|error| ConvertError::Encoder { codec: headwater_common::media::Codec::H264, error })? {
            Some(made) if made.keyframe && !made.payload.is_empty() => Ok(()),
            _ => Err(ConvertError::Late(self.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcode::libav;

    #[test]
    fn what_does_not_really_encode_is_not_chosen() {
        libav::init();
        assert!(Coder::X264.try_out().is_ok());
        let working: Vec<_> = CARDS.into_iter().filter(|card| card.try_out().is_ok()).collect();
        Coder::choose();
        assert_eq!(Coder::chosen(), working.first().copied().unwrap_or(Coder::X264));
        if let Some(card) = working.first() {
            card.give_up();
        }
        assert_eq!(Coder::chosen(), Coder::X264);
    }
}
