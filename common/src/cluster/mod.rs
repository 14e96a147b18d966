//! Nodes that know each other: who is there, what is live where, and a way to each of them.
//!
//! Each node keeps a link to every origin it knows of. The caller reports about itself each second, the callee tells what
//! it knows: everything first, then what changes, and nothing at least once a second. What is heard goes into one
//! [`view`](view::View), from which everything else is read.
//!
//! ```text
//! settings ─► link ──report──► server (of an origin)
//!    view ◄── link ◄──news──── server ◄── view ◄── witness ◄── hub
//! ```
//!
//! In: the settings `[cluster]`, what happens in the hub of an origin, how many watch at an edge. Out: a [`Cluster`], whom
//! rooms ask. Deliberately absent: media, which travels by `relay`, and truth about claims, which is the registry's: what
//! is known here is what nodes tell each other, and is forgotten with the process.

mod dial;
mod double;
mod facts;
mod foreign;
mod forward;
pub mod identity;
mod incoming;
mod keeper;
mod link;
mod reach;
#[cfg(test)]
mod reach_tests;
mod route;
pub mod seal;
mod server;
mod serving;
#[cfg(test)]
mod tests;
pub mod tls;
mod view;
mod wire;
mod witness;

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::Router;
use tokio::{sync::watch, time::MissedTickBehavior};
use tonic::transport::Channel;

pub use double::Displaced;
use double::Double;
pub use facts::{Health, Known, Located, NodeFacts, RegistryFacts, Statement, Status};
pub use forward::ForwardError;
use identity::{Identity, NodeId};
pub use route::{Connection, Route};
pub use serving::Serving;
use tls::Credentials;
/// Services that the process serves to other nodes beside this room's.
pub use tonic::service::Routes;
pub use view::Judged;
use view::{Change, View};

use crate::{
    audience::{CountViewers, Viewers},
    config,
    live::{BroadcastId, Hub},
    net,
    node::{Node, Role},
    telemetry::{Door, Telemetry},
};

/// How often reports and news come when nothing happens.
const BEAT: Duration = Duration::from_secs(1);
/// A peer that says nothing for so long is not there.
const SILENT_MAX: Duration = Duration::from_secs(3);
/// How often time is looked at: a death is noticed that much late.
const TICK: Duration = Duration::from_millis(200);

/// What the cluster has to know of the rest of the process.
pub struct Surroundings {
    pub identity: Identity,
    pub role: Role,
    pub credentials: Credentials,
    pub node: Node,
    /// What is published here, or pulled.
    pub hub: Arc<Hub>,
    /// Of an edge: who watches here.
    pub viewers: CountViewers,
}

/// Where this node's HTTP listens.
#[derive(Clone, Copy, Debug)]
pub struct HttpPlace(pub SocketAddr);

/// What a relay needs to fetch a broadcast.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub node: NodeId,
    pub epoch: u64,
    pub route: Route,
}

/// This node's place among the others. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

/// What all loops of the room see.
struct Shared {
    surroundings: Surroundings,
    begun: Instant,
    seeds: Vec<String>,
    /// host:port of origins that somebody else than another node told of.
    learnt: Mutex<BTreeSet<String>>,
    view: Mutex<View>,
    /// Grows with what the others should hear at once.
    version: watch::Sender<u64>,
    /// By address: where there is a link now, and with whom.
    links: watch::Sender<HashMap<SocketAddr, NodeId>>,
    routes: Mutex<HashMap<String, Route>>,
    located: Mutex<HashMap<BroadcastId, watch::Sender<Option<Upstream>>>>,
    closing: watch::Sender<bool>,
    /// The newest word of another process that is this node.
    double: watch::Sender<Option<Double>>,
    /// Origins of another registry that have called, each of which is complained of once.
    foreign: Mutex<BTreeSet<NodeId>>,
    /// Registries whose origins this node was told of together, two and two, each complained of once.
    strangers: Mutex<BTreeSet<[String; 2]>>,
    door: Door,
}

/// A listener that is bound, so that a taken port is an error at start.
pub struct Listening {
    listener: TcpListener,
    cluster: Cluster,
}

