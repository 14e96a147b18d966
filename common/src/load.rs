//! How much of what a node may carry it carries.
//!
//! In: processor time, bytes that left, sessions, and the limits an operator set. Out: a [`Load`] a second, for load
//! balancers, other nodes and Prometheus, and whether the node is full. [`Meter`] is the arithmetic, [`watch`] the loop
//! around it. Deliberately absent: who is refused (doors ask the node), and the bound on sessions that holds between two
//! looks as well (the WebRTC engine counts by itself).

use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::MissedTickBehavior;

use crate::{
    config::Limits,
    node::{Node, Phase},
};

const EVERY: Duration = Duration::from_secs(1);
/// Rates are averaged over about this long: a keyframe for everybody at once does not fill a node.
const AVERAGED_OVER: Duration = Duration::from_secs(5);
/// A full node takes work again when it has this much left of each limit (percent): else it would come and go with every
/// viewer.
const ROOM_PERCENT: f64 = 5.0;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Of all cores together.
    pub cpu_percent: u32,
    pub egress_bits_per_s: u64,
    /// Viewers and publishers by WebRTC.
    pub sessions: u32,
    /// The most exhausted of the limits; the processor counts where it has no limit as well. 100 is full.
    pub used_percent: u32,
    /// Of the machine's memory, taken by anybody.
    pub memory_percent: u32,
}

/// Counters as they stand: each only grows, but for the sessions.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    /// Of all threads, since the process began.
    processor: Duration,
    egress_bytes: u64,
    sessions: usize,
    /// Of the machine.
    memory_percent: u32,
}

#[derive(Debug)]
struct Meter {
    limits: Limits,
    cores: usize,
    last: Option<Reading>,
    /// Averages: of all cores' time, and bits per second.
    cpu_percent: f64,
    egress_bits_per_s: f64,
    is_full: bool,
}

impl Meter {
    fn new(limits: Limits, cores: usize) -> Self {
        Self { limits, cores: cores.max(1), last: None, cpu_percent: 0.0, egress_bits_per_s: 0.0, is_full: false }
    }

    fn measure(&mut self, reading: Reading) -> Load {
        if let Some(last) = self.last.replace(reading) {
            let elapsed_s = reading.at.saturating_duration_since(last.at).as_secs_f64().max(0.001);
            let weight = 1.0 - (-elapsed_s / AVERAGED_OVER.as_secs_f64()).exp();
            let processor_s = reading.processor.saturating_sub(last.processor).as_secs_f64();
            let cpu_percent = 100.0 * processor_s / elapsed_s / self.cores as f64;
            self.cpu_percent += weight * (cpu_percent - self.cpu_percent);
            let bits = reading.egress_bytes.saturating_sub(last.egress_bytes) as f64 * 8.0;
            self.egress_bits_per_s += weight * (bits / elapsed_s - self.egress_bits_per_s);
        }
        let used = self.used_percent(reading.sessions);
        self.is_full = used >= 100.0 || (self.is_full && used > 100.0 - ROOM_PERCENT);
        // Without a limit a processor at its end slows the node down, and does not close it.
        let busy = if self.limits.cpu_percent == 0 { self.cpu_percent.min(99.0) } else { 0.0 };
        Load {
            cpu_percent: self.cpu_percent.round() as u32,
            egress_bits_per_s: self.egress_bits_per_s.round() as u64,
            sessions: reading.sessions.try_into().unwrap_or(u32::MAX),
            used_percent: if self.is_full { 100 } else { used.max(busy).clamp(0.0, 99.0) as u32 },
            memory_percent: reading.memory_percent,
        }
    }

    /// Of the most exhausted limit.
    fn used_percent(&self, sessions: usize) -> f64 {
        let Limits { cpu_percent, egress_mbps, sessions: sessions_max } = self.limits;
        let of = |value: f64, limit: f64| if limit > 0.0 { 100.0 * value / limit } else { 0.0 };
        of(self.cpu_percent, f64::from(cpu_percent))
            .max(of(self.egress_bits_per_s, f64::from(egress_mbps) * 1e6))
            .max(of(sessions as f64, sessions_max as f64))
    }
}

/// Measures once a second, for as long as the process runs. `egress` counts bytes, `sessions` tells how many there are.
pub async fn watch(node: Node, limits: Limits, egress: Counter, sessions: impl Fn() -> usize) {
    let mut meter = Meter::new(limits, std::thread::available_parallelism().map_or(1, usize::from));
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let load = meter.measure(Reading {
            at: Instant::now(),
            processor: processor_time(),
            egress_bytes: egress.get(),
            sessions: sessions(),
            memory_percent: memory_percent(),
        });
        let before = node.phase();
        node.bear(load, meter.is_full);
        match (before, node.phase()) {
            (Phase::Ready, Phase::Full) => tracing::warn!(?load, "full: no new work is taken"),
            (Phase::Full, Phase::Ready) => tracing::info!(?load, "takes work again"),
            _ => {}
        }
    }
}

