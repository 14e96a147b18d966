//! Bitstream inspection and MP4 fragments.

use std::sync::Arc;

use bytes::Bytes;
use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use headwater_common::{
    fmp4::{Fragment, TrackSpec},
    media::{Codec, Inspector},
};

use crate::stream::{AVCC, GOP_FRAMES, gop, video_info};

#[divan::bench]
fn inspect_h264_gop(bencher: Bencher<'_, '_>) {
    let mut inspector = Inspector::with_config(Codec::H264, Bytes::from_static(AVCC)).expect("a valid avcC");
    let samples = gop();
    bencher.counter(ItemsCount::new(samples.len())).bench_local(|| {
        for sample in &samples {
            let inspected = inspector.push(sample.clone()).expect("a valid access unit");
            assert!(divan::black_box(inspected).sample.is_some());
        }
    });
}

/// Frames per fragment: a picture, a part of a fifth of a second, a segment.
#[divan::bench(args = [1, 6, GOP_FRAMES])]
fn write_fragment(bencher: Bencher<'_, '_>, frames: usize) {
    let track = TrackSpec { id: 1, info: Arc::new(video_info()) };
    let samples = gop();
    let bytes: usize = samples[..frames].iter().map(|sample| sample.payload.len()).sum();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let mut fragment = Fragment::new(1);
        for sample in &samples[..frames] {
            fragment.push(&track, sample.clone());
        }
        fragment.finish()
    });
}
