//! What WHEP viewers and WHIP publishers share: an offer posted over HTTP, a session behind the answer, threads that
//! drive many of them, and the order of a run.
//!
//! In: how a peer is made of its session. Out: what each peer saw, and what the server spent meanwhile.

mod shard;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use reqwest::{Client, StatusCode, Url, header};
use str0m::{
    Candidate, Input, Rtc, RtcConfig,
    change::{SdpAnswer, SdpPendingOffer},
    config::{CryptoProvider, DtlsCert},
    media::{Direction, MediaKind, Mid},
    net::{Protocol, Receive},
};
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};

use self::shard::{Phase, Shard};
use crate::{
    Load,
    process::{Cost, Probe},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Media threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// How many join per second; 0: all at once
    #[arg(long, default_value_t = 100)]
    join_rate: u32,
    /// Local address of the clients; must be one that the server's candidates can be reached from
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
}

/// How long after its POST the last client may need to be connected.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes datagrams that are to be sent.
pub(crate) type Send<'a> = &'a mut dyn FnMut(SocketAddr, &[u8]);

/// A datagram's place in time: when it was handed over, and when the kernel got it by the wall clock.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) now: Instant,
    pub(crate) wall_us: u64,
    pub(crate) measuring: bool,
}

/// One client. The socket belongs to the shard.
pub(crate) trait Peer: std::marker::Send + 'static {
    /// What it has to tell at the end.
    type Seen: std::marker::Send + 'static;

    /// When it wants to be woken.
    fn wake_at(&self) -> Instant;
    fn wake(&mut self, arrival: Arrival, send: Send<'_>) -> Result<()>;
    fn receive(&mut self, from: SocketAddr, datagram: &[u8], arrival: Arrival, send: Send<'_>) -> Result<()>;
    fn finish(self, now: Instant) -> Self::Seen;
}

pub(crate) fn received<'a>(
    from: SocketAddr,
    local: SocketAddr,
    datagram: &'a [u8],
    arrival: Arrival,
) -> Result<Input<'a>> {
    Ok(Input::Receive(arrival.now, Receive::new(Protocol::Udp, from, local, datagram)?))
}

/// What all clients of this process share: a certificate for each would cost more than the rest of the join.
pub(crate) struct Shared {
    provider: Arc<CryptoProvider>,
    certificate: DtlsCert,
}

impl Shared {
    pub(crate) fn new() -> Result<Self> {
        let provider = Arc::new(str0m::crypto::from_feature_flags());
        let certificate = provider.dtls_provider.generate_certificate().context("no DTLS certificate")?;
        Ok(Self { provider, certificate })
    }
}

/// A client that has made its offer: one video and one audio track, H.264 and Opus.
pub(crate) struct Offering {
    rtc: Rtc,
    pending: SdpPendingOffer,
    video: Mid,
    audio: Mid,
    local: SocketAddr,
    pub(crate) offer: String,
}

/// A client that was answered.
pub(crate) struct Session {
    pub(crate) rtc: Rtc,
    pub(crate) video: Mid,
    pub(crate) audio: Mid,
    pub(crate) local: SocketAddr,
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
}

impl Offering {
    /// Who receives wants to see packets, who sends hands over whole frames.
    pub(crate) fn new(shared: &Shared, local: SocketAddr, direction: Direction) -> Result<Self> {
        let config = RtcConfig::new()
            .set_crypto_provider(shared.provider.clone())
            .set_dtls_cert(shared.certificate.clone())
            .clear_codecs()
            .enable_h264(true)
            .enable_opus(true, false)
            .set_rtp_mode(direction == Direction::RecvOnly)
            .set_stats_interval(Some(Duration::from_secs(1)));
        let mut rtc = config.build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp")?);
        let mut changes = rtc.sdp_api();
        let video = changes.add_media(MediaKind::Video, direction, None, None, None);
        let audio = changes.add_media(MediaKind::Audio, direction, None, None, None);
        let (offer, pending) = changes.apply().context("an offer without changes")?;
        Ok(Self { rtc, pending, video, audio, local, offer: offer.to_sdp_string() })
    }

    pub(crate) fn accept(self, answer: &str, asked: Instant, answered: Instant) -> Result<Session> {
        let Self { mut rtc, pending, video, audio, local, .. } = self;
        let answer = SdpAnswer::from_sdp_string(answer).context("the answer is no SDP")?;
        rtc.sdp_api().accept_answer(pending, answer).context("the answer does not fit the offer")?;
        Ok(Session { rtc, video, audio, local, asked, answered })
    }
}

/// What came of a run.
pub(crate) struct Outcome<S> {
    pub(crate) seen: Vec<S>,
    /// When the first offer was posted.
    pub(crate) began: Instant,
    pub(crate) post_ms: Vec<f64>,
    /// The first reason why a client could not join, as an example.
    pub(crate) failure: Option<String>,
    pub(crate) cost: Cost,
}

struct Joined<P> {
    peer: P,
    socket: UdpSocket,
    post_ms: f64,
    resource: Option<Url>,
}

pub(crate) async fn run<P: Peer>(
    options: &Options,
    direction: Direction,
    make: impl Fn(Session) -> Result<P> + Clone + std::marker::Send + 'static,
) -> Result<Outcome<P::Seen>> {
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
                .context("one socket per client is needed: raise `ulimit -n`")?;
            socket.set_nonblocking(true)?;
            let offering = Offering::new(&shared, socket.local_addr()?, direction)?;
            Ok((load.url_of(number), offering, socket))
        })
        .collect::<Result<Vec<_>>>()?;

    let began = Instant::now();
    let mut joins = JoinSet::new();
    for (number, (url, offering, socket)) in (0u32..).zip(offers) {
        let delay = Duration::from_secs(number.into()).checked_div(options.join_rate).unwrap_or_default();
        let (client, make) = (client.clone(), make.clone());
        joins.spawn(async move {
            sleep(delay).await;
            join(&client, &url, offering, socket, make).await
        });
    }
    let (mut post_ms, mut resources, mut failure) = (Vec::new(), Vec::new(), None);
    while let Some(outcome) = joins.join_next().await {
        match outcome.context("a join panicked")? {
            Ok(joined) => {
                shards[post_ms.len() % shards.len()].add(joined.peer, joined.socket)?;
                post_ms.push(joined.post_ms);
                resources.extend(joined.resource);
            }
            Err(error) => failure = failure.or(Some(format!("{error:#}"))),
        }
    }
    ensure!(!post_ms.is_empty(), "nobody could join: {}", failure.unwrap_or_default());

    // The server may have answered more than it has connected; a quarter of a millisecond each is ample.
    sleep(load.settling() + Duration::from_micros(250) * load.count).await;
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
    Ok(Outcome { seen, began, post_ms, failure, cost })
}

async fn join<P>(
    client: &Client,
    url: &str,
    offering: Offering,
    socket: UdpSocket,
    make: impl Fn(Session) -> Result<P>,
) -> Result<Joined<P>> {
    let asked = Instant::now();
    let request = client.post(url).header(header::CONTENT_TYPE, "application/sdp").body(offering.offer.clone());
    let response = request.send().await?;
    let status = response.status();
    let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let resource = location.and_then(|location| Url::parse(url).ok()?.join(location).ok());
    let answer = response.text().await?;
    let answered = Instant::now();
    ensure!(status == StatusCode::CREATED, "{url} answered {status}: {}", answer.lines().next().unwrap_or_default());
    let peer = make(offering.accept(&answer, asked, answered)?)?;
    Ok(Joined { peer, socket, post_ms: (answered - asked).as_secs_f64() * 1e3, resource })
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
