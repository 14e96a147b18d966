//! The log: one line per event on standard error, coloured on a terminal. Panics go there too, and are counted.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::Telemetry;
use crate::config;

impl Telemetry {
    /// Once per process.
    pub fn start_log(&self, settings: &config::Log) -> anyhow::Result<()> {
        let filter =
            EnvFilter::try_new(&settings.filter).with_context(|| format!("log.filter {:?}", settings.filter))?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .init();
        let panics = self.panics.clone();
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            panics.inc();
            tracing::error!(thread = std::thread::current().name().unwrap_or("?"), "panic: {info}");
            print(info);
        }));
        Ok(())
    }
}
