//! What the tests play on: origins with a camera, edges with a directory of where things live.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use bytes::Bytes;
use headwater_common::{
    cluster::{Route, Upstream},
    finder::Finder,
    live::{Broadcast, BroadcastId, Claim, Hub, Publisher, Reader, Start, Takeover, Writer},
    media::{Codec, Frame, Info, Kind, Sample, Shape},
    node::Node,
    relay::{Serve, transport},
    rtc::{Engine, Settings},
    telemetry::Telemetry,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tonic::transport::{Endpoint, Server, server::TcpIncoming};
use tower::ServiceExt;

use super::super::{Find, Source};
use crate::hls::{self, Hls};

pub(super) const BORN_US: i64 = 1_763_690_000_000_000;
pub(super) const GOP_US: i64 = 2_000_000;
/// Nothing takes so long, however busy the machine is.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn id() -> BroadcastId {
    BroadcastId::new("live", "cam").unwrap()
}

pub(super) fn video_info() -> Info {
    let config = Bytes::from_static(
        b"\x01\x42\xc0\x1e\xff\xe1\x00\x17\x67\x42\xc0\x1e\xd9\x00\xa0\x47\xfe\xc8\x00\x00\x00\x01\x00\x00\x03\x00\x3c\x8f\x16\x2e\x48\x01\x00\x04\x68\xcb\x83\xcb",
    );
    Info { codec: Codec::H264, config, shape: Shape::Video { width: 640, height: 360, reorders: false } }
}

pub(super) fn audio_info() -> Info {
    let shape = Shape::Audio { sample_rate: 48_000, channels: 2 };
    Info { codec: Codec::Aac, config: Bytes::from_static(&[0x11, 0x90]), shape }
}

pub(super) fn engine() -> Engine {
    let settings = Settings { listen: "127.0.0.1:0".parse().unwrap(), shards: 1, ..Default::default() };
    Engine::start(settings, &Telemetry::new()).unwrap()
}

/// Serves gRPC until it is dropped.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    pub(super) route: Route,
    task: JoinHandle<()>,
}

impl Served {
    pub(super) async fn new(router: impl FnOnce(Server) -> tonic::transport::server::Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router(transport::server(Server::builder()));
        let task = tokio::spawn(async move {
            router.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await.unwrap()
        });
        let endpoint = transport::endpoint(endpoint(address));
        Self { address, route: Route::new(move || endpoint.connect_lazy()), task }
    }
}

/// Without TLS.
pub(super) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).unwrap()
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A node that others can pull from.
pub(super) struct Origin {
    pub(super) name: &'static str,
    pub(super) hub: Arc<Hub>,
    pub(super) engine: Engine,
    pub(super) node: Node,
    pub(super) served: Served,
    pub(super) telemetry: Telemetry,
}

impl Origin {
    pub(super) async fn new(name: &'static str) -> Self {
        let hub = Hub::new();
        Self::serving(name, hub.clone(), Finder::hub(hub), engine()).await
    }

    pub(super) async fn serving(name: &'static str, hub: Arc<Hub>, finder: Finder, engine: Engine) -> Self {
        let (node, telemetry) = (Node::starting(), Telemetry::new());
        let serve = Serve::new(finder, engine.clone(), node.clone(), name, &telemetry);
        let served = Served::new(|mut server| server.add_service(transport::service(serve))).await;
        Self { name, hub, engine, node, served, telemetry }
    }

    pub(super) fn upstream(&self, epoch: u64) -> Upstream {
        Upstream { node: self.name.into(), epoch, route: self.served.route.clone() }
    }

    pub(super) fn camera(&self, epoch: u64, next_gop: u64, discontinuity: u64) -> Camera {
        self.camera_of(&id(), epoch, next_gop, discontinuity)
    }

    pub(super) fn camera_of(&self, id: &BroadcastId, epoch: u64, next_gop: u64, discontinuity: u64) -> Camera {
        let publisher = Publisher { protocol: "rtmp", remote: "1.2.3.4:5".into(), agent: "camera".into() };
        let claim = Claim { epoch, next_gop, discontinuity, born_us: BORN_US, segment_target_s: None, publisher };
        let mut writer = self.hub.claim(id, claim, Takeover::Replace, BORN_US).unwrap();
        writer.announce(video_info()).unwrap();
        writer.announce(audio_info()).unwrap();
        Camera { writer, clock_us: 0, at_us: 0 }
    }
}

/// 30 pictures and 47 sounds a second, on a clock of its own that runs as fast as a test wants.
pub(super) struct Camera {
    pub(super) writer: Writer,
    /// How late its node's clock says it is at the camera's beginning, since the broadcast's birth.
    pub(super) clock_us: i64,
    pub(super) at_us: i64,
}

impl Camera {
    pub(super) fn play(&mut self, us: i64) {
        self.play_with(us, 200);
    }

