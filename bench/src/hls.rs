//! HLS players without a decoder: reload the playlist, fetch what is new, see how old it is when it is here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use jiff::Timestamp;
use reqwest::{Client, Url};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};

use crate::{
    Load,
    playlist::{Media, Playlist},
    process::{Cost, Probe},
    report::Quantiles,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// Fetch parts and wait for them by blocking reload
    #[arg(long)]
    low_latency: bool,
}

#[derive(Serialize)]
pub(crate) struct Report {
    client: &'static str,
    url: String,
    low_latency: bool,
    count: u32,
    /// Got media.
    playing: u32,
    /// Requests that were not answered as they should.
    errors: u64,
    /// The first of them, as an example.
    error: Option<String>,
    playlists: u64,
    /// Segments, or parts with --low-latency.
    fetched: u64,
    bytes: u64,
    requests_per_s: f64,
    mbit_per_s: f64,
    /// From the first playlist request to the first whole segment or part.
    first_media_ms: Option<Quantiles>,
    playlist_ms: Option<Quantiles>,
    fetch_ms: Option<Quantiles>,
    /// Age of the first picture of a segment (or part) when all of it was here, by PROGRAM-DATE-TIME: the least delay
    /// that a player could show it with.
    behind_live_ms: Option<Quantiles>,
    /// Players that got nothing new for three target durations.
    stalled: u64,
    server_cpu_us_per_request: Option<f64>,
    #[serde(flatten)]
    cost: Cost,
}

/// Players begin spread over this time, and a live stream shows something new within it.
const SPREAD: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(15);
/// After a failed request.
const PAUSE: Duration = Duration::from_millis(500);
const FAILURES_MAX: u32 = 20;

#[derive(Default)]
struct Seen {
    errors: u64,
    error: Option<String>,
    first_media_ms: Option<f64>,
    /// In the measured time, as is all that follows.
    playlists: u64,
    fetched: u64,
    bytes: u64,
    playlist_ms: Vec<f64>,
    fetch_ms: Vec<f64>,
    behind_live_ms: Vec<f64>,
    stalled: bool,
}

pub(crate) async fn run(options: Options) -> Result<Report> {
    let load = &options.load;
    let mut probe = Probe::new(load.server_pid)?;
    let measured_from = Instant::now() + SPREAD + load.settling();
    let until = measured_from + load.measured();
    let measuring = Arc::new(AtomicBool::new(false));
    let mut players = JoinSet::new();
    for number in 0..load.count {
        let player = Player {
            // A client each: players don't share connections.
            client: Client::builder().timeout(PATIENCE).build()?,
            low_latency: options.low_latency,
            until,
            measuring: measuring.clone(),
            began: Instant::now(),
            seen: Seen::default(),
        };
        let (url, delay) = (Url::parse(&load.url_of(number))?, SPREAD * number / load.count);
        players.spawn(async move {
            sleep(delay).await;
            player.play(url).await
        });
    }
    sleep_until(measured_from.into()).await;
    probe.begin()?;
    measuring.store(true, Relaxed);
    sleep_until(until.into()).await;
    let cost = probe.end(load.count)?;
    measuring.store(false, Relaxed);
    Ok(summarise(&options, players.join_all().await, cost))
}

fn summarise(options: &Options, seen: Vec<Seen>, cost: Cost) -> Report {
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let all = |of: fn(&Seen) -> &[f64]| Quantiles::of(seen.iter().flat_map(|seen| of(seen).iter().copied()).collect());
    let (playlists, fetched, bytes) = (sum(|s| s.playlists), sum(|s| s.fetched), sum(|s| s.bytes));
    let requests_per_s = (playlists + fetched) as f64 / cost.seconds;
    Report {
        client: "hls",
        url: options.load.url.clone(),
        low_latency: options.low_latency,
        count: options.load.count,
        playing: sum(|s| s.first_media_ms.is_some().into()) as u32,
        errors: sum(|s| s.errors),
        error: seen.iter().find_map(|seen| seen.error.clone()),
        playlists,
        fetched,
        bytes,
        requests_per_s,
        mbit_per_s: bytes as f64 * 8e-6 / cost.seconds,
        first_media_ms: all(|s| s.first_media_ms.as_slice()),
        playlist_ms: all(|s| &s.playlist_ms),
        fetch_ms: all(|s| &s.fetch_ms),
        behind_live_ms: all(|s| &s.behind_live_ms),
        stalled: sum(|s| s.stalled.into()),
        server_cpu_us_per_request: cost.server.as_ref().and_then(|server| server.cpu_us_per(requests_per_s)),
        cost,
    }
}

struct Player {
    client: Client,
    low_latency: bool,
    until: Instant,
    measuring: Arc<AtomicBool>,
    began: Instant,
    seen: Seen,
}

/// How far a player has got: everything before this segment and part has been fetched.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    segment: u64,
    part: usize,
}

