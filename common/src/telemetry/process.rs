//! What the process itself uses, read from /proc when Prometheus asks. Where there is no /proc there are no such numbers.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, help, key, unit) in
            [("process_resident_bytes", "Memory in use", "VmRSS:", 1024), ("process_threads", "Threads", "Threads:", 1)]
        {
            let field = status.lines().find_map(|line| line.strip_prefix(key));
            let Some(value) = field.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok()) else {
                continue;
            };
            ConstGauge::new(value * unit).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or_default() as i64;
        ConstGauge::new(open).encode(encoder.encode_descriptor(
            "process_open_files",
            "Open files and sockets",
            None,
            MetricType::Gauge,
        )?)
    }
}