    /// `bytes` is the size of a picture.
    pub(super) fn play_with(&mut self, us: i64, bytes: usize) {
        let until_us = self.at_us + us;
        let mut samples = Vec::new();
        let (pictures, sounds) = (|n: i64| n * 1_000_000 / 30, |n: i64| n * 1_024_000 / 48);
        for (kind, time, size) in [(Kind::Video, &pictures as &dyn Fn(i64) -> i64, bytes), (Kind::Audio, &sounds, 40)] {
            let frames = (0..).map(|n| (n, time(n))).skip_while(|(_, us)| *us < self.at_us);
            for (n, us) in frames.take_while(|(_, us)| *us < until_us) {
                let mut payload = vec![n as u8; size];
                payload[..4].copy_from_slice(&(size as u32 - 4).to_be_bytes());
                payload[4] = 0x65;
                let keyframe = kind == Kind::Audio || n % 60 == 0;
                samples.push((kind, Sample { dts_us: us, pts_us: us, keyframe, payload: payload.into() }));
            }
        }
        samples.sort_by_key(|(kind, sample)| (sample.dts_us, *kind));
        for (kind, sample) in samples {
            let now_us = BORN_US + self.clock_us + sample.dts_us;
            self.writer.write(kind, sample, now_us).unwrap();
        }
        self.at_us = until_us;
    }

    pub(super) fn broadcast(&self) -> &Arc<Broadcast> {
        self.writer.broadcast()
    }
}

/// Where things live, as the cluster would tell.
#[derive(Clone, Default)]
pub(super) struct Directory(Arc<Mutex<HashMap<BroadcastId, watch::Sender<Option<Upstream>>>>>);

impl Directory {
    pub(super) fn tell(&self, id: BroadcastId, upstream: Option<Upstream>) {
        self.0.lock().unwrap().entry(id).or_default().send_replace(upstream);
    }

    pub(super) fn find(&self) -> Find {
        let entries = self.0.clone();
        Arc::new(move |id| entries.lock().unwrap().entry(id.clone()).or_default().subscribe())
    }
}

pub(super) struct Edge {
    pub(super) hub: Arc<Hub>,
    pub(super) engine: Engine,
    pub(super) directory: Directory,
    pub(super) source: Source,
    pub(super) telemetry: Telemetry,
    pages: Router,
}

impl Edge {
    pub(super) fn new(name: &str) -> Self {
        let (hub, engine, directory) = (Hub::new(), engine(), Directory::default());
        let telemetry = Telemetry::new();
        let source = Source::start(hub.clone(), engine.clone(), name.into(), directory.find(), &telemetry);
        let pages = hls::router(Hls::new(source.finder(), Node::starting(), &telemetry));
        Self { hub, engine, directory, source, telemetry, pages }
    }

    pub(super) fn of(name: &str, origin: &Origin) -> Self {
        let edge = Self::new(name);
        edge.directory.tell(id(), Some(origin.upstream(1)));
        edge
    }

    /// With other pages than those of what it pulls.
    pub(super) fn serving(self, pages: Arc<Hls>) -> Self {
        Self { pages: hls::router(pages), ..self }
    }

    pub(super) async fn find(&self) -> Arc<Broadcast> {
        self.source.find(&id()).await.expect("the broadcast")
    }

    pub(super) async fn read(&self, kind: Kind) -> Reader {
        self.find().await.source(kind).expect("a track").read(Start::Oldest)
    }

    pub(super) async fn get(&self, path: &str) -> (StatusCode, Bytes) {
        let request = Request::builder().uri(format!("/live/streams/{path}")).body(Body::empty()).unwrap();
        let response = self.pages.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), 1 << 26).await.unwrap())
    }

    /// The playlist, and every piece that it names.
    pub(super) async fn pieces(&self) -> (String, Vec<String>) {
        let (status, text) = self.get("cam.m3u8").await;
        assert_eq!(status, StatusCode::OK);
        let text = String::from_utf8(text.to_vec()).unwrap();
        // What is hinted at is not there yet.
        let quoted = text.lines().filter(|line| line.contains("URI=") && !line.contains("PRELOAD"));
        let quoted = quoted.filter_map(|line| line.split("URI=\"").nth(1)?.split('"').next());
        let plain = text.lines().filter(|line| !line.starts_with('#'));
        let names = quoted.chain(plain).map(str::to_owned).collect();
        (text, names)
    }

    pub(super) fn metric(&self, line: &str) -> u64 {
        metric(&self.telemetry, line)
    }
}

/// The value behind the beginning of a line of metrics.
pub(super) fn metric(telemetry: &Telemetry, begins: &str) -> u64 {
    let text = telemetry.render();
    let value = text.lines().find_map(|line| line.strip_prefix(begins)).unwrap_or_else(|| panic!("no {begins}"));
    value.trim().parse().unwrap()
}

pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Frames up to this one's time.
pub(super) async fn read_until(reader: &mut Reader, dts_us: i64) -> Vec<Arc<Frame>> {
    let mut frames = Vec::new();
    loop {
        let frame = timeout(PATIENCE, reader.next()).await.unwrap_or_else(|_| panic!("nothing after {}", frames.len()));
        frames.push(frame.expect("goes on"));
        if frames.last().is_some_and(|frame| frame.dts_us >= dts_us) {
            return frames;
        }
    }
}
