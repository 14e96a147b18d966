//! Nodes in one process, on loopback, with real links between them. Each has a runtime of its own, so that one can vanish
//! as a killed process does.

mod front;
mod handing_on;

use std::{collections::HashMap, thread};

use tokio::runtime::Runtime;

use self::front::Front;
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
