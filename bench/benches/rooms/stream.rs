//! Two seconds of a stream: a keyframe and 59 others, slices filled with noise.

use std::sync::Arc;

use bytes::Bytes;
use headwater_common::media::{Codec, Frame, Gop, Info, RtpCache, Sample};

pub(crate) const FPS: usize = 30;
const KEYFRAME_BYTES: usize = 30_000;
const OTHER_BYTES: usize = 4_067;
pub(crate) const GOP_FRAMES: usize = 60;
pub(crate) const FRAME_US: i64 = 1_000_000 / FPS as i64;

/// avcC of libx264's 1280x720 main profile without B-frames.
pub(crate) const AVCC: &[u8] = &[
    0x01, 0x4d, 0x40, 0x1f, 0xff, 0xe1, 0x00, 0x17, 0x67, 0x4d, 0x40, 0x1f, 0xda, 0x01, 0x40, 0x16, 0xec, 0x04, 0x40,
    0x00, 0x00, 0x03, 0x00, 0x40, 0x00, 0x00, 0x0f, 0x03, 0xc6, 0x0c, 0xa8, 0x01, 0x00, 0x04, 0x68, 0xef, 0x3c, 0x80,
];

pub(crate) fn video_info() -> Info {
    Info::from_config(Codec::H264, Bytes::from_static(AVCC)).expect("a valid avcC")
}

/// One access unit of one slice.
pub(crate) fn picture(index: usize) -> Sample {
    let keyframe = index.is_multiple_of(GOP_FRAMES);
    let (bytes, header) = if keyframe { (KEYFRAME_BYTES, 0x65) } else { (OTHER_BYTES, 0x41) };
    let mut payload = Vec::with_capacity(4 + bytes);
    payload.extend_from_slice(&(bytes as u32).to_be_bytes());
    // first_mb_in_slice 0, slice_type 7 (I) or 5 (P), then what could be anything but an emulated start code.
    payload.extend_from_slice(&[header, if keyframe { 0x88 } else { 0x9a }]);
    payload.extend((0..bytes - 2).map(|i| (i * 131 % 251) as u8 | 1));
    let dts_us = index as i64 * FRAME_US;
    Sample { dts_us, pts_us: dts_us, keyframe, payload: payload.into() }
}

pub(crate) fn gop() -> Vec<Sample> {
    (0..GOP_FRAMES).map(picture).collect()
}

pub(crate) fn frame(sample: Sample, info: &Arc<Info>) -> Frame {
    let gop = Gop { id: 1, epoch: 1, independent: true, has_video: true, ..Gop::default() };
    let Sample { dts_us, pts_us, keyframe, payload } = sample;
    let (gop, info) = (Arc::new(gop), info.clone());
    Frame { gop, dts_us, pts_us, keyframe, payload, info, rtp: RtpCache::default() }
}