/// Of all threads of this process, since it began.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// Of the machine, taken by anybody. Linux is asked; elsewhere nothing is known.
fn memory_percent() -> u32 {
    std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| taken_percent(&text)).unwrap_or_default()
}

/// By `proc_meminfo(5)`: what is available without swapping is not taken.
fn taken_percent(meminfo: &str) -> Option<u32> {
    let kb_of = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok()
    };
    let (total_kb, available_kb) = (kb_of("MemTotal:")?, kb_of("MemAvailable:")?);
    let percent = 100 * total_kb.saturating_sub(available_kb) / total_kb.max(1);
    u32::try_from(percent).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits = Limits { cpu_percent: 0, egress_mbps: 0, sessions: 0 };

    /// A minute of one second after the other at these rates, on four cores; the load at its end.
    fn minute(meter: &mut Meter, busy_cores: f64, megabits_per_s: u64, sessions: usize) -> Load {
        let (begun, processor, bytes) = match meter.last {
            Some(last) => (last.at, last.processor, last.egress_bytes),
            None => (Instant::now(), Duration::ZERO, 0),
        };
        let mut load = Load::default();
        for second in 1..=60 {
            let elapsed = Duration::from_secs(second);
            load = meter.measure(Reading {
                at: begun + elapsed,
                processor: processor + elapsed.mul_f64(busy_cores),
                egress_bytes: bytes + megabits_per_s * 125_000 * second,
                sessions,
                memory_percent: 7,
            });
        }
        load
    }

    #[test]
    fn the_most_exhausted_limit_counts() {
        let limits = Limits { cpu_percent: 80, egress_mbps: 1_000, sessions: 200 };
        for (busy_cores, megabits_per_s, sessions, used_percent) in
            [(1.6, 0, 0, 50), (0.4, 300, 10, 30), (0.4, 300, 150, 75), (3.2, 0, 0, 100), (0.0, 2_000, 0, 100)]
        {
            let mut meter = Meter::new(limits, 4);
            let load = minute(&mut meter, busy_cores, megabits_per_s, sessions);
            assert!(load.used_percent.abs_diff(used_percent) <= 1, "{load:?}, not {used_percent}");
            assert_eq!(meter.is_full, load.used_percent == 100);
        }
        let load = minute(&mut Meter::new(limits, 4), 2.0, 40, 7);
        assert_eq!((load.cpu_percent, load.sessions, load.memory_percent), (50, 7, 7));
        assert!(load.egress_bits_per_s.abs_diff(40_000_000) < 10_000, "{load:?}");
    }

    #[test]
    fn what_has_no_limit_fills_no_node() {
        let mut meter = Meter::new(NONE, 4);
        let load = minute(&mut meter, 4.0, 100_000, 100_000);
        assert!(!meter.is_full && load.used_percent == 99, "{load:?}");
        assert!(minute(&mut meter, 1.0, 100_000, 100_000).used_percent.abs_diff(25) <= 1);
    }

    #[test]
    fn a_full_node_takes_work_again_when_there_is_room_for_more_than_one() {
        let mut meter = Meter::new(Limits { sessions: 100, ..NONE }, 4);
        let mut is_full = |sessions| {
            minute(&mut meter, 0.0, 0, sessions);
            meter.is_full
        };
        let seen = [99, 100, 99, 96, 95, 99, 100].map(&mut is_full);
        assert_eq!(seen, [false, true, true, true, false, false, true]);
    }

    #[test]
    fn a_burst_is_no_load() {
        let mut meter = Meter::new(Limits { egress_mbps: 100, ..NONE }, 4);
        minute(&mut meter, 0.0, 10, 0);
        let last = meter.last.unwrap();
        let at = last.at + Duration::from_secs(1);
        let load = meter.measure(Reading { at, egress_bytes: last.egress_bytes + 300 * 125_000, ..last });
        assert!(!meter.is_full && load.used_percent < 80, "{load:?}");
    }

    #[test]
    fn memory_that_is_available_is_not_taken() {
        let text = "MemTotal:       24000000 kB\nMemFree:          100000 kB\nMemAvailable:   18000000 kB\n";
        assert_eq!(taken_percent(text), Some(25));
        assert_eq!(taken_percent("MemTotal: 5 kB\n"), None);
        assert!((1..=100).contains(&memory_percent()), "{}", memory_percent());
    }

    #[test]
    fn the_processor_is_read() {
        let before = processor_time();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        assert!(processor_time() > before);
    }
}
