//! What a process costs, from /proc: CPU, memory, threads, file descriptors.
//!
//! [`Probe`] looks at the server before the clients come, while they are there, and takes the difference; it looks at
//! this process too, because a generator that is itself out of breath measures nothing.

use std::{collections::BTreeMap, fs, time::Duration, time::Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// How long the server is watched before the first client.
const BASELINE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    /// Per thread, because only there the kernel tells nanoseconds; the process as a whole counts in steps of 10 ms.
    cpu: BTreeMap<u32, Duration>,
    rss_kb: u64,
    pss_kb: u64,
    fds: u64,
}

impl Sample {
    fn of(pid: u32) -> Result<Self> {
        let directory = format!("/proc/{pid}");
        let memory = fs::read_to_string(format!("{directory}/smaps_rollup"));
        let memory = memory.with_context(|| format!("process {pid}: no memory figures"))?;
        let kb = |name: &str| {
            let line = memory.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let threads = fs::read_dir(format!("{directory}/task"))?.filter_map(|entry| {
            let path = entry.ok()?.path();
            // A thread may end while we look.
            let on_cpu = fs::read_to_string(path.join("schedstat")).ok()?;
            let ns = on_cpu.split_whitespace().next()?.parse().ok()?;
            Some((path.file_name()?.to_str()?.parse().ok()?, Duration::from_nanos(ns)))
        });
        Ok(Self {
            at: Instant::now(),
            cpu: threads.collect(),
            rss_kb: kb("Rss:").context("no Rss in smaps_rollup")?,
            pss_kb: kb("Pss:").context("no Pss in smaps_rollup")?,
            fds: fs::read_dir(format!("{directory}/fd"))?.count() as u64,
        })
    }

    /// What threads that began and ended in between spent is not seen.
    fn cpu_since(&self, before: &Self) -> Duration {
        let spent =
            |(thread, now): (&u32, &Duration)| now.saturating_sub(before.cpu.get(thread).copied().unwrap_or_default());
        self.cpu.iter().map(spent).sum()
    }

    fn cpu_ms_per_s_since(&self, before: &Self) -> f64 {
        let elapsed = self.at.duration_since(before.at).as_secs_f64();
        self.cpu_since(before).as_secs_f64() * 1e3 / elapsed.max(1e-9)
    }
}

pub(crate) struct Probe {
    server: Option<u32>,
    idle: Option<Sample>,
    idle_cpu_ms_per_s: f64,
    begun: Option<(Sample, Option<Sample>)>,
}

/// The process that is measured, over the measured seconds; "idle" is how it was before the first client.
#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) cpu_ms_per_s: f64,
    pub(crate) idle_cpu_ms_per_s: f64,
    pub(crate) cpu_us_per_client_s: f64,
    pub(crate) join_cpu_us_per_client: f64,
    pub(crate) rss_kb: u64,
    pub(crate) pss_kb: u64,
    pub(crate) idle_rss_kb: u64,
    pub(crate) kb_per_client: f64,
    pub(crate) threads: usize,
    pub(crate) fds: u64,
}

impl Server {
    /// What the clients added, spread over what they got.
    pub(crate) fn cpu_us_per(&self, things_per_s: f64) -> Option<f64> {
        (things_per_s > 0.0).then(|| (self.cpu_ms_per_s - self.idle_cpu_ms_per_s) * 1e3 / things_per_s)
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    pub(crate) generator_cpu_ms_per_s: f64,
    pub(crate) server: Option<Server>,
}

impl Probe {
    /// Watches the server for a while before anybody comes.
    pub(crate) fn new(server: Option<u32>) -> Result<Self> {
        let mut probe = Self { server, idle: None, idle_cpu_ms_per_s: 0.0, begun: None };
        if let Some(pid) = server {
            let first = Sample::of(pid)?;
            std::thread::sleep(BASELINE);
            let idle = Sample::of(pid)?;
            probe.idle_cpu_ms_per_s = idle.cpu_ms_per_s_since(&first);
            probe.idle = Some(idle);
        }
        Ok(probe)
    }

    /// Everybody has joined; the measured time begins.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.begun = Some((Sample::of(std::process::id())?, self.server.map(Sample::of).transpose()?));
        Ok(())
    }

    pub(crate) fn end(&self, clients: u32) -> Result<Cost> {
        let (generator_begun, server_begun) = self.begun.as_ref().context("the measured time never began")?;
        let generator = Sample::of(std::process::id())?;
        let server = match (self.server, &self.idle, server_begun) {
            (Some(pid), Some(idle), Some(begun)) => {
                let now = Sample::of(pid)?;
                let clients = f64::from(clients.max(1));
                let cpu_ms_per_s = now.cpu_ms_per_s_since(begun);
                let joining_s = begun.at.duration_since(idle.at).as_secs_f64();
                let join_us = begun.cpu_since(idle).as_secs_f64() * 1e6 - self.idle_cpu_ms_per_s * 1e3 * joining_s;
                Some(Server {
                    cpu_ms_per_s,
                    idle_cpu_ms_per_s: self.idle_cpu_ms_per_s,
                    cpu_us_per_client_s: (cpu_ms_per_s - self.idle_cpu_ms_per_s) * 1e3 / clients,
                    join_cpu_us_per_client: join_us / clients,
                    rss_kb: now.rss_kb,
                    pss_kb: now.pss_kb,
                    idle_rss_kb: idle.rss_kb,
                    kb_per_client: (now.rss_kb as f64 - idle.rss_kb as f64) / clients,
                    threads: now.cpu.len(),
                    fds: now.fds,
                })
            }
            _ => None,
        };
        Ok(Cost {
            seconds: generator.at.duration_since(generator_begun.at).as_secs_f64(),
            generator_cpu_ms_per_s: generator.cpu_ms_per_s_since(generator_begun),
            server,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_seen_to_be_busy() {
        let before = Sample::of(std::process::id()).unwrap();
        while Sample::of(std::process::id()).unwrap().cpu_since(&before) < Duration::from_millis(20) {}
        let after = Sample::of(std::process::id()).unwrap();
        assert!(after.cpu_ms_per_s_since(&before) > 0.0);
        assert!(after.rss_kb >= after.pss_kb && !after.cpu.is_empty() && after.fds >= 3);
    }
}
