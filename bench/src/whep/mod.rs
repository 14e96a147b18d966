//! WHEP viewers, and what all of them saw together.

mod picture;
mod viewer;

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use str0m::media::Direction;

use self::viewer::{Seen, Viewer};
use crate::{
    Load,
    process::Cost,
    report::Quantiles,
    rtc::{self, Outcome, Part},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    rtc: rtc::Options,
    /// Go to another node when the one that serves asks for it: join there first, then leave the old (headwater only)
    #[arg(long)]
    follow: bool,
}

#[derive(Serialize)]
pub(crate) struct Report {
    client: &'static str,
    url: String,
    count: u32,
    /// Got an answer and a first packet, also where they went last.
    joined: u32,
    failed: u32,
    /// The first reason, as an example.
    failure: Option<String>,
    /// From the first POST to the last viewer that was connected.
    joins_per_s: Option<f64>,
    post_ms: Option<Quantiles>,
    /// These three count from the answer.
    connected_ms: Option<Quantiles>,
    first_rtp_ms: Option<Quantiles>,
    first_keyframe_ms: Option<Quantiles>,
    packets: u64,
    packets_per_s: f64,
    mbit_per_s: f64,
    pictures_per_viewer_s: f64,
    lost: u64,
    nacks: u64,
    disconnected: usize,
    /// Sessions that followed others.
    moved: u32,
    /// The longest time that a viewer saw no video.
    gap_ms: Option<Quantiles>,
    /// Viewers that saw no video for longer than half a second.
    stalled: usize,
    /// From the publisher's send to the kernel's receive, by the stamps in the pictures.
    delay_ms: Option<Quantiles>,
    server_cpu_us_per_packet: Option<f64>,
    #[serde(flatten)]
    cost: Cost,
}

const STALL: Duration = Duration::from_millis(500);

pub(crate) async fn run(options: Options) -> Result<Report> {
    let part = Part { direction: Direction::RecvOnly, follows: options.follow };
    let make = |session, eyes: Option<_>| Ok(Viewer::new(session, eyes.unwrap_or_default()));
    let outcome = rtc::run(&options.rtc, part, make).await?;
    Ok(summarise(&options.rtc.load, outcome))
}

fn summarise(load: &Load, outcome: Outcome<Seen>) -> Report {
    let Outcome { seen, began, post_ms, moved, failure, cost } = outcome;
    let quantiles = |of: fn(&Seen) -> Option<f64>| Quantiles::of(seen.iter().filter_map(of).collect());
    let last_sessions = seen.iter().filter(|seen| seen.longest_gap.is_some());
    let joined = last_sessions.filter(|seen| seen.first_rtp_ms.is_some()).count() as u32;
    let connected_ms = quantiles(|seen| seen.connected_ms);
    let last_connected = seen.iter().filter_map(|seen| seen.connected_at).max();
    let packets: u64 = seen.iter().map(|seen| seen.packets).sum();
    let bytes: u64 = seen.iter().map(|seen| seen.bytes).sum();
    let pictures: u64 = seen.iter().map(|seen| seen.pictures).sum();
    let packets_per_s = packets as f64 / cost.seconds;
    Report {
        client: "whep",
        url: load.url.clone(),
        count: load.count,
        joined,
        failed: load.count - joined,
        failure,
        joins_per_s: last_connected
            .zip(connected_ms)
            .map(|(last, connected)| connected.n as f64 / (last - began).as_secs_f64().max(1e-3)),
        post_ms: Quantiles::of(post_ms),
        connected_ms,
        first_rtp_ms: quantiles(|seen| seen.first_rtp_ms),
        first_keyframe_ms: quantiles(|seen| seen.first_keyframe_ms),
        packets,
        packets_per_s,
        mbit_per_s: bytes as f64 * 8e-6 / cost.seconds,
        pictures_per_viewer_s: pictures as f64 / f64::from(joined.max(1)) / cost.seconds,
        lost: seen.iter().map(|seen| seen.lost).sum(),
        nacks: seen.iter().map(|seen| seen.nacks).sum(),
        disconnected: seen.iter().filter(|seen| seen.disconnected).count(),
        moved,
        gap_ms: quantiles(|seen| seen.longest_gap.map(|gap| gap.as_secs_f64() * 1e3)),
        stalled: seen.iter().filter(|seen| seen.longest_gap.is_some_and(|gap| gap > STALL)).count(),
        delay_ms: Quantiles::of(seen.iter().flat_map(|seen| seen.delays_ms.iter().copied()).collect()),
        server_cpu_us_per_packet: cost.server.as_ref().and_then(|server| server.cpu_us_per(packets_per_s)),
        cost,
    }
}