impl Cluster {
    /// Binds the port. Nobody is called and nobody is answered before [`Listening::serve`].
    pub fn bind(
        settings: &config::Cluster,
        http: HttpPlace,
        surroundings: Surroundings,
        telemetry: &Telemetry,
    ) -> anyhow::Result<Listening> {
        let listener = net::listen_tcp(settings.listen, "other nodes")?;
        let grpc = advertised(settings, listener.local_addr()?)?;
        let host = grpc.rsplit_once(':').map_or(&*grpc, |(host, _)| host);
        let url = if settings.http.is_empty() { http_url(host, http) } else { settings.http.clone() };
        let me = NodeFacts {
            identity: surroundings.identity.clone(),
            role: surroundings.role,
            phase: surroundings.node.phase(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            grpc,
            http: url,
            load: surroundings.node.load(),
            registry: RegistryFacts::default(),
            age: Duration::ZERO,
        };
        tracing::info!(node = %me.id(), grpc = me.grpc, http = me.http, "node of a cluster");
        let shared = Shared {
            surroundings,
            begun: Instant::now(),
            seeds: settings.origins.clone(),
            learnt: Mutex::default(),
            view: Mutex::new(View::new(me)),
            version: watch::Sender::default(),
            links: watch::Sender::default(),
            routes: Mutex::default(),
            located: Mutex::default(),
            closing: watch::Sender::default(),
            double: watch::Sender::default(),
            foreign: Mutex::default(),
            strangers: Mutex::default(),
            door: telemetry.door("cluster"),
        };
        Ok(Listening { listener, cluster: Self { shared: Arc::new(shared) } })
    }

    /// Origins that the registry knows, by host:port: they are called like those in the settings.
    pub fn learn(&self, places: BTreeSet<String>) {
        let mut learnt = self.shared.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        if *learnt != places {
            *learnt = places;
            drop(learnt);
            self.shared.version.send_modify(|version| *version += 1);
        }
    }

    pub fn me(&self) -> NodeFacts {
        self.shared.view().me().clone()
    }

    /// Which registry this node keeps, and how that does now.
    pub fn keeps(&self, registry: RegistryFacts) {
        let change = {
            let mut view = self.shared.view();
            let me = view.me().clone();
            view.describe(NodeFacts { registry, ..me })
        };
        self.shared.changed(change);
    }

    /// What a look into a shared registry says of all nodes in it.
    pub fn judge(&self, rows: Vec<Judged>) {
        let change = self.shared.view().judge(rows, Instant::now());
        self.shared.changed(change);
    }

    /// All nodes that are known, this one first.
    pub fn nodes(&self) -> Vec<Known> {
        self.shared.view().list(Instant::now())
    }

    /// Takes a node that is dead or has left out of the list, everywhere. False when it is there, or not known.
    pub fn remove(&self, id: &NodeId) -> bool {
        let removed = self.shared.view().remove(id);
        if removed {
            self.shared.changed(Change::Great);
        }
        removed
    }

    /// Resolves when another process is this node, and the later one.
    pub async fn displaced(&self) -> Displaced {
        // The sender lives as long as `self`.
        let _ = self.shared.double.subscribe().wait_for(|double| double.is_some_and(Double::lives)).await;
        Displaced::of(self.me().identity.id)
    }

    /// Resolves when some origin has told what it knows.
    pub async fn joined(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.links.subscribe().wait_for(|links| !links.is_empty()).await;
    }

    /// Where a broadcast is by all that is known, be it over or not.
    pub fn whereabouts(&self, id: &BroadcastId) -> Option<Located> {
        self.shared.view().locate(id)
    }

    /// Broadcasts that go on, here and elsewhere.
    pub fn live(&self) -> Vec<(BroadcastId, Located)> {
        let view = self.shared.view();
        let live = view.broadcasts().filter(|(_, located)| !located.status.has_ended());
        live.map(|(id, located)| (id.clone(), located)).collect()
    }

    /// Where to fetch a broadcast while it goes on elsewhere, as that changes.
    pub fn locate(&self, id: &BroadcastId) -> watch::Receiver<Option<Upstream>> {
        let mut located = self.shared.lock_located();
        // Those that nobody follows any more go when somebody new comes.
        located.retain(|_, sender| sender.receiver_count() > 0);
        let sender = located.entry(id.clone()).or_insert_with(|| watch::Sender::new(self.shared.upstream(id)));
        sender.subscribe()
    }

    /// A way to a node that is known. Connects with the first request.
    pub fn channel(&self, node: &NodeId) -> Option<Channel> {
        let place = self.shared.view().node(node)?.0.grpc.clone();
        Some(self.shared.route(place).connection().channel)
    }

    /// Where clients reach a node: its name or address alone.
    pub fn host(&self, node: &NodeId) -> Option<String> {
        let view = self.shared.view();
        let http = if node == view.me().id() { &view.me().http } else { &view.node(node)?.0.http };
        let authority = http.split_once("://").map_or(&**http, |(_, rest)| rest).split('/').next()?;
        let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
        let host = authority.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(authority, |(host, _)| host);
        Some(host.trim_start_matches('[').trim_end_matches(']').to_owned())
    }

    pub fn count_viewers(&self) -> CountViewers {
        let cluster = self.clone();
        Arc::new(move |id| cluster.viewers(id))
    }

    /// How many watch a broadcast on all nodes together.
    fn viewers(&self, id: &BroadcastId) -> Viewers {
        let (here, elsewhere) = ((self.shared.surroundings.viewers)(id), self.shared.view().viewers(id));
        Viewers { webrtc: here.webrtc + elsewhere.webrtc, hls: here.hls + elsewhere.hls }
    }
}

impl Listening {
    pub fn cluster(&self) -> Cluster {
        self.cluster.clone()
    }