impl Player {
    async fn play(mut self, url: Url) -> Seen {
        self.began = Instant::now();
        let mut failures = 0;
        while let Err(error) = self.follow(&url).await {
            self.seen.errors += 1;
            self.seen.error.get_or_insert(format!("{error:#}"));
            failures += 1;
            if failures >= FAILURES_MAX || Instant::now() + PAUSE >= self.until {
                break;
            }
            sleep(PAUSE).await;
        }
        self.seen
    }

    /// Follows the stream until the time is over.
    async fn follow(&mut self, url: &Url) -> Result<()> {
        let mut url = url.clone();
        let first = match self.playlist(&url).await? {
            Playlist::Media(media) => media,
            Playlist::Variants { video, .. } => {
                url = url.join(&video)?;
                match self.playlist(&url).await? {
                    Playlist::Media(media) => media,
                    Playlist::Variants { .. } => bail!("a variant of a variant"),
                }
            }
        };
        if let Some(map) = &first.map {
            self.get(&url.join(map)?).await?;
        }
        let mut place = self.start(&first);
        let mut media = first;
        let mut news = Instant::now();
        while Instant::now() < self.until {
            ensure!(!media.ended, "the stream has ended");
            let before = place;
            self.fetch_new(&url, &media, &mut place).await?;
            if place != before {
                news = Instant::now();
            }
            self.seen.stalled |= self.measuring.load(Relaxed) && news.elapsed() > 3 * media.target;
            let mut reload = url.clone();
            if self.low_latency && media.can_block {
                let (segment, part) = (place.segment.to_string(), place.part.to_string());
                reload.query_pairs_mut().append_pair("_HLS_msn", &segment).append_pair("_HLS_part", &part);
            } else {
                // 6.3.4: a target duration after a change, half of it otherwise.
                let pause = if place == before { media.target / 2 } else { media.target };
                let pause = pause.max(Duration::from_millis(100));
                sleep_until((Instant::now() + pause).min(self.until).into()).await;
            }
            if Instant::now() >= self.until {
                break;
            }
            let Playlist::Media(reloaded) = self.playlist(&reload).await? else { bail!("no media playlist any more") };
            media = reloaded;
        }
        Ok(())
    }

    /// The newest segment with an address; with low latency the newest segment at all.
    fn start(&self, media: &Media) -> Place {
        let newest = media.segments.iter().rposition(|segment| self.low_latency || segment.uri.is_some());
        Place { segment: media.first + newest.unwrap_or(0) as u64, part: 0 }
    }

    async fn fetch_new(&mut self, url: &Url, media: &Media, place: &mut Place) -> Result<()> {
        if place.segment < media.first {
            *place = self.start(media);
        }
        for (number, segment) in (media.first..).zip(&media.segments) {
            if number < place.segment {
                continue;
            }
            if self.low_latency && !segment.parts.is_empty() {
                for (index, part) in segment.parts.iter().enumerate() {
                    if number > place.segment || index >= place.part {
                        self.fetch(&url.join(&part.uri)?, segment.part_begins(index)).await?;
                        *place = Place { segment: number, part: index + 1 };
                    }
                }
            } else if let Some(uri) = &segment.uri {
                self.fetch(&url.join(uri)?, segment.begins).await?;
            }
            if segment.uri.is_some() {
                *place = Place { segment: number + 1, part: 0 };
            }
        }
        Ok(())
    }

    async fn playlist(&mut self, url: &Url) -> Result<Playlist> {
        let asked = Instant::now();
        let body = self.get(url).await?;
        if self.measuring.load(Relaxed) {
            self.seen.playlists += 1;
            self.seen.playlist_ms.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        let text = std::str::from_utf8(&body).context("the playlist is no text")?;
        Playlist::parse(text).with_context(|| format!("{url} is no playlist"))
    }

    async fn fetch(&mut self, url: &Url, begins: Option<Timestamp>) -> Result<()> {
        let asked = Instant::now();
        let body = self.get(url).await?;
        ensure!(!body.is_empty(), "{url} is empty");
        self.seen.first_media_ms.get_or_insert(self.began.elapsed().as_secs_f64() * 1e3);
        if self.measuring.load(Relaxed) {
            self.seen.fetched += 1;
            self.seen.bytes += body.len() as u64;
            self.seen.fetch_ms.push(asked.elapsed().as_secs_f64() * 1e3);
            let age = begins.map(|begins| Timestamp::now().duration_since(begins));
            self.seen.behind_live_ms.extend(age.map(|age| age.as_secs_f64() * 1e3));
        }
        Ok(())
    }

    async fn get(&self, url: &Url) -> Result<bytes::Bytes> {
        let response = self.client.get(url.clone()).send().await?;
        let status = response.status();
        ensure!(status.is_success(), "{url} answered {status}");
        Ok(response.bytes().await?)
    }
}
