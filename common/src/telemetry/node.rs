//! What the node takes and how loaded it is, looked up when Prometheus asks.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::node::Node;

#[derive(Debug)]
pub(super) struct NodeCollector(pub(super) Node);

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let load = self.0.load();
        for (name, help, value) in [
            ("used_percent", "The most exhausted of this node's limits; 100 is full", i64::from(load.used_percent)),
            ("cpu_percent", "Of all cores, averaged over some seconds", i64::from(load.cpu_percent)),
            ("egress_bits_per_second", "What leaves, averaged likewise", load.egress_bits_per_s as i64),
        ] {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let mut phase = encoder.encode_descriptor("phase", "1 for the node's phase", None, MetricType::Gauge)?;
        ConstGauge::new(1_i64).encode(phase.encode_family(&[("phase", self.0.phase().name())])?)
    }
}
