//! The hall: what a frame costs its writer, and what it costs each reader.

use std::sync::Arc;

use divan::{Bencher, counter::ItemsCount};
use headwater_common::{
    live::{BroadcastId, Claim, Hub, Publisher, Reader, Start, Takeover, Writer},
    media::{Kind, Sample},
};

use crate::stream::{FRAME_US, gop, video_info};

const READERS: &[usize] = &[0, 1, 100, 1000];

struct Room {
    writer: Writer,
    readers: Vec<Reader>,
    samples: Vec<Sample>,
    written: i64,
    _hub: Arc<Hub>,
}

impl Room {
    fn new(readers: usize) -> Self {
        let hub = Hub::new();
        let id = BroadcastId::new("live", "bench").expect("a valid name");
        let publisher = Publisher { protocol: "bench", remote: String::new(), agent: String::new() };
        let claim = Claim { epoch: 1, next_gop: 0, discontinuity: 0, born_us: 0, segment_target_s: None, publisher };
        let mut writer = hub.claim(&id, claim, Takeover::Replace, 0).expect("nobody else claims");
        writer.announce(video_info()).expect("nobody fences");
        let track = writer.broadcast().source(Kind::Video).expect("just announced");
        let readers = (0..readers).map(|_| track.read(Start::Live)).collect();
        Self { writer, readers, samples: gop(), written: 0, _hub: hub }
    }

    fn write(&mut self) {
        let mut sample = self.samples[self.written as usize % self.samples.len()].clone();
        let dts_us = self.written * FRAME_US;
        (sample.dts_us, sample.pts_us) = (dts_us, dts_us);
        self.writer.write(Kind::Video, sample, dts_us).expect("nobody fences");
        self.written += 1;
    }
}

#[divan::bench]
fn write(bencher: Bencher<'_, '_>) {
    let mut room = Room::new(0);
    bencher.bench_local(|| room.write());
}

/// One item is one frame at one reader: a shard thread that walks its viewers.
#[divan::bench(args = READERS)]
fn write_and_read(bencher: Bencher<'_, '_>, readers: usize) {
    let mut room = Room::new(readers);
    bencher.counter(ItemsCount::new(readers.max(1))).bench_local(|| {
        room.write();
        for reader in &mut room.readers {
            divan::black_box(reader.try_next()).expect("just written");
        }
    });
}
