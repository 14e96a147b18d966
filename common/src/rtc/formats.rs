//! The payload types of one section that both sides know. In: what was negotiated. Out: which of them a frame leaves
//! with. Deliberately absent: what there is to send.

use str0m::{
    Rtc, format,
    media::{Mid, Pt},
};

use crate::media::{Accepts, Codec, Info};

#[derive(Clone, Debug, Default)]
pub(super) struct Formats(Vec<Format>);

#[derive(Clone, Copy, Debug)]
struct Format {
    codec: Codec,
    /// Grows with what a decoder has to know, among the formats of one codec.
    rank: u8,
    pt: Pt,
}

impl Formats {
    pub(super) fn agreed(rtc: &Rtc, mid: Mid) -> Self {
        let Some(media) = rtc.media(mid) else { return Self::default() };
        let agreed = rtc.codec_config().params().iter().filter(|params| media.remote_pts().contains(&params.pt()));
        let format = |params: &format::PayloadParams| {
            let spec = params.spec();
            let (codec, rank) = match spec.codec {
                format::Codec::H264 if spec.format.packetization_mode == Some(1) => {
                    let id = spec.format.profile_level_id.unwrap_or(0x42_00_1f);
                    (Codec::H264, h264_rank((id >> 16) as u8, (id >> 8) as u8))
                }
                format::Codec::H265 => (Codec::H265, 0),
                format::Codec::Av1 => (Codec::Av1, 0),
                format::Codec::Vp8 => (Codec::Vp8, 0),
                format::Codec::Vp9 => (Codec::Vp9, spec.format.profile_id.unwrap_or(0) as u8),
                format::Codec::Opus => (Codec::Opus, 0),
                _ => return None,
            };
            Some(Format { codec, rank, pt: params.pt() })
        };
        Self(agreed.filter_map(format).collect())
    }

    pub(super) fn accepts(&self) -> Accepts {
        self.0.iter().map(|format| format.codec).collect()
    }

    /// The least that is enough for the stream, else the most there is: browsers decode more than they offer.
    pub(super) fn suiting(&self, info: &Info) -> Option<Pt> {
        let stream = match (info.codec, &info.config[..]) {
            (Codec::H264, [_, profile, constraints, ..]) => h264_rank(*profile, *constraints),
            (Codec::Vp9, [profile, ..]) => *profile,
            _ => 0,
        };
        let known = self.0.iter().filter(|format| format.codec == info.codec);
        let best = known.min_by_key(|format| if format.rank >= stream { format.rank } else { 100 - format.rank });
        best.map(|format| format.pt)
    }
}

/// H.264 profiles from least to most (ITU-T H.264 Annex A; RFC 6184 table 5 for constrained baseline).
fn h264_rank(profile_idc: u8, constraints: u8) -> u8 {
    match profile_idc {
        66 if constraints & 0x40 != 0 => 0,
        66 => 1,
        77 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::Shape;

    #[test]
    fn frames_leave_with_the_least_that_is_enough() {
        let format = |codec, rank, pt: u8| Format { codec, rank, pt: pt.into() };
        let formats = Formats(vec![
            format(Codec::H264, 0, 102),
            format(Codec::H264, 2, 104),
            format(Codec::Vp9, 2, 100),
            format(Codec::Vp9, 0, 98),
            format(Codec::Vp8, 0, 96),
        ]);
        let suiting = |codec, config: &'static [u8]| {
            let shape = Shape::Video { width: 64, height: 64, reorders: false };
            formats.suiting(&Info { codec, config: Bytes::from_static(config), shape }).map(|pt| *pt)
        };
        assert_eq!(suiting(Codec::H264, &[1, 66, 0xc0]), Some(102));
        assert_eq!(suiting(Codec::H264, &[1, 66, 0]), Some(104), "baseline with its slice groups");
        assert_eq!(suiting(Codec::H264, &[1, 100, 0]), Some(104), "the most there is");
        assert_eq!((suiting(Codec::Vp9, &[0]), suiting(Codec::Vp9, &[2])), (Some(98), Some(100)));
        assert_eq!((suiting(Codec::Vp8, &[]), suiting(Codec::Av1, &[])), (Some(96), None));
        assert!(formats.accepts().takes(Codec::Vp9) && !formats.accepts().takes(Codec::Opus));
    }
}
