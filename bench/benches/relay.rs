//! What it costs to carry media from one node to others: an origin and two edges in this process, each on a thread of its own,
//! with real connections over loopback. In: `cargo bench -p headwater-bench --bench relay [SECONDS] [plain|tls]`. Out: for plain
//! connections and for those with mutual TLS, as nodes use it, the CPU of either side per Gbit/s and how much later a reader
//! on an edge has a frame than the origin's hall. Deliberately absent: viewers and publishers, which have figures of their
//! own.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use axum::http::Uri;
use bytes::Bytes;
use futures_util::stream::unfold;
use headwater_common::{
    cluster::{Route, Upstream, seal, tls::Credentials},
    config::Layers,
    finder::Finder,
    live::{BroadcastId, Claim, Hub, Publisher, Start, Takeover, Writer},
    media::{Codec, Info, Kind, Sample, Shape},
    node::Node,
    relay::{
        Serve,
        transport::{self, Caller},
    },
    rtc::{Engine, Settings},
    telemetry::Telemetry,
};
use headwater_edge::source::{Find, Source};
use hyper_util::rt::TokioIo;
use mimalloc::MiMalloc;
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tonic::transport::{Endpoint, Server};
use tower::service_fn;

/// As the program has it.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

const BROADCASTS: usize = 100;
const EDGES: usize = 2;
/// All broadcasts are wanted on all edges, but who looks at each frame there is a viewer, whose cost is not the relay's: so
/// the delay is read off one in so many.
const LOOKED_AT_EACH: usize = 10;
const PICTURES_PER_S: u64 = 30;
/// 2.5 Mbit/s, a keyframe every two seconds.
const KEYFRAME_BYTES: usize = 70_000;
const PICTURE_BYTES: usize = 9_200;
const SOUND_BYTES: usize = 340;
/// Of plain connections, so that they look into the kernel as seldom as the others.
const READ_BYTES: usize = 128 << 10;
/// Until the latest media of all broadcasts fill the memory of every node: from then on it is used again.
const JOINING: Duration = Duration::from_secs(15);

fn main() {
    // Cargo's own arguments begin with dashes.
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let measured = Duration::from_secs(given.iter().find_map(|argument| argument.parse().ok()).unwrap_or(10));
    let only = given.iter().find(|argument| argument.parse::<u64>().is_err());
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first one");
    // Part of the threads' names, of which the system keeps 15 letters.
    let ways = [("plain", Way(None)), ("tls", Way(Some(credentials())))];
    let known = |only: &String| ways.iter().any(|(label, _)| label == only);
    assert!(only.is_none_or(known), "there is plain and tls, not {only:?}");
    for (label, way) in &ways {
        if only.is_none_or(|only| only == label) {
            run(label, way.clone(), measured);
        }
    }
}

/// What is beneath HTTP/2.
#[derive(Clone)]
struct Way(Option<Credentials>);

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Wired = Box<dyn Wire>;

fn credentials() -> Credentials {
    let layers = Layers::defaults().expect("the defaults").with(&["cluster", "secret"], "s".repeat(32));
    Credentials::load(&layers.build().expect("settings").cluster).expect("credentials")
}

impl Way {
    async fn accepted(&self, stream: TcpStream) -> io::Result<Caller<Wired>> {
        let socket = transport::socket(stream)?;
        Ok(Caller(match &self.0 {
            Some(credentials) => Box::new(seal::accept(credentials.server(), socket).await?),
            None => Box::new(BufReader::with_capacity(READ_BYTES, socket)),
        }))
    }

    async fn connected(self, address: SocketAddr) -> io::Result<TokioIo<Wired>> {
        let socket = transport::socket(TcpStream::connect(address).await?)?;
        Ok(TokioIo::new(match &self.0 {
            Some(credentials) => Box::new(seal::dial(credentials.client(), socket).await?),
            None => Box::new(BufReader::with_capacity(READ_BYTES, socket)),
        }))
    }
}

