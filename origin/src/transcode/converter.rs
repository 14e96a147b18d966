//! What a job's thread drives: one loop for pictures and sound. In: the frames of a source track, in order, and how far
//! behind the newest each is. Out: frames of the derived tracks, and what the loop has to do about the source.
//! Deliberately absent: threads, tracks, and the conversions themselves.
//!
//! A derived track is made once for everybody who reads it, conversations among them, so it keeps up with the source:
//! what a machine is too slow for is left out. Only sound in AAC is for segments and files alone: they want all of it,
//! and can wait.

use headwater_common::{
    ladder::Rendition,
    live::Reader,
    media::{Codec, Conversion, Frame},
    telemetry::Door,
};

use super::{
    ConvertError,
    audio::Audio,
    pace::{Pace, Pacer},
    video::{Id, Made, Video},
};

/// Sound that is further behind than this has no place in a conversation.
const AUDIO_BEHIND_US_MAX: i64 = 1_000_000;

pub(super) enum Converter {
    Video {
        video: Box<Video>,
        pacer: Pacer,
    },
    /// Of sound one track is made.
    Audio {
        audio: Box<Audio>,
        id: Id,
        complete: bool,
    },
}

/// What to do about the source after a frame was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Something could not be decoded, and will not be before the next keyframe.
    pub(super) damaged: bool,
    /// The delay is given up: on to the newest keyframe.
    pub(super) skip: bool,
    pub(super) pace: Pace,
}

impl Converter {
    /// For the kind of track that this conversion makes.
    pub(super) fn new(conversion: Conversion, door: Door) -> Self {
        match conversion.target() {
            target @ (Codec::Aac | Codec::Opus) => {
                let kbps = match conversion {
                    Conversion::Sound { kbps } => Some(kbps),
                    _ => None,
                };
                let audio = Box::new(Audio::new(target, kbps, door));
                Self::Audio { audio, id: 0, complete: target == Codec::Aac }
            }
            _ => Self::Video { video: Box::new(Video::new(door)), pacer: Pacer::default() },
        }
    }

    /// Wants everything that the ring holds, not what is newest.
    pub(super) fn complete(&self) -> bool {
        matches!(self, Self::Audio { complete: true, .. })
    }

    /// Makes another track from now on. It may hold frames of a predecessor, up to `written_us`.
    pub(super) fn add(&mut self, id: Id, rendition: Option<Rendition>, written_us: i64, past: Option<Reader>) {
        match self {
            Self::Video { video, .. } => video.add(id, rendition, written_us, past),
            Self::Audio { id: of, .. } => *of = id,
        }
    }

    pub(super) fn remove(&mut self, id: Id) {
        if let Self::Video { video, .. } = self {
            video.remove(id);
        }
    }

    /// Somebody can't show a picture before the next keyframe.
    pub(super) fn want_keyframe(&mut self, id: Id) {
        if let Self::Video { video, .. } = self {
            video.want_keyframe(id);
        }
    }

    pub(super) fn take(&mut self, frame: &Frame, behind_us: i64, out: &mut Vec<Made>) -> Result<Turn, ConvertError> {
        match self {
            Self::Video { video, pacer } => {
                let pace = pacer.pace(behind_us);
                video.take(frame, pace, out)?;
                Ok(Turn { damaged: video.take_damage(), skip: pace == Pace::Newest, pace })
            }
            Self::Audio { audio, id, complete } => {
                let mut frames = Vec::new();
                audio.take(frame, &mut frames)?;
                out.extend(frames.into_iter().map(|frame| (*id, Ok(frame))));
                let skip = !*complete && behind_us > AUDIO_BEHIND_US_MAX;
                Ok(Turn { damaged: false, skip, pace: Pace::Every })
            }
        }
    }
}
