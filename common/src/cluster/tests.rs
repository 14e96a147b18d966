//! Nodes in one process, on loopback, with real links between them. Each has a runtime of its own, so that one can vanish
//! as a killed process does.

use std::{
    collections::HashMap,
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tokio::runtime::Runtime;

use super::*;
use crate::{
    config::Layers,
    live::{Claim, Publisher, Takeover, Writer},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Nothing here takes longer, unless the machine stands still.
const LIMIT: Duration = Duration::from_secs(20);

/// A node, which anybody reaches through its front only.
pub(super) struct Peer {
    pub(super) runtime: Option<Runtime>,
    serving: Option<Serving>,
    pub(super) cluster: Cluster,
    front: Front,
    hub: Arc<Hub>,
    node: Node,
    audience: Arc<Mutex<HashMap<BroadcastId, Viewers>>>,
    telemetry: Telemetry,
}

impl Peer {
    pub(super) fn origin(id: &str, seeds: &[&Peer]) -> Self {
        Self::start(id, 1, Role::Origin, seeds, SECRET)
    }

    pub(super) fn edge(id: &str, seeds: &[&Peer]) -> Self {
        Self::start(id, 1, Role::Edge, seeds, SECRET)
    }

    fn start(id: &str, incarnation: u64, role: Role, seeds: &[&Peer], secret: &str) -> Self {
        Self::answering(id, incarnation, role, seeds, secret, Router::new())
    }

    /// `router`: what it answers to clients.
    fn answering(id: &str, incarnation: u64, role: Role, seeds: &[&Peer], secret: &str, router: Router) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let front = Front::open();
        let origins: Vec<_> = seeds.iter().map(|seed| seed.front.address().to_string()).collect();
        let layers = Layers::defaults().unwrap().with(&["cluster", "origins"], origins);
        let layers = layers.with(&["cluster", "advertise"], front.address().to_string());
        let layers = layers.with(&["cluster", "listen"], "127.0.0.1:0").with(&["cluster", "secret"], secret);
        let settings = layers.build().unwrap().cluster;
        let (hub, node, telemetry) = (Hub::new(), Node::starting(), Telemetry::new());
        node.ready();
        let audience = Arc::<Mutex<HashMap<_, _>>>::default();
        let surroundings = Surroundings {
            identity: Identity { id: NodeId::from(id), incarnation },
            role,
            credentials: Credentials::load(&settings).unwrap(),
            node: node.clone(),
            hub: hub.clone(),
            viewers: {
                let audience = audience.clone();
                Arc::new(move |id| audience.lock().unwrap().get(id).copied().unwrap_or_default())
            },
        };
        let http = HttpPlace("127.0.0.1:5080".parse().unwrap());
        let listening = Cluster::bind(&settings, http, surroundings, &telemetry).unwrap();
        front.lead_to(listening.listener.local_addr().unwrap());
        let cluster = listening.cluster();
        let serving = runtime.block_on(async { listening.serve(Routes::default(), router) }).unwrap();
        Self { runtime: Some(runtime), serving: Some(serving), cluster, front, hub, node, audience, telemetry }
    }

    /// As `kill -9`.
    pub(super) fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    fn stop(&mut self) {
        self.node.stop();
        let serving = self.serving.take().unwrap();
        self.runtime.take().unwrap().block_on(serving.finish());
    }

    pub(super) fn publish(&self, name: &str, epoch: u64) -> Writer {
        let publisher = Publisher { protocol: "test", remote: String::new(), agent: String::new() };
        let now_us = crate::clock::now_us();
        let claim = Claim { epoch, next_gop: 0, discontinuity: 0, born_us: now_us, segment_target_s: None, publisher };
        self.hub.claim(&id(name), claim, Takeover::Replace, now_us).unwrap()
    }

    /// Sees the other node like this.
    #[track_caller]
    pub(super) fn sees(&self, other: &str, health: Health) {
        until(&format!("{} to see {other} as {health:?}", self.cluster.me().id()), || {
            self.health(other) == Some(health)
        });
    }

    fn health(&self, other: &str) -> Option<Health> {
        let nodes = self.cluster.nodes();
        nodes.into_iter().find(|known| known.facts.id().as_str() == other).map(|known| known.health)
    }

    #[track_caller]
    fn finds(&self, name: &str, owner: &str, epoch: u64, status: Status) {
        let expected = Located { owner: NodeId::from(owner), epoch, status };
        until(&format!("{} to know {expected:?}", self.cluster.me().id()), || {
            self.cluster.whereabouts(&id(name)) == Some(expected.clone())
        });
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(super) fn id(name: &str) -> BroadcastId {
    BroadcastId::new("live", name).unwrap()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "waited for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A port that leads to a node until it is cut.
struct Front {
    listener: TcpListener,
    shared: Arc<FrontShared>,
}

#[derive(Default)]
struct FrontShared {
    target: Mutex<Option<SocketAddr>>,
    cut: AtomicBool,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Front {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, shared: Arc::default() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = Some(target);
        let (listener, shared) = (self.listener.try_clone().unwrap(), self.shared.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                if shared.cut.load(Ordering::SeqCst) {
                    continue;
                }
                let target = shared.target.lock().unwrap().unwrap();
                let Ok(onward) = TcpStream::connect(target) else { continue };
                shared.open.lock().unwrap().extend([stream.try_clone().unwrap(), onward.try_clone().unwrap()]);
                for (mut from, mut to) in [(stream.try_clone().unwrap(), onward.try_clone().unwrap()), (onward, stream)]
                {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
    }

    fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.cut();
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the listener up to see that it is over.
        let _ = TcpStream::connect(self.address());
    }
}

#[test]
fn everybody_learns_of_everybody_from_one_address() {
    let first = Peer::origin("origin-1", &[]);
    let second = Peer::origin("origin-2", &[&first]);
    let edges = [Peer::edge("edge-1", &[&first]), Peer::edge("edge-2", &[&second])];
    let all = ["origin-1", "origin-2", "edge-1", "edge-2"];
    for peer in [&first, &second, &edges[0], &edges[1]] {
        all.iter().for_each(|other| peer.sees(other, Health::Alive));
    }
    for edge in &edges {
        until("links with both origins", || edge.cluster.shared.links.borrow().len() == 2);
        assert_eq!(edge.cluster.me().role, Role::Edge);
    }
    until("one link of each origin", || {
        [&first, &second].iter().all(|origin| origin.cluster.shared.links.borrow().len() == 1)
    });
    let nodes = edges[0].cluster.nodes();
    let facts = &nodes.iter().find(|known| known.facts.id().as_str() == "origin-2").unwrap().facts;
    assert_eq!(facts.grpc, second.front.address().to_string());
    assert_eq!((facts.role, facts.version.as_str()), (Role::Origin, env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_published_is_known_everywhere_within_milliseconds() {
    let first = Peer::origin("origin-1", &[]);
    let second = Peer::origin("origin-2", &[&first]);
    let edge = Peer::edge("edge-1", &[&first]);
    second.sees("edge-1", Health::Alive);
    edge.sees("origin-2", Health::Alive);
    let mut upstream = edge.cluster.locate(&id("x"));
    assert!(upstream.borrow_and_update().is_none());

    let mut writer = second.publish("x", 1);
    edge.finds("x", "origin-2", 1, Status::Live);
    first.finds("x", "origin-2", 1, Status::Live);
    let mut times = Vec::new();
    for epoch in 2..12 {
        let begun = Instant::now();
        writer = second.publish("x", epoch);
        edge.finds("x", "origin-2", epoch, Status::Live);
        times.push(begun.elapsed());
    }
    times.sort();
    assert!(times[5] < Duration::from_millis(100), "not on the beat of a second: {times:?}");
    assert!(upstream.has_changed().unwrap());
    let told = upstream.borrow_and_update().clone().unwrap();
    assert_eq!((told.node.as_str(), told.epoch), ("origin-2", 11));
    assert!(second.cluster.locate(&id("x")).borrow().is_none(), "where it is published nothing is fetched");
    assert_eq!(edge.cluster.live().len(), 1);

    drop(writer);
    edge.finds("x", "origin-2", 11, Status::Interrupted);
    let writer = first.publish("x", 12);
    edge.finds("x", "origin-1", 12, Status::Live);
    writer.finish(crate::clock::now_us());
    edge.finds("x", "origin-1", 12, Status::Finished);
    until("no upstream", || upstream.borrow_and_update().is_none());
    assert!(edge.cluster.live().is_empty());
}

#[test]
fn a_killed_origin_is_dead_for_all_within_five_seconds_and_its_next_life_is_known() {
    let mut first = Peer::origin("origin-1", &[]);
    let second = Peer::origin("origin-2", &[&first]);
    let edge = Peer::edge("edge-1", &[&first]);
    let (_on_first, _on_second) = (first.publish("x", 1), second.publish("y", 1));
    for peer in [&second, &edge] {
        peer.finds("x", "origin-1", 1, Status::Live);
        peer.finds("y", "origin-2", 1, Status::Live);
    }
    let begun = Instant::now();
    first.kill();
    edge.sees("origin-1", Health::Suspect);
    assert!(begun.elapsed() < Duration::from_secs(1), "a broken link is noticed at once");
    for peer in [&second, &edge] {
        peer.finds("x", "origin-1", 1, Status::Terminated);
        peer.sees("origin-1", Health::Dead);
        peer.finds("y", "origin-2", 1, Status::Live);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());

    // Whoever comes now hears that it is dead, from the one that is left.
    let late = Peer::edge("edge-2", &[&second]);
    late.finds("x", "origin-1", 1, Status::Terminated);
    late.sees("origin-1", Health::Dead);

    let again = Peer::start("origin-1", 2, Role::Origin, &[&second], SECRET);
    edge.sees("origin-1", Health::Alive);
    edge.finds("x", "origin-1", 1, Status::Terminated);
    let _writer = again.publish("x", 2);
    edge.finds("x", "origin-1", 2, Status::Live);
}

#[test]
fn an_edge_that_was_told_of_two_clusters_says_so_once() {
    let origins = [Peer::origin("origin-1", &[]), Peer::origin("origin-2", &[])];
    let edge = Peer::edge("edge-1", &[&origins[0], &origins[1]]);
    let strangers = || edge.cluster.shared.strangers.lock().unwrap().clone();
    for origin in ["origin-1", "origin-2"] {
        edge.sees(origin, Health::Alive);
    }
    assert!(strangers().is_empty(), "it is not known what they keep");
    for (origin, registry) in origins.iter().zip(["b", "a"]) {
        origin.cluster.keeps(RegistryFacts { id: registry.to_owned(), ..RegistryFacts::default() });
    }
    until("the edge to notice", || strangers().len() == 1);
    let told = |origin: &str| edge.cluster.nodes().into_iter().find(|known| known.facts.id().as_str() == origin);
    let before = ["origin-1", "origin-2"].map(|origin| told(origin).unwrap().facts.age);
    until("both to say more", || {
        let now = ["origin-1", "origin-2"].map(|origin| told(origin).unwrap().facts.age);
        now.iter().zip(&before).all(|(now, before)| now > before)
    });
    assert_eq!(strangers(), [["a".to_owned(), "b".to_owned()]].into());
    assert!(origins.iter().all(|origin| origin.cluster.shared.strangers.lock().unwrap().is_empty()));
}

#[test]
fn who_leaves_says_so_and_is_not_called_dead() {
    let first = Peer::origin("origin-1", &[]);
    let mut second = Peer::origin("origin-2", &[&first]);
    let mut edge = Peer::edge("edge-1", &[&first]);
    let watcher = Peer::edge("edge-2", &[&first]);
    for other in ["origin-2", "edge-1"] {
        watcher.sees(other, Health::Alive);
    }
    for peer in [&mut second, &mut edge] {
        let begun = Instant::now();
        peer.stop();
        assert!(begun.elapsed() < serving::FAREWELL, "nobody had to be waited for: {:?}", begun.elapsed());
    }
    for other in ["origin-2", "edge-1"] {
        for peer in [&first, &watcher] {
            peer.sees(other, Health::Left);
        }
    }
    // Nobody calls where nobody is.
    until("the link to be forgotten", || watcher.cluster.shared.links.borrow().len() == 1);
    assert!(first.cluster.remove(&NodeId::from("origin-2")));
    until("the other to hear of it", || watcher.health("origin-2").is_none());
    assert!(!first.cluster.remove(&NodeId::from("edge-2")), "one that is there is not removed");
}

#[test]
fn a_cut_that_others_can_reach_around_kills_nobody() {
    let first = Peer::origin("origin-1", &[]);
    let second = Peer::origin("origin-2", &[&first]);
    let edge = Peer::edge("edge-1", &[&first]);
    let _writer = first.publish("x", 1);
    edge.sees("origin-2", Health::Alive);
    edge.finds("x", "origin-1", 1, Status::Live);
    first.sees("origin-2", Health::Alive);

    // Nobody reaches the first one, but it reaches the second, which tells the edge.
    first.front.cut();
    until("the link to break", || edge.cluster.shared.links.borrow().len() == 1);
    let begun = Instant::now();
    while begun.elapsed() < DEAD_FOR_SURE {
        assert!(edge.health("origin-1").is_some_and(Health::is_there), "the second one hears it");
        assert_eq!(edge.cluster.whereabouts(&id("x")).unwrap().status, Status::Live);
        thread::sleep(Duration::from_millis(20));
    }
    // Now nobody hears it.
    second.front.cut();
    edge.sees("origin-1", Health::Dead);
    edge.sees("origin-2", Health::Dead);
    edge.finds("x", "origin-1", 1, Status::Terminated);
    first.front.mend();
    second.front.mend();
    edge.sees("origin-1", Health::Alive);
    edge.sees("origin-2", Health::Alive);
    edge.finds("x", "origin-1", 1, Status::Live);
}

/// Long enough for a node that nobody hears.
const DEAD_FOR_SURE: Duration = Duration::from_secs(5);

#[test]
fn audiences_of_all_edges_add_up_at_every_origin() {
    let first = Peer::origin("origin-1", &[]);
    let second = Peer::origin("origin-2", &[&first]);
    let edges = [Peer::edge("edge-1", &[&first]), Peer::edge("edge-2", &[&second])];
    let _mirrors = edges.each_ref().map(|edge| edge.publish("x", 1));
    for edge in &edges {
        edge.audience.lock().unwrap().insert(id("x"), Viewers { webrtc: 3, hls: 4 });
    }
    let sums = |expected: Viewers| {
        for origin in [&first, &second] {
            until(&format!("{expected:?}"), || origin.cluster.viewers(&id("x")) == expected);
        }
    };
    sums(Viewers { webrtc: 6, hls: 8 });
    edges[0].audience.lock().unwrap().clear();
    sums(Viewers { webrtc: 3, hls: 4 });
    // A link that broke begins with everything.
    first.front.cut();
    first.front.mend();
    edges[0].audience.lock().unwrap().insert(id("x"), Viewers { webrtc: 1, hls: 0 });
    sums(Viewers { webrtc: 4, hls: 4 });
}

#[test]
fn a_stranger_hears_nothing_and_is_not_heard() {
    let first = Peer::origin("origin-1", &[]);
    let stranger = Peer::start("stranger", 1, Role::Edge, &[&first], &SECRET.replace('0', "f"));
    until("the stranger to be turned away twice", || {
        let text = first.telemetry.render();
        let line = text.lines().find(|line| line.starts_with("headwater_errors_total{door=\"cluster\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).is_some_and(|count| count >= 2)
    });
    assert_eq!(first.cluster.nodes().len(), 1);
    assert_eq!(stranger.cluster.nodes().len(), 1);
}

/// A name may stand for this node too, as that of all origins does.
#[test]
fn a_node_that_calls_itself_notices() {
    let peer = Peer::origin("origin-1", &[]);
    let shared = peer.cluster.shared.clone();
    let call = link::link(peer.front.address(), &shared);
    let answer = peer.runtime.as_ref().unwrap().block_on(call).unwrap();
    assert!(matches!(answer, link::Answer::Known));
    assert!(shared.links.borrow().is_empty());
    assert_eq!(peer.cluster.nodes().len(), 1);
}

mod handing_on {
    use std::sync::atomic::AtomicUsize;

    use axum::{
        body::{Body, Bytes, to_bytes},
        extract::{ConnectInfo, Request},
        http::{HeaderMap, Method, StatusCode, header},
        response::IntoResponse,
        routing::{get, post},
    };
    use futures_util::{StreamExt, stream};
    use tokio::time::timeout;

    use super::*;
    use crate::http::ByNode;

    const CLIENT: &str = "198.51.100.7:4000";

    struct Two {
        here: Peer,
        there: Peer,
        answers: Arc<Answers>,
    }

    #[derive(Default)]
    struct Answers {
        taken_bytes: AtomicUsize,
        broken: AtomicUsize,
    }

    /// An edge, and an origin that answers what it is asked.
    fn two() -> Two {
        let answers = Arc::<Answers>::default();
        let (endless, upload) = (answers.clone(), answers.clone());
        let router = Router::new()
            .route("/echo", post(|request: Request| async { request.into_body() }))
            .route(
                "/who",
                get(|ConnectInfo(client): ConnectInfo<SocketAddr>, headers: HeaderMap, request: Request| async move {
                    let by = *request.extensions().get::<ByNode>().unwrap();
                    let asked = headers["x-asked"].to_str().unwrap().to_owned();
                    let told = format!("{client} {} {} {asked} {}", by.may_change, by.hops, request.uri());
                    (StatusCode::IM_A_TEAPOT, [("x-told", told)])
                }),
            )
            .route(
                "/endless",
                get(|| async move {
                    Body::from_stream(stream::repeat_with(move || {
                        endless.taken_bytes.fetch_add(1 << 16, Ordering::SeqCst);
                        Ok::<_, std::convert::Infallible>(Bytes::from_static(&[7; 1 << 16]))
                    }))
                }),
            )
            .route(
                "/upload",
                post(|body: Body| async move {
                    match to_bytes(body, 1 << 20).await {
                        Ok(_) => StatusCode::OK.into_response(),
                        Err(_) => {
                            upload.broken.fetch_add(1, Ordering::SeqCst);
                            StatusCode::BAD_REQUEST.into_response()
                        }
                    }
                }),
            );
        let there = Peer::answering("origin-1", 1, Role::Origin, &[], SECRET, router);
        let here = Peer::edge("edge-1", &[&there]);
        here.sees("origin-1", Health::Alive);
        Two { here, there, answers }
    }

    impl Two {
        async fn ask(
            &self,
            method: Method,
            target: &str,
            body: Body,
        ) -> Result<axum::response::Response, ForwardError> {
            let request = Request::builder().method(method).uri(target).header("x-asked", "yes").body(body).unwrap();
            let by = ByNode { may_change: true, hops: 1 };
            self.here.cluster.forward(&NodeId::from("origin-1"), request, CLIENT.parse().unwrap(), by).await
        }

        fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
            self.here.runtime.as_ref().unwrap().block_on(future)
        }
    }

    #[test]
    fn the_other_node_sees_the_request_as_it_was() {
        let two = two();
        let response = two.block_on(two.ask(Method::GET, "/who?x=1", Body::empty())).unwrap();
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(response.headers()["x-told"], format!("{CLIENT} true 1 yes /who?x=1"));
        let missing = two.block_on(two.ask(Method::GET, "/nothing", Body::empty())).unwrap();
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn bodies_of_any_size_go_both_ways() {
        let two = two();
        let sent: Bytes = (0..10_000_000_u32).map(|at| (at / 7) as u8).collect();
        let answered = two.block_on(async {
            let response = two.ask(Method::POST, "/echo", Body::from(sent.clone())).await.unwrap();
            to_bytes(response.into_body(), 1 << 30).await.unwrap()
        });
        assert!(answered == sent, "{} bytes came back of {}", answered.len(), sent.len());
    }

    #[test]
    fn what_the_client_does_not_take_is_not_made() {
        let two = two();
        let response = two.block_on(two.ask(Method::GET, "/endless", Body::empty())).unwrap();
        let taken = || two.answers.taken_bytes.load(Ordering::SeqCst);
        until("the way to be full", || {
            let before = taken();
            thread::sleep(Duration::from_millis(300));
            before > 0 && taken() == before
        });
        assert!(taken() < 16 << 20, "{} bytes on their way to nobody", taken());
        drop(response);
        // And others are not held up by it.
        let other = two.block_on(two.ask(Method::GET, "/who", Body::empty())).unwrap();
        assert_eq!(other.status(), StatusCode::IM_A_TEAPOT);
    }

    #[test]
    fn a_body_that_breaks_off_is_not_taken_for_a_whole_one() {
        let two = two();
        let some = stream::iter([Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))]);
        let broken = two.block_on(two.ask(Method::POST, "/upload", Body::from_stream(some))).unwrap();
        assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
        assert_eq!(two.answers.broken.load(Ordering::SeqCst), 1);
        // One whose client goes away in the middle of it.
        let never = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"half"))]).chain(stream::pending());
        let (gone, rest) = tokio::sync::oneshot::channel::<()>();
        let cut = never.take_until(rest).chain(stream::iter([Err(std::io::Error::other("gone"))]));
        two.block_on(async {
            let call = two.ask(Method::POST, "/upload", Body::from_stream(cut));
            assert!(timeout(Duration::from_millis(300), call).await.is_err(), "it waits for the rest");
        });
        drop(gone);
        until("the other node to notice", || two.answers.broken.load(Ordering::SeqCst) == 2);
    }

    #[test]
    fn a_node_that_does_not_answer_is_named() {
        let mut two = two();
        two.there.kill();
        let error = two.block_on(two.ask(Method::GET, "/who", Body::empty())).unwrap_err().to_string();
        assert!(error.contains("origin-1"), "{error}");
        let unknown = NodeId::from("nobody");
        let nobody = two.here.cluster.forward(
            &unknown,
            Request::get("/").header(header::HOST, "x").body(Body::empty()).unwrap(),
            CLIENT.parse().unwrap(),
            ByNode { may_change: false, hops: 1 },
        );
        assert!(matches!(two.block_on(nobody), Err(ForwardError::Unknown(_))));
    }
}