fn run(label: &str, way: Way, measured: Duration) {
    let began = Instant::now();
    let hub = Hub::new();
    let (stop, stopped) = watch::channel(false);
    let address = serve(&format!("origin {label}"), hub.clone(), way.clone(), stopped.clone());
    let cameras: Vec<Writer> = (0..BROADCASTS).map(|number| claim(&hub, number)).collect();
    let films = stopped.clone();
    let camera = thread::Builder::new().name("camera".into()).spawn(move || film(cameras, began, &films));
    let camera = camera.expect("a thread");
    let delays: Arc<Mutex<Option<Vec<u64>>>> = Arc::default();
    for edge in 0..EDGES {
        watch_all(&format!("edge-{edge} {label}"), address, way.clone(), began, delays.clone(), stopped.clone());
    }
    thread::sleep(JOINING);
    let bytes = || hub.list().iter().flat_map(|b| b.tracks()).map(|track| track.stats().bytes).sum::<u64>();
    let (cpu, sent) = (cpu_ns(), bytes());
    *delays.lock().expect("no panic") = Some(Vec::new());
    thread::sleep(measured);
    let (cpu_after, sent_after) = (cpu_ns(), bytes());
    let mut delays = delays.lock().expect("no panic").take().unwrap_or_default();
    stop.send_replace(true);
    camera.join().expect("a camera");

    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize] as f64 / 1e6;
    let gbits_per_s = (sent_after - sent) as f64 * EDGES as f64 * 8.0 / measured.as_nanos() as f64;
    let share = |name: &str| {
        let spent = |cpu: &BTreeMap<String, u64>| cpu.get(name).copied().unwrap_or_default();
        (spent(&cpu_after) - spent(&cpu)) as f64 / measured.as_nanos() as f64 * 100.0
    };
    let edge: f64 = (0..EDGES).map(|edge| share(&format!("edge-{edge} {label}"))).sum();
    println!(
        "{label}: {BROADCASTS} broadcasts × {EDGES} edges, {gbits_per_s:.3} Gbit/s, {} frames looked at; CPU percent of a core per Gbit/s: \
         origin {:.1}, edges {:.1}; delay ms p50 {:.2} p95 {:.2} p99 {:.2} max {:.2}",
        delays.len(),
        share(&format!("origin {label}")) / gbits_per_s,
        edge / gbits_per_s,
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0)
    );
}

fn engine() -> Engine {
    let settings = Settings { listen: ([127, 0, 0, 1], 0).into(), shards: 1, ..Default::default() };
    Engine::start(settings, &Telemetry::new()).expect("an engine")
}

