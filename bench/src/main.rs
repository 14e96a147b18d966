//! Load generator: drives any server by its public protocols over loopback and says what it cost.
//!
//! In: a URL whose `{n}` becomes the number of the client, a count and a time. Out: a table on stderr and one JSON
//! object on stdout. Every run has the same shape: a baseline while nothing of ours is connected, clients joining,
//! `--settle` seconds, then `--seconds` that are measured; it ends by itself. With `--server-pid` the server's CPU and
//! memory are sampled at those borders, so that they can be charged to the clients.
//!
//! It shares no code with the server it measures: a mistake made twice would not be seen. Deliberately absent:
//! decoding, pictures, and remote hosts' clocks (delay needs publisher and viewer on one machine).

mod clip;
mod hls;
mod playlist;
mod process;
mod report;
mod rtc;
mod rtmp;
mod stamp;
mod whep;
mod whip;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::process::Probe;

#[derive(Parser)]
#[command(version, about = "Drives a streaming server by its public protocols and says what it cost")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Publish clips by RTMP
    Rtmp(rtmp::Options),
    /// Watch by WebRTC (WHEP) without decoding
    Whep(whep::Options),
    /// Publish clips by WebRTC (WHIP)
    Whip(whip::Options),
    /// Watch by HLS or low-latency HLS without decoding
    Hls(hls::Options),
    /// Sample a process: CPU, memory, threads, file descriptors
    Server {
        #[arg(long)]
        pid: u32,
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
    },
    /// Make the clip that publishers send, by ffmpeg: 720p30, 1.08 Mbit/s H.264, a keyframe every 2 s, AAC
    Clip {
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        variant: clip::Variant,
    },
}

/// What every kind of client is told.
#[derive(Args, Clone, Debug)]
struct Load {
    /// Where to, with {n} in place of the client's number
    #[arg(long)]
    url: String,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    count: u32,
    /// How long to measure, after everybody has joined
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Seconds between the last join and the first measured one; a server that keeps the latest media grows until then
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=600))]
    settle: u64,
    /// Sample this process too
    #[arg(long)]
    server_pid: Option<u32>,
}

impl Load {
    fn url_of(&self, number: u32) -> String {
        self.url.replace("{n}", &number.to_string())
    }

    fn settling(&self) -> Duration {
        Duration::from_secs(self.settle)
    }

    fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Cli::parse().command {
        Command::Rtmp(options) => report::print(&runtime.block_on(rtmp::run(options))?),
        Command::Whep(options) => report::print(&runtime.block_on(whep::run(options))?),
        Command::Whip(options) => report::print(&runtime.block_on(whip::run(options))?),
        Command::Hls(options) => report::print(&runtime.block_on(hls::run(options))?),
        Command::Server { pid, seconds } => {
            let mut probe = Probe::new(Some(pid))?;
            probe.begin()?;
            std::thread::sleep(Duration::from_secs(seconds));
            report::print(&probe.end(1)?)
        }
        Command::Clip { out, variant } => clip::make(&out, variant),
    }
}

#[test]
fn the_command_line_is_sound() {
    <Cli as clap::CommandFactory>::command().debug_assert();
}
