//! All sessions summed up, when Prometheus asks.
//!
//! In: the roster. Out: gauges by role. Deliberately absent: numbers of single sessions; REST shows those.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use super::{
    engine::Shared,
    roster::{Role, SessionStats},
};

pub(super) struct Census(pub(super) Arc<Shared>);

impl std::fmt::Debug for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Census")
    }
}

/// Of the sessions of one role that are connected.
struct Sum {
    role: &'static str,
    sessions: Vec<SessionStats>,
}

impl Sum {
    fn total(&self, read: impl Fn(&SessionStats) -> u64) -> f64 {
        self.sessions.iter().map(read).sum::<u64>() as f64
    }

    /// Of those who know.
    fn mean(&self, read: impl Fn(&SessionStats) -> Option<f32>) -> f64 {
        let known: Vec<f64> = self.sessions.iter().filter_map(read).map(f64::from).collect();
        if known.is_empty() { 0.0 } else { known.iter().sum::<f64>() / known.len() as f64 }
    }
}

type Read = fn(&Sum) -> f64;

const GAUGES: [(&str, &str, Read); 8] = [
    ("webrtc_sessions", "Connected WebRTC sessions", |sum| sum.sessions.len() as f64),
    ("webrtc_send_bits_per_second", "Sent to them over the last seconds", |sum| sum.total(|s| s.send_bps)),
    ("webrtc_receive_bits_per_second", "Received from them over the last seconds", |sum| sum.total(|s| s.receive_bps)),
    ("webrtc_lost_percent", "Packets lost on the way, mean over sessions", |sum| sum.mean(|s| s.lost_percent)),
    ("webrtc_jitter_ms", "Jitter of what arrives, mean over sessions", |sum| sum.mean(|s| s.jitter_ms)),
    ("webrtc_round_trip_ms", "Round trip, mean over sessions", |sum| sum.mean(|s| s.rtt_ms)),
    ("webrtc_retransmissions_asked", "Packets that the sessions there are asked for again", |sum| {
        sum.total(|s| s.nacks)
    }),
    ("webrtc_keyframes_asked", "Keyframes that the sessions there are asked for, or were asked for", |sum| {
        sum.total(|s| s.plis + s.keyframes_asked)
    }),
];

impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let connected = self.0.roster.all().into_iter().map(|card| card.stats()).filter(|session| session.connected);
        let (viewers, publishers) = connected.partition(|session| session.role == Role::Viewer);
        let sums = [("viewer", viewers), ("publisher", publishers)];
        let sums = sums.map(|(role, sessions)| Sum { role, sessions });
        for (name, help, read) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for sum in &sums {
                ConstGauge::new(read(sum)).encode(family.encode_family(&[("role", sum.role)])?)?;
            }
        }
        Ok(())
    }
}
