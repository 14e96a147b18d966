//! What WHEP viewers and WHIP publishers share: an offer posted over HTTP, a session behind the answer, threads that
//! drive many of them, and the order of a run.
//!
//! In: how a peer is made of its session. Out: what each peer saw, and what the server spent meanwhile.

mod shard;

use std::{
    collections::HashMap,
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
    sync::mpsc,
    task::JoinSet,
    time::{sleep, sleep_until},
};

use self::shard::{Phase, Shard};
use crate::{
    Load,
    process::{Cost, Probe},
};

#[derive(Args, Clone, Debug)]
#[group(skip)]
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
/// After a refusal, as players wait: the balancer before the nodes may not have noticed yet which of them leaves.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Takes datagrams that are to be sent.
pub(crate) type Send<'a> = &'a mut dyn FnMut(SocketAddr, &[u8]);

/// A datagram's place in time: when it was handed over, and when the kernel got it by the wall clock.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) now: Instant,
    pub(crate) wall_us: u64,
    pub(crate) measuring: bool,
}

/// On this data channel the server says that it is about to leave.
const CONTROL: &str = "headwater/control";

/// What a client is, as its offer tells.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) direction: Direction,
    /// Hears when the server wants it to go elsewhere.
    pub(crate) follows: bool,
}

/// What a session tells the run while it lasts.
pub(crate) enum News<L> {
    /// The server wants it to go. Whoever follows it gets this.
    Leaves(L),
    /// There is a picture: the session before it is no longer needed.
    Arrived,
}

/// One session of a client. The socket belongs to the shard.
pub(crate) trait Peer: std::marker::Send + 'static {
    /// What it has to tell at the end.
    type Seen: std::marker::Send + 'static;
    /// What the next session of the same client goes on with.
    type Legacy: Clone + std::marker::Send + 'static;

    fn news(&mut self) -> Option<News<Self::Legacy>> {
        None
    }

    /// When it wants to be woken.
    fn wake_at(&self) -> Instant;
    fn wake(&mut self, arrival: Arrival, send: Send<'_>) -> Result<()>;
    fn receive(&mut self, from: SocketAddr, datagram: &[u8], arrival: Arrival, send: Send<'_>) -> Result<()>;
    fn finish(self, wall_us: u64) -> Self::Seen;
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
    pub(crate) fn new(shared: &Shared, local: SocketAddr, part: Part) -> Result<Self> {
        let Part { direction, follows } = part;
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
        if follows {
            changes.add_channel(CONTROL.to_owned());
        }
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
    /// How many sessions followed others.
    pub(crate) moved: u32,
    /// The first reason why a client could not join, as an example.
    pub(crate) failure: Option<String>,
    pub(crate) cost: Cost,
}

struct Joined<P> {
    client: u32,
    peer: P,
    socket: UdpSocket,
    post_ms: f64,
    resource: Option<Url>,
}

/// A client whose offer is about to be posted.
struct Joining {
    client: u32,
    url: String,
    offering: Offering,
    socket: UdpSocket,
}

impl Joining {
    fn new(options: &Options, shared: &Shared, part: Part, client: u32) -> Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(options.bind, 0))
            .context("one socket per client is needed: raise `ulimit -n`")?;
        socket.set_nonblocking(true)?;
        let offering = Offering::new(shared, socket.local_addr()?, part)?;
        Ok(Self { client, url: options.load.url_of(client), offering, socket })
    }

    async fn join<P>(self, http: &Client, make: impl FnOnce(Session) -> Result<P>) -> Result<Joined<P>> {
        let Self { client, url, offering, socket } = self;
        let asked = Instant::now();
        let request = http.post(&url).header(header::CONTENT_TYPE, "application/sdp").body(offering.offer.clone());
        let response = request.send().await?;
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
        let resource = location.and_then(|location| Url::parse(&url).ok()?.join(location).ok());
        let answer = response.text().await?;
        let answered = Instant::now();
        let reason = answer.lines().next().unwrap_or_default();
        ensure!(status == StatusCode::CREATED, "{url} answered {status}: {reason}");
        let peer = make(offering.accept(&answer, asked, answered)?)?;
        Ok(Joined { client, peer, socket, post_ms: (answered - asked).as_secs_f64() * 1e3, resource })
    }
}

