//! What a track carries right now: codec, configuration record, shape. And which outputs can carry it as it is.

use bytes::Bytes;

use crate::ladder::Rendition;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Video,
    Audio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    H264,
    H265,
    Av1,
    Vp8,
    Vp9,
    Aac,
    Opus,
}

impl Codec {
    pub const ALL: [Self; 7] = [Self::H264, Self::H265, Self::Av1, Self::Vp8, Self::Vp9, Self::Aac, Self::Opus];

    pub fn kind(self) -> Kind {
        match self {
            Self::H264 | Self::H265 | Self::Av1 | Self::Vp8 | Self::Vp9 => Kind::Video,
            Self::Aac | Self::Opus => Kind::Audio,
        }
    }

    /// Lower-case name for logs, metrics and REST.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
            Self::Av1 => "av1",
            Self::Vp8 => "vp8",
            Self::Vp9 => "vp9",
            Self::Aac => "aac",
            Self::Opus => "opus",
        }
    }
}

/// Immutable: a change (new parameter sets, another resolution, the first B-frame seen) is a new `Info`, and every
/// frame points to the one it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub codec: Codec,
    /// The body of the codec's configuration record as MP4 stores it: avcC, hvcC, av1C, vpcC (behind
    /// version and flags), AudioSpecificConfig, dOps.
    pub config: Bytes,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Video {
        width: u32,
        height: u32,
        /// Pictures leave the decoder in another order than they arrive (B-frames), as the bitstream says.
        reorders: bool,
    },
    Audio {
        sample_rate: u32,
        channels: u8,
    },
}

/// A set of codecs that a peer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Accepts(u8);

impl Accepts {
    /// What every browser takes over WebRTC (RFC 7742 section 5, RFC 7874 section 3).
    pub const EVERYWHERE: Self = Self(bit(Codec::H264) | bit(Codec::Opus));

    /// Who takes whatever comes.
    pub const EVERYTHING: Self = Self(u8::MAX);

    pub fn takes(self, codec: Codec) -> bool {
        self.0 & bit(codec) != 0
    }
}

impl FromIterator<Codec> for Accepts {
    fn from_iter<T: IntoIterator<Item = Codec>>(codecs: T) -> Self {
        Self(codecs.into_iter().fold(0, |bits, codec| bits | bit(codec)))
    }
}

const fn bit(codec: Codec) -> u8 {
    1 << codec as u8
}

/// The two families of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Real-time sessions. What passes through depends on what the peer takes.
    WebRtc(Accepts),
    /// Everything made of MP4 fragments (HLS, recordings).
    Mp4,
}

impl Delivery {
    /// Whether such a track can be handed out at all.
    pub(crate) fn takes(self, codec: Codec) -> bool {
        matches!(self, Self::Mp4) || matches!(self, Self::WebRtc(peer) if peer.takes(codec))
    }
}

/// Why a track has to be made anew for an output, and into what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conversion {
    /// H.264 without reordering: browsers play B-frames over WebRTC at a few pictures a second.
    BFrames,
    Codec {
        from: Codec,
        to: Codec,
    },
    /// H.264 without reordering in another size, for paths that do not carry the source.
    Rendition(Rendition),
    /// AAC of so many bits, to go with a rendition.
    Sound {
        kbps: u32,
    },
}

impl Conversion {
    pub fn target(self) -> Codec {
        match self {
            Self::BFrames | Self::Rendition(_) => Codec::H264,
            Self::Codec { to, .. } => to,
            Self::Sound { .. } => Codec::Aac,
        }
    }
}

impl std::fmt::Display for Conversion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BFrames => f.write_str("b-frames"),
            Self::Codec { from, to } => write!(f, "{}→{}", from.name(), to.name()),
            Self::Rendition(rendition @ Rendition { audio_kbps: 0, .. }) => rendition.fmt(f),
            Self::Rendition(rendition) => write!(f, "{rendition}+{}kbps", rendition.audio_kbps),
            Self::Sound { kbps } => write!(f, "{kbps}kbps"),
        }
    }
}

impl Info {
    pub fn kind(&self) -> Kind {
        self.codec.kind()
    }

    /// How much there is to see; 0 for sound.
    pub fn pixels(&self) -> u64 {
        match self.shape {
            Shape::Video { width, height, .. } => u64::from(width) * u64::from(height),
            Shape::Audio { .. } => 0,
        }
    }

    pub fn reorders(&self) -> bool {
        matches!(self.shape, Shape::Video { reorders: true, .. })
    }

    /// What stands between this track and an output; `None` means it passes through untouched.
    pub fn obstacle(&self, delivery: Delivery) -> Option<Conversion> {
        match (delivery, self.codec) {
            (Delivery::WebRtc(_), Codec::H264) if self.reorders() => Some(Conversion::BFrames),
            // Nothing else is made of these: a peer that does not take them is told so when it asks.
            (Delivery::WebRtc(_), Codec::H264 | Codec::Opus) => None,
            (Delivery::WebRtc(peer), from @ (Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9)) => {
                let passes = peer.takes(from) && !self.reorders();
                (!passes).then_some(Conversion::Codec { from, to: Codec::H264 })
            }
            (Delivery::WebRtc(_), Codec::Aac) => Some(Conversion::Codec { from: Codec::Aac, to: Codec::Opus }),
            (Delivery::Mp4, Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp9 | Codec::Aac) => None,
            (Delivery::Mp4, from @ Codec::Vp8) => Some(Conversion::Codec { from, to: Codec::H264 }),
            // Opus in MP4 is legal, but Safari and most editing software want AAC.
            (Delivery::Mp4, from @ Codec::Opus) => Some(Conversion::Codec { from, to: Codec::Aac }),
        }
    }
}
