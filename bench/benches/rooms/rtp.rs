//! RTP payloads: cut once per frame, whatever the number of viewers.

use std::sync::Arc;

use divan::{Bencher, counter::BytesCount};

use crate::stream::{frame, picture, video_info};

#[divan::bench(args = ["keyframe", "other"])]
fn packetise_h264(bencher: Bencher<'_, '_>, which: &str) {
    let info = Arc::new(video_info());
    let sample = picture(usize::from(which != "keyframe"));
    bencher
        .counter(BytesCount::new(sample.payload.len()))
        .with_inputs(|| frame(sample.clone(), &info))
        .bench_local_refs(|frame| assert!(!frame.rtp().is_empty()));
}
