//! Nodes that stall, garble and lie: whatever one of them does, it ends one pull.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use headwater_common::{
    cluster::{Route, Upstream},
    live::{BroadcastId, Status},
    media::Kind,
    relay::Pieces,
};
use headwater_proto::{
    Begin, Frame, Gop, Open, Piece, Run, Said, State, Track, Want, Wish, piece,
    relay_server::{Relay, RelayServer},
    track, wish,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status as Refusal, Streaming};

use super::stage::{BORN_US, Edge, Origin, PATIENCE, Served, endpoint, id, read_until, until, video_info};

/// Says to everybody who pulls what a test has written down, and then nothing.
#[derive(Clone)]
struct Parrot {
    script: Arc<Vec<piece::Piece>>,
    pulled: Arc<Mutex<Vec<Instant>>>,
    left: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Relay for Parrot {
    type PullStream = Pin<Box<dyn Stream<Item = Result<Piece, Refusal>> + Send>>;

    async fn pull(&self, request: Request<Streaming<Wish>>) -> Result<Response<Self::PullStream>, Refusal> {
        let (pieces, told) = mpsc::channel(1);
        let (parrot, mut wishes) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(Wish { pull, wish })) = wishes.message().await {
                match wish {
                    Some(wish::Wish::Open(_)) => parrot.pulled.lock().unwrap().push(Instant::now()),
                    Some(wish::Wish::Leave(_)) => {
                        parrot.left.fetch_add(1, SeqCst);
                        continue;
                    }
                    _ => continue,
                }
                for piece in parrot.script.iter().cloned() {
                    if pieces.send(Ok(Piece { pull, piece: Some(piece) })).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}

impl Parrot {
    async fn serve(script: Vec<piece::Piece>) -> (Self, Served) {
        let parrot = Self { script: Arc::new(script), pulled: Arc::default(), left: Arc::default() };
        let service = RelayServer::new(parrot.clone());
        (parrot, Served::new(|mut server| server.add_service(service)).await)
    }

    fn times(&self) -> usize {
        self.pulled.lock().unwrap().len()
    }
}

fn state() -> State {
    State {
        status: headwater_proto::Status::Live.into(),
        epoch: 1,
        publisher_epoch: 1,
        epoch_began_us: BORN_US,
        next_gop: 1,
        segment_target_s: 2,
        path: vec!["parrot".into()],
        ..Default::default()
    }
}

fn video(id: u32) -> Track {
    let info = headwater_proto::Info {
        codec: headwater_proto::Codec::H264.into(),
        config: video_info().config,
        width: 640,
        height: 360,
        ..Default::default()
    };
    Track {
        id,
        name: "video".into(),
        kind: headwater_proto::Kind::Video.into(),
        origin: Some(track::Origin::Source(headwater_proto::Source {})),
        info: Some(info),
        waiting: false,
    }
}

fn begin() -> piece::Piece {
    piece::Piece::Begin(Begin { born_us: BORN_US, state: Some(state()), tracks: vec![video(0)] })
}

fn gop() -> piece::Piece {
    piece::Piece::Gop(Gop { id: 0, epoch: 1, independent: true, has_video: true, ..Default::default() })
}

fn frame() -> Frame {
    Frame {
        track: 0,
        gop: 0,
        dts_us: 0,
        composition_us: 0,
        keyframe: true,
        payload: Bytes::from_static(b"\0\0\0\x01e"),
    }
}

fn run() -> piece::Piece {
    piece::Piece::Run(Run { track: 0, whole: true })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stands_still_on_a_living_connection_is_begun_anew_within_two_seconds() {
    let (parrot, served) = Parrot::serve(vec![begin(), run(), gop(), piece::Piece::Frame(frame())]).await;
    let edge = Edge::new("edge");
    let upstream = |served: &Served, epoch| Upstream { node: "parrot".into(), epoch, route: served.route.clone() };
    edge.directory.tell(id(), Some(upstream(&served, 1)));
    let broadcast = edge.find().await;
    let mut reader = edge.read(Kind::Video).await;
    timeout(PATIENCE, reader.next()).await.expect("a frame").expect("a frame");
    let mut fastest = Duration::MAX;
    for times in 1..3 {
        until("it waits for ever", || parrot.times() >= times && broadcast.status() == Status::Live).await;
        until("nobody notices", || broadcast.status() == Status::Interrupted).await;
        let after = parrot.pulled.lock().unwrap()[times - 1].elapsed();
        assert!(after > Duration::from_millis(1_600), "{after:?}");
        fastest = fastest.min(after);
    }
    assert!(fastest < Duration::from_secs(2), "{fastest:?}");
    until("it is not begun anew", || parrot.times() > 2).await;
    // What comes again is not seen twice.
    assert!(timeout(Duration::from_millis(100), reader.next()).await.is_err());

    // Elsewhere it goes on.
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(2, 1, 1);
    camera.play(1_000_000);
    edge.directory.tell(id(), Some(origin.upstream(2)));
    read_until(&mut reader, 900_000).await;
    assert_eq!((broadcast.status(), broadcast.epoch()), (Status::Live, 2));
}

/// Leads to a node. What went through so far stays open from a given moment on, and carries nothing more.
struct Wire {
    address: SocketAddr,
    opened: Arc<AtomicUsize>,
    /// By whoever called.
    closed: Arc<AtomicUsize>,
    /// Connections with lower numbers carry nothing.
    stalled: watch::Sender<usize>,
}

impl Wire {
    async fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let stalled = watch::Sender::new(0);
        let (counted, gone, stalls) = (opened.clone(), closed.clone(), stalled.subscribe());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let number = counted.fetch_add(1, SeqCst);
                let carries = move |stalls: &watch::Receiver<usize>| number >= *stalls.borrow();
                let (mut from_near, mut to_near) = near.into_split();
                let (mut from_far, mut to_far) = TcpStream::connect(node).await.unwrap().into_split();
                let (gone, there, back) = (gone.clone(), stalls.clone(), stalls.clone());
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = from_near.read(&mut bytes).await {
                        if carries(&there) && to_far.write_all(&bytes[..count]).await.is_err() {
                            break;
                        }
                    }
                    gone.fetch_add(1, SeqCst);
                });
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = from_far.read(&mut bytes).await {
                        if carries(&back) && to_near.write_all(&bytes[..count]).await.is_err() {
                            break;
                        }
                    }
                    if !carries(&back) {
                        // The end does not get there either.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, opened, closed, stalled }
    }

    fn stall(&self) {
        self.stalled.send_replace(self.opened.load(SeqCst));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_through_which_nothing_comes_is_not_waited_for() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(1_000_000);
    let wire = Wire::to(origin.served.address).await;
    // HTTP/2 does not look whether the other side is there, so nothing but the pull itself can find out.
    let endpoint = endpoint(wire.address);
    let route = Route::new(move || endpoint.connect_lazy());
    let edge = Edge::new("edge");
    edge.directory.tell(id(), Some(Upstream { node: "origin".into(), epoch: 1, route: route.clone() }));
    let mut reader = edge.read(Kind::Video).await;
    read_until(&mut reader, 900_000).await;
    let before = route.connection();
    wire.stall();
    camera.play(1_000_000);
    read_until(&mut reader, 1_900_000).await;
    assert!(wire.opened.load(SeqCst) >= 2);
    // Somebody else noticed late: what goes on now is left alone.
    let opened = wire.opened.load(SeqCst);
    route.give_up(&before);
    drop(before);
    until("the old one stays open", || wire.closed.load(SeqCst) >= 1).await;
    camera.play(1_000_000);
    read_until(&mut reader, 2_900_000).await;
    assert_eq!(wire.opened.load(SeqCst), opened);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_ends_the_pull_it_was_said_in_and_nothing_else() {
    let said =
        |hearers, data: &[u8]| piece::Piece::Said(Said { binary: false, data: Bytes::copy_from_slice(data), hearers });
    let tracks = |tracks| piece::Piece::Begin(Begin { born_us: BORN_US, state: Some(state()), tracks });
    let told = |state| piece::Piece::Begin(Begin { born_us: BORN_US, state: Some(state), tracks: vec![] });
    let frame_of = |change: fn(&mut Frame)| {
        let mut frame = frame();
        change(&mut frame);
        vec![begin(), run(), gop(), piece::Piece::Frame(frame)]
    };
    let nonsense: Vec<(&str, Vec<piece::Piece>)> = vec![
        ("no beginning", vec![gop()]),
        ("two beginnings", vec![begin(), begin()]),
        ("no state", vec![piece::Piece::Begin(Begin { born_us: BORN_US, state: None, tracks: vec![] })]),
        (
            "a birth beyond time",
            vec![piece::Piece::Begin(Begin { born_us: i64::MIN, state: Some(state()), tracks: vec![] })],
        ),
        ("no status", vec![told(State { status: 0, ..state() })]),
        ("a status of nowhere", vec![told(State { status: 77, ..state() })]),
        ("no path", vec![told(State { path: vec![], ..state() })]),
        ("a circle", vec![told(State { path: vec!["parrot".into(), "edge".into()], ..state() })]),
        ("a circle, later", vec![begin(), piece::Piece::State(State { path: vec!["edge".into()], ..state() })]),
        ("an older epoch", vec![begin(), piece::Piece::State(State { epoch: 0, ..state() })]),
        ("a target of an hour", vec![told(State { segment_target_s: 3_600, ..state() })]),
        ("a track out of order", vec![tracks(vec![video(1)])]),
        ("a track twice", vec![tracks(vec![video(0), video(1)])]),
        ("a track of no kind", vec![tracks(vec![Track { kind: 0, ..video(0) }])]),
        ("a track from nowhere", vec![tracks(vec![Track { origin: None, ..video(0) }])]),
        ("pictures that sound", vec![tracks(vec![Track { kind: headwater_proto::Kind::Audio.into(), ..video(0) }])]),
        ("a name too long", vec![tracks(vec![Track { name: "x".repeat(1_000), ..video(0) }])]),
        ("a run of nothing", vec![begin(), piece::Piece::Run(Run { track: 4, whole: false })]),
        ("a frame of nothing", frame_of(|frame| frame.track = 4)),
        ("a frame of no gop", frame_of(|frame| frame.gop = 4)),
        ("a frame beyond time", frame_of(|frame| frame.dts_us = i64::MAX)),
        ("an empty frame", frame_of(|frame| frame.payload = Bytes::new())),
        ("a message to nobody", vec![begin(), said(9, b"x")]),
        ("an empty message", vec![begin(), said(0, b"")]),
        ("text that is none", vec![begin(), said(0, b"\xff\xff")]),
    ];
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    let edge = Edge::of("edge", &origin);
    let mut reader = {
        camera.play(1_000_000);
        edge.read(Kind::Video).await
    };
    let mut parrots = Vec::new();
    for (at, (what, script)) in nonsense.into_iter().enumerate() {
        let (parrot, served) = Parrot::serve(script).await;
        let name = BroadcastId::new("live", &format!("bad-{at}")).unwrap();
        let upstream = Upstream { node: "parrot".into(), epoch: 1, route: served.route.clone() };
        edge.directory.tell(name.clone(), Some(upstream));
        let source = edge.source.clone();
        tokio::spawn(async move { source.find(&name).await });
        parrots.push((what, parrot, served));
    }
    // Each is tried again, much sooner than silence alone would explain.
    let began = Instant::now();
    for (what, parrot, _) in &parrots {
        until(&format!("{what} was believed"), || parrot.times() > 1).await;
        let pulled = parrot.pulled.lock().unwrap();
        assert!(pulled[1] - pulled[0] < Duration::from_millis(1_500), "{what}");
    }
    assert!(began.elapsed() < PATIENCE);
    camera.play(1_000_000);
    read_until(&mut reader, 1_900_000).await;
    assert_eq!(edge.metric("headwater_panics_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wishes_nonsense_loses_its_pull_and_nobody_else_does() {
    let origin = Origin::new("origin").await;
    let mut camera = origin.camera(1, 0, 0);
    camera.play(1_000_000);
    let edge = Edge::of("edge", &origin);
    let mut reader = edge.read(Kind::Video).await;
    read_until(&mut reader, 900_000).await;
    let open = |stream: &str| {
        let name = headwater_proto::Name { app: "live".into(), stream: stream.into() };
        wish::Wish::Open(Open { name: Some(name), node: "bad".into() })
    };
    let want = wish::Wish::Want(Want { track: 9, wanted: true, present: false });
    let said = Said { binary: true, data: vec![0; 70_000].into(), hearers: 0 };
    for wishes in [
        vec![want.clone()],
        vec![open("../../etc")],
        vec![open("nobody")],
        vec![wish::Wish::Open(Open { name: None, node: String::new() })],
        vec![open("cam"), open("cam")],
        vec![open("cam"), want],
        vec![open("cam"), wish::Wish::Keyframe(headwater_proto::Keyframe { track: u32::MAX })],
        vec![open("cam"), wish::Wish::Said(said)],
    ] {
        let shown = format!("{:.60}", format!("{wishes:?}"));
        let (sender, waiting) = mpsc::channel(8);
        // The other pull of the same node, which has done nothing wrong.
        sender.send(Wish { pull: 1, wish: Some(open("cam")) }).await.unwrap();
        for wish in wishes {
            sender.send(Wish { pull: 2, wish: Some(wish) }).await.unwrap();
        }
        let mut pieces =
            Pieces::pull(origin.served.route.connection().channel, ReceiverStream::new(waiting)).await.unwrap();
        let mut next = async || timeout(PATIENCE, pieces.next()).await.expect("a piece").unwrap().expect("goes on");
        let over = loop {
            if let Piece { pull, piece: Some(piece::Piece::Over(over)) } = next().await {
                assert_eq!(pull, 2, "{shown}");
                break over;
            }
        };
        let code = tonic::Code::from(over.code as i32);
        assert!(matches!(code, tonic::Code::InvalidArgument | tonic::Code::NotFound), "{shown}: {over:?}");
        assert!(!over.message.is_empty(), "{shown}");
        sender
            .send(Wish { pull: 1, wish: Some(wish::Wish::Want(Want { track: 0, wanted: true, present: false })) })
            .await
            .unwrap();
        while !matches!(next().await, Piece { pull: 1, piece: Some(piece::Piece::Frame(_)) }) {}
    }
    camera.play(1_000_000);
    read_until(&mut reader, 1_900_000).await;
}