pub(crate) async fn run<P: Peer>(
    options: &Options,
    part: Part,
    make: impl Fn(Session, Option<P::Legacy>) -> Result<P> + Clone + std::marker::Send + 'static,
) -> Result<Outcome<P::Seen>> {
    let load = &options.load;
    let mut probe = Probe::new(load.server_pid)?;
    let http = Client::builder().timeout(PATIENCE).build()?;
    let phase = Arc::new(Phase::default());
    let (teller, mut told) = mpsc::unbounded_channel();
    let start = |_| Shard::start(phase.clone(), teller.clone());
    let shards = (0..options.threads).map(start).collect::<Result<Vec<_>>>()?;
    let shard_of = |client: u32| &shards[client as usize % shards.len()];

    // Offers are made ahead, so that a burst of joins is not slowed by our own preparations.
    let shared = Arc::new(Shared::new()?);
    let offers =
        (0..load.count).map(|client| Joining::new(options, &shared, part, client)).collect::<Result<Vec<_>>>()?;

    let began = Instant::now();
    let mut joins = JoinSet::new();
    for joining in offers {
        let delay = Duration::from_secs(joining.client.into()).checked_div(options.join_rate).unwrap_or_default();
        let (http, make) = (http.clone(), make.clone());
        joins.spawn(async move {
            sleep(delay).await;
            joining.join(&http, move |session| make(session, None)).await
        });
    }
    let (mut post_ms, mut failure) = (Vec::new(), None);
    // Of each client, the newest last.
    let mut resources: HashMap<u32, Vec<Url>> = HashMap::new();
    while let Some(outcome) = joins.join_next().await {
        match outcome.context("a join panicked")? {
            Ok(joined) => {
                shard_of(joined.client).add(joined.client, joined.peer, joined.socket)?;
                post_ms.push(joined.post_ms);
                resources.entry(joined.client).or_default().extend(joined.resource);
            }
            Err(error) => failure = failure.or(Some(format!("{error:#}"))),
        }
    }
    ensure!(!post_ms.is_empty(), "nobody could join: {}", failure.unwrap_or_default());

    // The server may have answered more than it has connected; a quarter of a millisecond each is ample.
    sleep(load.settling() + Duration::from_micros(250) * load.count).await;
    phase.measuring.store(true, Relaxed);
    probe.begin()?;
    eprintln!("measuring {} clients for {} s", post_ms.len(), load.seconds);
    let end = (Instant::now() + load.measured()).into();
    let mut goodbyes = JoinSet::new();
    let mut moved = 0;
    loop {
        tokio::select! {
            () = sleep_until(end) => break,
            Some((client, news)) = told.recv() => match news {
                News::Leaves(legacy) => {
                    let (options, shared, http, make) = (options.clone(), shared.clone(), http.clone(), make.clone());
                    joins.spawn(async move {
                        loop {
                            let joining = Joining::new(&options, &shared, part, client)?;
                            let (make, legacy) = (make.clone(), Some(legacy.clone()));
                            let joined = joining.join(&http, move |session| make(session, legacy)).await;
                            if joined.is_ok() {
                                return joined;
                            }
                            sleep(AGAIN_AFTER).await;
                        }
                    });
                }
                News::Arrived => {
                    let old = resources.get_mut(&client).and_then(|all| (all.len() > 1).then(|| all.remove(0)));
                    if let Some(old) = old {
                        goodbyes.spawn(http.delete(old).send());
                    }
                }
            },
            Some(outcome) = joins.join_next() => match outcome.context("a join panicked")? {
                Ok(joined) => {
                    moved += 1;
                    shard_of(joined.client).add(joined.client, joined.peer, joined.socket)?;
                    resources.entry(joined.client).or_default().extend(joined.resource);
                }
                Err(error) => failure = failure.or(Some(format!("{error:#}"))),
            },
            Some(_) = goodbyes.join_next() => {}
        }
    }
    let cost = probe.end(load.count)?;
    phase.over.store(true, Relaxed);
    let mut seen = Vec::new();
    for shard in shards {
        seen.extend(shard.join()?);
    }
    leave(&http, resources.into_values().flatten()).await;
    Ok(Outcome { seen, began, post_ms, moved, failure, cost })
}

/// Says goodbye, so that the next run does not find our sessions still there.
async fn leave(client: &Client, resources: impl Iterator<Item = Url>) {
    let mut goodbyes = JoinSet::new();
    for resource in resources {
        goodbyes.spawn(client.delete(resource).send());
    }
    // A server without DELETE finds out by itself.
    while goodbyes.join_next().await.is_some() {}
}
