//! WHIP publishers (RFC 9725), and what became of all of them.

mod media;
mod publisher;

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use str0m::media::Direction;

use self::{
    media::Media,
    publisher::{Publisher, Seen},
};
use crate::{
    process::Cost,
    report::Quantiles,
    rtc::{self, Outcome, Part},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    rtc: rtc::Options,
    /// An FLV file with H.264 and AAC instead of the standard clip; its sound is encoded to Opus first
    #[arg(long)]
    file: Option<PathBuf>,
    /// Put the send time into every nth picture
    #[arg(long, default_value_t = 10)]
    stamp_every: usize,
}

#[derive(Serialize)]
pub(crate) struct Report {
    client: &'static str,
    url: String,
    count: u32,
    /// Got as far as sending media.
    published: u32,
    failed: u32,
    /// The first reason, as an example.
    failure: Option<String>,
    post_ms: Option<Quantiles>,
    /// From the POST until media flows: answer, ICE, DTLS.
    setup_ms: Option<Quantiles>,
    publishes_per_s: Option<f64>,
    frames: u64,
    bytes: u64,
    /// How far behind its schedule the generator itself was.
    late_ms: Option<Quantiles>,
    /// The rest is about the whole life of the publishers.
    packets: u64,
    nacks: u64,
    keyframes_wanted: u64,
    /// Publishers that the server sent receiver reports to, and the packets that are missing by these.
    reported: usize,
    lost: u64,
    disconnected: usize,
    #[serde(flatten)]
    cost: Cost,
}

pub(crate) async fn run(options: Options) -> Result<Report> {
    let media = Arc::new(Media::load(options.file.as_deref(), options.stamp_every)?);
    let make = move |session, _| Publisher::new(session, media.clone());
    let part = Part { direction: Direction::SendOnly, follows: false };
    let outcome = rtc::run(&options.rtc, part, make).await?;
    let load = &options.rtc.load;
    let Outcome { seen, began, post_ms, failure, cost, .. } = outcome;
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum();
    let setup_ms: Vec<_> = seen.iter().filter_map(|seen| seen.connected_ms).collect();
    let published = setup_ms.len() as u32;
    let last = seen.iter().filter_map(|seen| seen.connected_at).max();
    Ok(Report {
        client: "whip",
        url: load.url.clone(),
        count: load.count,
        published,
        failed: load.count - published,
        failure,
        post_ms: Quantiles::of(post_ms),
        setup_ms: Quantiles::of(setup_ms),
        publishes_per_s: last.map(|last| f64::from(published) / (last - began).as_secs_f64().max(1e-3)),
        frames: sum(|seen| seen.frames),
        bytes: sum(|seen| seen.bytes),
        late_ms: Quantiles::of(seen.iter().flat_map(|seen| seen.late_ms.iter().copied()).collect()),
        packets: sum(|seen| seen.packets),
        nacks: sum(|seen| seen.nacks),
        keyframes_wanted: sum(|seen| seen.keyframes_wanted),
        reported: seen.iter().filter(|seen| seen.lost.is_some()).count(),
        lost: sum(|seen| seen.lost.unwrap_or(0)),
        disconnected: seen.iter().filter(|seen| seen.disconnected).count(),
        cost,
    })
}