    /// Answers the others, with `routes` beside what the room itself serves, and begins to call. `router` answers requests
    /// of clients that reached another node.
    pub fn serve(self, routes: Routes, router: Router) -> anyhow::Result<Serving> {
        let Self { listener, cluster } = self;
        let shared = cluster.shared.clone();
        let server = tokio::spawn(server::serve(listener, routes, router, shared.clone())?);
        let mut loops = vec![tokio::spawn(keeper::run(shared.clone())), tokio::spawn(keep_time(shared.clone()))];
        if shared.surroundings.role.takes_publishers() {
            loops.push(tokio::spawn(witness::run(shared.surroundings.hub.clone(), shared)));
        }
        Ok(Serving::of(cluster, server, loops))
    }
}

/// Ages, deaths, and what this node says of itself.
async fn keep_time(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        shared.describe();
        let change = shared.view().tick(Instant::now());
        shared.changed(change);
    }
}

impl Shared {
    /// Says how this node does now.
    fn describe(&self) {
        let Surroundings { node, .. } = &self.surroundings;
        let change = {
            let mut view = self.view();
            let me = view.me().clone();
            let age = self.begun.elapsed();
            view.describe(NodeFacts { phase: node.phase(), load: node.load(), age, ..me })
        };
        self.changed(change);
    }

    fn state(&self, id: &BroadcastId, epoch: u64, status: Status) {
        let change = self.view().state(id.clone(), epoch, status, Instant::now());
        self.changed(change);
    }

    fn lost(&self, identity: &Identity) {
        let change = self.view().lost(identity, Instant::now());
        self.changed(change);
    }

    /// To be called after a change of the view, without the view's lock.
    fn changed(&self, change: Change) {
        if change != Change::Great {
            return;
        }
        self.version.send_modify(|version| *version += 1);
        for (id, sender) in self.lock_located().iter() {
            let upstream = self.upstream(id);
            sender.send_if_modified(|told| {
                let key = |upstream: &Option<Upstream>| upstream.as_ref().map(|up| (up.node.clone(), up.epoch));
                let moved = key(told) != key(&upstream);
                if moved {
                    *told = upstream;
                }
                moved
            });
        }
    }

    fn upstream(&self, id: &BroadcastId) -> Option<Upstream> {
        let (located, place) = {
            let view = self.view();
            let located = view.locate(id).filter(|located| !located.status.has_ended())?;
            let place = view.node(&located.owner)?.0.grpc.clone();
            (located, place)
        };
        Some(Upstream { node: located.owner, epoch: located.epoch, route: self.route(place) })
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_located(&self) -> MutexGuard<'_, HashMap<BroadcastId, watch::Sender<Option<Upstream>>>> {
        self.located.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// host:port that others are told to call.
fn advertised(settings: &config::Cluster, listening: SocketAddr) -> anyhow::Result<String> {
    if !settings.advertise.is_empty() {
        return Ok(settings.advertise.clone());
    }
    let ip = match listening.ip() {
        ip if ip.is_unspecified() => net::first_address(ip)?,
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listening.port()).to_string())
}

fn http_url(host: &str, HttpPlace(listening): HttpPlace) -> String {
    match listening.ip().to_canonical() {
        ip if ip.is_unspecified() => format!("http://{host}:{}", listening.port()),
        IpAddr::V4(ip) => format!("http://{ip}:{}", listening.port()),
        IpAddr::V6(ip) => format!("http://[{ip}]:{}", listening.port()),
    }
}
