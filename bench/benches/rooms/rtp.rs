//! RTP payloads: cut once per frame, whatever the number of viewers.

use std::sync::Arc;

use bytes::Bytes;
use divan::{Bencher, counter::BytesCount};
use headwater_common::media::{Codec, Info, Sample, Shape, av1};

use crate::stream::{frame, picture, video_info};

#[divan::bench(args = ["keyframe", "other"])]
fn packetise_h264(bencher: Bencher<'_, '_>, which: &str) {
    packetise(bencher, &Arc::new(video_info()), picture(usize::from(which != "keyframe")));
}

/// Keyframes of the other codecs, of the same size.
#[divan::bench(args = ["h265", "vp8", "vp9", "av1"])]
fn packetise_keyframe(bencher: Bencher<'_, '_>, name: &str) {
    let mut sample = picture(0);
    let slice = sample.payload.slice(4..);
    let (codec, config, head) = match name {
        "h265" => (Codec::H265, Bytes::new(), [&(slice.len() as u32 + 2).to_be_bytes()[..], &[0x26, 1]].concat()),
        "vp8" => (Codec::Vp8, Bytes::new(), Vec::new()),
        "vp9" => (Codec::Vp9, Bytes::new(), Vec::new()),
        // A frame without a size, which the last OBU may do without.
        _ => (Codec::Av1, av1::build_record(&SEQUENCE_HEADER).expect("a valid header"), vec![0x30]),
    };
    sample.payload = [&head[..], &slice].concat().into();
    let shape = Shape::Video { width: 1280, height: 720, reorders: false };
    packetise(bencher, &Arc::new(Info { codec, config, shape }), sample);
}

fn packetise(bencher: Bencher<'_, '_>, info: &Arc<Info>, sample: Sample) {
    bencher
        .counter(BytesCount::new(sample.payload.len()))
        .with_inputs(|| frame(sample.clone(), info))
        .bench_local_refs(|frame| assert!(!frame.rtp().is_empty()));
}

const SEQUENCE_HEADER: [u8; 11] = [0x00, 0x00, 0x00, 0x04, 0x3c, 0xff, 0xbc, 0x02, 0xf8, 0x00, 0x40];
