//! Numbers that exist anyway and are only read when Prometheus asks: each broadcast's tracks.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::live::{Hub, Track};

#[derive(Debug)]
pub(super) struct HubCollector {
    hub: Arc<Hub>,
}

impl HubCollector {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}

impl Collector for HubCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let broadcasts = self.hub.list();
        let live = broadcasts.iter().filter(|b| b.status() == crate::live::Status::Live).count();
        ConstGauge::new(live as i64).encode(encoder.encode_descriptor(
            "broadcasts_live",
            "Broadcasts with a publisher",
            None,
            MetricType::Gauge,
        )?)?;
        let tracks: Vec<_> = broadcasts
            .iter()
            .flat_map(|broadcast| broadcast.tracks().into_iter().map(move |track| (broadcast.id(), track)))
            .collect();
        type Read = fn(&Track) -> u64;
        let families: [(&str, &str, MetricType, Read); 5] = [
            ("track_readers", "Readers of a track", MetricType::Gauge, |t| t.readers() as u64),
            ("track_cache_bytes", "Payload held for late readers", MetricType::Gauge, |t| t.stats().ring_bytes as u64),
            ("track_frames", "Frames written to a track", MetricType::Counter, |t| t.stats().frames),
            ("track_bytes", "Payload written to a track", MetricType::Counter, |t| t.stats().bytes),
            ("track_skipped_frames", "Frames that readers were too slow for", MetricType::Counter, |t| {
                t.stats().skipped
            }),
        ];
        for (name, help, kind, read) in families {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (id, track) in &tracks {
                let labels = [("app", id.app()), ("stream", id.stream()), ("track", track.name())];
                match kind {
                    MetricType::Counter => ConstCounter::new(read(track)).encode(family.encode_family(&labels)?)?,
                    _ => ConstGauge::new(read(track) as i64).encode(family.encode_family(&labels)?)?,
                }
            }
        }
        Ok(())
    }
}