/// Returns where it listens.
fn serve(name: &str, hub: Arc<Hub>, way: Way, stopped: watch::Receiver<bool>) -> SocketAddr {
    let (tell, address) = mpsc::channel();
    on_thread(name, stopped, async move {
        let serve = Serve::new(Finder::hub(hub), engine(), Node::starting(), "origin", &Telemetry::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        tell.send(listener.local_addr().expect("an address")).expect("somebody waits");
        let callers = unfold((listener, way), |(listener, way)| async move {
            let (stream, _) = listener.accept().await.expect("a caller");
            Some((way.accepted(stream).await, (listener, way)))
        });
        let router = transport::server(Server::builder()).add_service(transport::service(serve));
        router.serve_with_incoming(callers).await.expect("it serves");
    });
    address.recv().expect("an address")
}

fn id(number: usize) -> BroadcastId {
    BroadcastId::new("live", &format!("camera-{number}")).expect("a name")
}

fn claim(hub: &Hub, number: usize) -> Writer {
    let publisher = Publisher { protocol: "bench", remote: String::new(), agent: String::new() };
    let claim = Claim { epoch: 1, next_gop: 0, discontinuity: 0, born_us: 0, segment_target_s: None, publisher };
    let mut writer = hub.claim(&id(number), claim, Takeover::Replace, 0).expect("nobody has it");
    let picture = Shape::Video { width: 1280, height: 720, reorders: false };
    writer.announce(Info { codec: Codec::H264, config: Bytes::from_static(b"\x01"), shape: picture }).expect("ours");
    let sound = Shape::Audio { sample_rate: 48_000, channels: 2 };
    writer.announce(Info { codec: Codec::Opus, config: Bytes::new(), shape: sound }).expect("ours");
    writer
}

/// Each camera in its own moment of a picture's time. Frames carry when they were written.
fn film(mut cameras: Vec<Writer>, began: Instant, stopped: &watch::Receiver<bool>) {
    let step = Duration::from_secs(1) / (PICTURES_PER_S as u32 * cameras.len() as u32);
    let start = Instant::now();
    for tick in 0.. {
        if *stopped.borrow() {
            return;
        }
        thread::sleep((start + step * tick).saturating_duration_since(Instant::now()));
        let (number, picture) = (tick as usize % cameras.len(), u64::from(tick) / cameras.len() as u64);
        let dts_us = (picture * 1_000_000 / PICTURES_PER_S) as i64;
        // All at once would be a burst that no hundred publishers make.
        let keyframe = (picture + number as u64).is_multiple_of(2 * PICTURES_PER_S);
        for (kind, keyframe, bytes) in [
            (Kind::Video, keyframe, if keyframe { KEYFRAME_BYTES } else { PICTURE_BYTES }),
            (Kind::Audio, true, SOUND_BYTES),
        ] {
            let mut payload = vec![0; bytes];
            payload[..8].copy_from_slice(&(began.elapsed().as_nanos() as u64).to_be_bytes());
            let sample = Sample { dts_us, pts_us: dts_us, keyframe, payload: payload.into() };
            cameras[number].write(kind, sample, began.elapsed().as_micros() as i64).expect("ours");
        }
    }
}

/// An edge on which everything is wanted.
fn watch_all(
    name: &str,
    address: SocketAddr,
    way: Way,
    began: Instant,
    delays: Arc<Mutex<Option<Vec<u64>>>>,
    stopped: watch::Receiver<bool>,
) {
    let name = name.to_owned();
    on_thread(&name.clone(), stopped, async move {
        let endpoint = transport::endpoint(Endpoint::from_static("http://node"));
        let dial = move || {
            let way = way.clone();
            endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| way.clone().connected(address)))
        };
        let route = Route::new(dial);
        let (_keep, upstream) = watch::channel(Some(Upstream { node: "origin".into(), epoch: 1, route }));
        let find: Find = Arc::new(move |_| upstream.clone());
        let source = Source::start(Hub::new(), engine(), name.as_str().into(), find, &Telemetry::new());
        for number in 0..BROADCASTS {
            let (source, delays) = (source.clone(), delays.clone());
            tokio::spawn(async move {
                let broadcast = source.find(&id(number)).await.expect("it is there");
                for kind in [Kind::Video, Kind::Audio] {
                    let mut reader = broadcast.source(kind).expect("a track").read(Start::Oldest);
                    let delays = delays.clone();
                    tokio::spawn(async move {
                        if number % LOOKED_AT_EACH > 0 {
                            std::future::pending::<()>().await;
                        }
                        while let Some(frame) = reader.next().await {
                            let written = frame.payload.first_chunk::<8>().map(|at| u64::from_be_bytes(*at));
                            let delay = began.elapsed().as_nanos() as u64 - written.unwrap_or_default();
                            if let Some(delays) = &mut *delays.lock().expect("no panic") {
                                delays.push(delay);
                            }
                        }
                    });
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

fn on_thread(name: &str, mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()> + Send + 'static) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            tokio::select! {
                () = work => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread");
}

/// What each thread has spent so far.
fn cpu_ns() -> BTreeMap<String, u64> {
    let threads = fs::read_dir("/proc/self/task").expect("threads").filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = fs::read_to_string(path.join("comm")).ok()?.trim().to_owned();
        let spent = fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()?;
        Some((name, spent))
    });
    threads.fold(BTreeMap::new(), |mut all, (name, spent): (String, u64)| {
        *all.entry(name).or_default() += spent;
        all
    })
}
