//! From what a part holds to its bytes. In: a [`Part`]. Out: the init section and the fragment that carry it, named and
//! numbered by what was minted, so that every edge makes the same. Deliberately absent: how MP4 is written
//! (`common/fmp4`).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use headwater_common::{
    fmp4::{self, Fragment, InitError, TrackSpec},
    media::Sample,
};

use super::cutter::{Formats, Part, Run, same_stream};

const VIDEO: u32 = 1;
const AUDIO: u32 = 2;
/// A part is at least a fifth of a second and a gop ends after ten seconds: there is room for 64.
const PARTS_PER_GOP_BITS: u32 = 6;

/// What a segment needs in front of it.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) discontinuity: u64,
    /// Of the bytes, so that a name never stands for two of them.
    pub(super) digest: u64,
    pub(super) data: Bytes,
    video: Option<TrackSpec>,
    audio: Option<TrackSpec>,
}

impl Init {
    pub(super) fn new(discontinuity: u64, formats: &Formats) -> Result<Arc<Self>, InitError> {
        let spec = |id, info: &Option<_>| info.clone().map(|info| TrackSpec { id, info });
        let (video, audio) = (spec(VIDEO, &formats.video), spec(AUDIO, &formats.audio));
        let tracks: Vec<_> = video.iter().chain(&audio).cloned().collect();
        let data = fmp4::init(&tracks)?;
        Ok(Arc::new(Self { discontinuity, digest: digest(&data), data, video, audio }))
    }

    pub(super) fn suits(&self, discontinuity: u64, formats: &Formats) -> bool {
        let suits = |spec: &Option<TrackSpec>, info: &Option<Arc<_>>| match (spec, info) {
            (Some(spec), Some(info)) => same_stream(&spec.info, info),
            (None, None) => true,
            _ => false,
        };
        self.discontinuity == discontinuity && suits(&self.video, &formats.video) && suits(&self.audio, &formats.audio)
    }

    /// Video or sound alone have MIME types of their own.
    pub(super) fn has_video(&self) -> bool {
        self.video.is_some()
    }

    pub(super) fn fragment(&self, part: &Part) -> Bytes {
        let sequence = ((part.gop.id << PARTS_PER_GOP_BITS) as u32).wrapping_add(part.index + 1);
        let mut fragment = Fragment::new(sequence);
        add(&mut fragment, self.video.as_ref(), &part.video);
        add(&mut fragment, self.audio.as_ref(), &part.audio);
        if fragment.is_empty() { nothing(sequence) } else { fragment.finish() }
    }
}

fn add(fragment: &mut Fragment, track: Option<&TrackSpec>, run: &Run) {
    let Some(track) = track else { return };
    for frame in &run.frames {
        let (dts_us, pts_us, keyframe) = (frame.dts_us, frame.pts_us, frame.keyframe);
        fragment.push(track, Sample { dts_us, pts_us, keyframe, payload: frame.payload.clone() });
    }
    if let Some(end_us) = run.end_us {
        fragment.end(track.id, end_us);
    }
}

/// A fragment in which no track begins a sample: pictures so slow that one outlasts a whole part.
fn nothing(sequence: u32) -> Bytes {
    let mut bytes = BytesMut::with_capacity(32);
    bytes.put_u32(24);
    bytes.put_slice(b"moof");
    bytes.put_u32(16);
    bytes.put_slice(b"mfhd");
    bytes.put_u32(0);
    bytes.put_u32(sequence);
    bytes.put_u32(8);
    bytes.put_slice(b"mdat");
    bytes.freeze()
}

/// FNV-1a: a few hundred bytes, and nobody gains by forging his own stream's name.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
