//! WHEP viewers: the HTTP side, and what all of them saw together.

mod picture;
mod shard;
mod viewer;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use reqwest::{Client, StatusCode, Url, header};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};

use self::{
    shard::{Phase, Shard},
    viewer::{Offering, Seen, Shared, Viewer},
};
use crate::{
    Load, SETTLE,
    process::{Cost, Probe},
    report::Quantiles,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// Media threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Viewers that join per second; 0: all at once
    #[arg(long, default_value_t = 100)]
    join_rate: u32,
    /// Local address of the viewers; must be one that the server's candidates can be reached from
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
}

#[derive(Serialize)]
pub(crate) struct Report {
    client: &'static str,
    url: String,
    count: u32,
    /// Got an answer and a first packet.
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
    /// Viewers that saw no video for longer than half a second.
    stalled: usize,
    /// From the publisher's send to the kernel's receive, by the stamps in the pictures.
    delay_ms: Option<Quantiles>,
    server_cpu_us_per_packet: Option<f64>,
    #[serde(flatten)]
    cost: Cost,
}

/// How long after its POST the last viewer may need to get its first packet.
const PATIENCE: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_millis(500);

struct Joined {
    viewer: Viewer,
    socket: UdpSocket,
    post_ms: f64,
    resource: Option<Url>,
}

pub(crate) async fn run(options: Options) -> Result<Report> {
    let load = &options.load;
    let mut probe = Probe::new(load.server_pid)?;
    let client = Client::builder().timeout(PATIENCE).build()?;
    let phase = Arc::new(Phase::default());
    let shards = (0..options.threads).map(|_| Shard::start(phase.clone())).collect::<Result<Vec<_>>>()?;

    // Offers are made ahead, so that a burst of joins is not slowed by our own preparations.
    let shared = Shared::new()?;
    let offers = (0..load.count)
        .map(|number| {
            let socket = UdpSocket::bind(SocketAddr::new(options.bind, 0))
                .context("one socket per viewer is needed: raise `ulimit -n`")?;
            socket.set_nonblocking(true)?;
            let offering = Offering::new(&shared, socket.local_addr()?)?;
            Ok((load.url_of(number), offering, socket))
        })
        .collect::<Result<Vec<_>>>()?;

    let began = Instant::now();
    let mut joins = JoinSet::new();
    for (number, (url, offering, socket)) in (0u32..).zip(offers) {
        let delay = Duration::from_secs(number.into()).checked_div(options.join_rate).unwrap_or_default();
        let client = client.clone();
        joins.spawn(async move {
            sleep(delay).await;
            join(&client, &url, offering, socket).await
        });
    }
    let (mut post_ms, mut resources, mut failure) = (Vec::new(), Vec::new(), None);
    while let Some(outcome) = joins.join_next().await {
        match outcome.context("a join panicked")? {
            Ok(joined) => {
                shards[post_ms.len() % shards.len()].add(joined.viewer, joined.socket)?;
                post_ms.push(joined.post_ms);
                resources.extend(joined.resource);
            }
            Err(error) => failure = failure.or(Some(format!("{error:#}"))),
        }
    }
    ensure!(!post_ms.is_empty(), "nobody could join: {}", failure.unwrap_or_default());

    // The server may have answered more than it has connected; a quarter of a millisecond each is ample.
    sleep(SETTLE + Duration::from_micros(250) * load.count).await;
    phase.measuring.store(true, Relaxed);
    probe.begin()?;
    sleep_until((Instant::now() + load.measured()).into()).await;
    let cost = probe.end(load.count)?;
    phase.over.store(true, Relaxed);
    let mut seen = Vec::new();
    for shard in shards {
        seen.extend(shard.join()?);
    }
    leave(&client, resources).await;
    Ok(summarise(load, &seen, post_ms, began, failure, cost))
}

async fn join(client: &Client, url: &str, offering: Offering, socket: UdpSocket) -> Result<Joined> {
    let posted = Instant::now();
    let request = client.post(url).header(header::CONTENT_TYPE, "application/sdp").body(offering.offer.clone());
    let response = request.send().await?;
    let status = response.status();
    let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let resource = location.and_then(|location| Url::parse(url).ok()?.join(location).ok());
    let answer = response.text().await?;
    let answered = Instant::now();
    ensure!(status == StatusCode::CREATED, "{url} answered {status}: {}", answer.lines().next().unwrap_or_default());
    let viewer = offering.accept(&answer, answered)?;
    Ok(Joined { viewer, socket, post_ms: (answered - posted).as_secs_f64() * 1e3, resource })
}

/// Says goodbye, so that the next run does not find our sessions still there.
async fn leave(client: &Client, resources: Vec<Url>) {
    let mut goodbyes = JoinSet::new();
    for resource in resources {
        goodbyes.spawn(client.delete(resource).send());
    }
    // A server without DELETE finds out by itself.
    while goodbyes.join_next().await.is_some() {}
}

fn summarise(
    load: &Load,
    seen: &[Seen],
    post_ms: Vec<f64>,
    began: Instant,
    failure: Option<String>,
    cost: Cost,
) -> Report {
    let quantiles = |of: fn(&Seen) -> Option<f64>| Quantiles::of(seen.iter().filter_map(of).collect());
    let joined = seen.iter().filter(|seen| seen.first_rtp_ms.is_some()).count() as u32;
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
        stalled: seen.iter().filter(|seen| seen.longest_gap > STALL).count(),
        delay_ms: Quantiles::of(seen.iter().flat_map(|seen| seen.delays_ms.iter().copied()).collect()),
        server_cpu_us_per_packet: cost.server.as_ref().and_then(|server| server.cpu_us_per(packets_per_s)),
        cost,
    }
}
