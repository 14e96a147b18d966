//! A whole cluster of real processes: MongoDB, origins, edges, and a balancer before them, each on a machine of its own.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    time::Duration,
};

use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::{
    Server,
    balancer::{self, Balancer},
    mongod::{self, Mongod},
    network::{Machine, Network},
    s, scratch,
    server::Launch,
    site::new_client,
    until,
};

const HTTP_PORT: u16 = 5080;
const RTMP_PORT: u16 = 1935;
const RTC_PORT: u16 = 30_000;
/// Of the balancer: what publishers need beside RTMP.
const ORIGINS_HTTP_PORT: u16 = 8080;
const GRPC_PORT: u16 = 5000;
const MONGOD_PORT: u16 = 27_017;
const SECRET: &str = "of-a-cluster-that-lasts-as-long-as-a-test";

/// What a cluster consists of.
pub(crate) struct Plan {
    pub(crate) origins: usize,
    pub(crate) edges: usize,
    /// None: each origin has a registry of its own.
    pub(crate) mongods: usize,
    /// Of all nodes, a TOML page.
    pub(crate) settings: &'static str,
    /// Seconds by which clocks are wrong, of origins and edges in their order; those that are not named are right.
    pub(crate) skews_s: [&'static [i32]; 2],
}

impl Default for Plan {
    fn default() -> Self {
        Self { origins: 2, edges: 2, mongods: 1, settings: "", skews_s: [&[], &[]] }
    }
}

pub(crate) struct Cluster {
    pub(crate) balancer: Balancer,
    pub(crate) origins: Vec<Node>,
    pub(crate) edges: Vec<Node>,
    pub(crate) mongod: Option<Mongod>,
    pub(crate) mongod_machines: Vec<Machine>,
    pub(crate) network: Network,
    _front: Machine,
}

pub(crate) struct Node {
    server: Server,
    pub(crate) machine: Machine,
}

impl Plan {
    /// Until every node is ready and knows all others.
    pub(crate) fn start(self) -> Cluster {
        let network = Network::new();
        let mongod_machines: Vec<_> = (0..self.mongods).map(|_| network.machine()).collect();
        let place = |machine: &Machine| (SocketAddr::from((machine.address, MONGOD_PORT)), machine.prefix());
        let places: Vec<_> = mongod_machines.iter().map(place).collect();
        let mongod = (!places.is_empty()).then(|| Mongod::replica_set_at(scratch("mongod"), places));
        let client = new_client();
        let [origins, edges] =
            [self.origins, self.edges].map(|count| (0..count).map(|_| network.machine()).collect::<Vec<_>>());
        let seeds: Vec<_> = origins.iter().map(|origin| format!("{}:{GRPC_PORT}", origin.address)).collect();
        let address = |mongod: &Mongod| format!("[registry]\nmongodb = \"{}\"\n", mongod.uri(""));
        let registry = mongod.as_ref().map(address).unwrap_or_default();
        let launch = |role: &'static str, machine: Machine, skew_s: i32, more: &str| {
            let at = |port| SocketAddr::from((machine.address, port));
            let settings = format!(
                "{}\n{more}\norigins = {seeds:?}\nsecret = \"{SECRET}\"\nadvertise = \"{}\"\nhttp = \"http://{}\"\n\
                 [http]\nadmin_networks = [\"127.0.0.0/8\", \"10.77.0.0/16\"]\n",
                self.settings,
                at(GRPC_PORT),
                at(HTTP_PORT)
            );
            let launch = Launch {
                prefix: machine.prefix(),
                role: Some(role),
                variables: wrong_clock(skew_s),
                http: at(HTTP_PORT),
                rtmp: at(RTMP_PORT),
                rtc: at(RTC_PORT),
                grpc: at(GRPC_PORT),
            };
            Node { server: Server::launch(launch, &settings, client.clone()), machine }
        };
        let start = |role, machines: Vec<Machine>, skews_s: &[i32], more: &str| -> Vec<Node> {
            let skews_s = skews_s.iter().copied().chain(std::iter::repeat(0));
            machines.into_iter().zip(skews_s).map(|(machine, skew_s)| launch(role, machine, skew_s, more)).collect()
        };
        let mut origins = start("origin", origins, self.skews_s[0], &format!("{registry}[cluster]"));
        let mut edges = start("edge", edges, self.skews_s[1], "[cluster]");
        for node in origins.iter_mut().chain(&mut edges) {
            node.server.until_ready();
        }
        let [origin_sites, edge_sites] =
            [&origins, &edges].map(|nodes| nodes.iter().map(|node| &node.server).collect::<Vec<_>>());
        let front = network.machine();
        let at = |port| SocketAddr::from((front.address, port));
        let (viewers, origins_http, rtmp) = (at(HTTP_PORT), at(ORIGINS_HTTP_PORT), at(RTMP_PORT));
        let place = balancer::Place { viewers, origins: origins_http, rtmp, prefix: front.prefix() };
        let balancer = Balancer::start(place, &client, &origin_sites, &edge_sites);
        let cluster = Cluster { balancer, origins, edges, mongod, mongod_machines, network, _front: front };
        cluster.until_whole();
        cluster
    }
}

/// By libfaketime, which Debian has. Only the wall clock: nobody's monotonic one jumps.
fn wrong_clock(skew_s: i32) -> Vec<(&'static str, String)> {
    if skew_s == 0 {
        return Vec::new();
    }
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    vec![
        ("LD_PRELOAD", library),
        ("FAKETIME", format!("{skew_s:+}s")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

impl Cluster {
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.origins.iter().chain(&self.edges)
    }

    /// Every node that runs says of every other that it is there.
    fn until_whole(&self) {
        let all = self.origins.len() + self.edges.len();
        for node in self.nodes() {
            until(&format!("{} to know all nodes", node.http), s(20), || {
                let ready = node.listed().into_iter().filter(|row| row["phase"] == "ready").count();
                (ready == all).then_some(())
            });
        }
    }

    /// How long it takes until each of these says so of the broadcast.
    pub(crate) fn until_status<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a Node>,
        id: &str,
        status: &str,
    ) -> Duration {
        let begun = std::time::Instant::now();
        for node in nodes {
            node.until_status(id, status);
        }
        begun.elapsed()
    }

    /// What the registry holds of it.
    pub(crate) fn row(&self, id: &str) -> Option<Document> {
        let primary = self.mongod_machines[self.mongod.as_ref()?.primary()].address;
        let find = doc! { "find": "broadcast", "filter": { "streamId": id }, "limit": 1 };
        let found = mongod::ask(SocketAddr::from((primary, MONGOD_PORT)), "live", find)?;
        found.get_document("cursor").ok()?.get_array("firstBatch").ok()?.first()?.as_document().cloned()
    }

    /// The origin where it is published, by its place in the list.
    pub(crate) fn owner(&self, id: &str) -> usize {
        until(&format!("{id} to have an origin"), s(20), || {
            let broadcast = self.origins.iter().find_map(|origin| origin.broadcast("live", id))?;
            let address = broadcast["originAdress"].as_str()?.to_owned();
            self.origins.iter().position(|origin| address.contains(&origin.machine.address.to_string()))
        })
    }
}

impl Node {
    /// All nodes of the cluster, as this one tells.
    pub(crate) fn listed(&self) -> Vec<Value> {
        let Some(response) = self.try_get("/rest/v2/cluster/nodes/0/50") else { return Vec::new() };
        response.json::<Value>().ok().and_then(|list| list.as_array().cloned()).unwrap_or_default()
    }
}

impl Deref for Node {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}
