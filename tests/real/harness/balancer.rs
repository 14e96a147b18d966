//! HAProxy before the nodes of a cluster, as operators have it: RTMP and whatever else publishers need to the origins,
//! viewers to the edges, each only to those that are ready.

use std::{fmt::Write, net::SocketAddr, ops::Deref, process::Command};

use reqwest::blocking::Client;

use super::{Process, Server, Site, s, scratch, server::free_address, site::new_client, until};

pub(crate) struct Balancer {
    /// For publishers and REST.
    pub(crate) origins: Site,
    viewers: Site,
    rtmp: SocketAddr,
    process: Process,
}

/// Where it listens, and what comes before the program: a command line that runs it somewhere else.
pub(super) struct Place {
    pub(super) viewers: SocketAddr,
    pub(super) origins: SocketAddr,
    pub(super) rtmp: SocketAddr,
    pub(super) prefix: Vec<String>,
}

/// HTTP is asked for readiness, whatever is then passed on. The figures are faster than most would have them: what a test
/// waits for is not the balancer.
const HEAD: &str = "
global
  maxconn 4000
defaults
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  timeout check 1s
  retries 3
  option redispatch 1
  option httpchk GET /readyz
  default-server inter 200ms fall 2 rise 1
";

impl Balancer {
    /// Before nodes on this machine that are both: requests go to them in turn.
    pub(crate) fn http(nodes: &[&Server]) -> Self {
        let [viewers, origins, rtmp] = std::array::from_fn(|_| free_address());
        Self::start(Place { viewers, origins, rtmp, prefix: Vec::new() }, &new_client(), nodes, nodes)
    }

    pub(super) fn start(place: Place, client: &Client, origins: &[&Server], edges: &[&Server]) -> Self {
        let Place { viewers, origins: origins_http, rtmp, prefix } = place;
        let mut page = HEAD.to_owned();
        let mut listen =
            |name: &str, mode: &str, at: SocketAddr, servers: &[&Server], of: fn(&Server) -> SocketAddr| {
                writeln!(page, "listen {name}\n  mode {mode}\n  bind {at}\n  balance roundrobin").expect("memory");
                for (number, server) in servers.iter().enumerate() {
                    let (to, asked) = (of(server), server.http);
                    writeln!(page, "  server {name}{number} {to} check addr {} port {}", asked.ip(), asked.port())
                        .expect("memory");
                }
            };
        listen("viewers", "http", viewers, edges, |server| server.http);
        listen("publishers", "http", origins_http, origins, |server| server.http);
        listen("rtmp", "tcp", rtmp, origins, |server| server.rtmp);
        let file = scratch("haproxy").join("haproxy.cfg");
        std::fs::write(&file, page).expect("write settings");
        let words = [prefix, vec!["/usr/sbin/haproxy".to_owned()]].concat();
        let mut process =
            Process::start("haproxy", Command::new(&words[0]).args(&words[1..]).args(["-db", "-f"]).arg(file));
        let sites = [viewers, origins_http].map(|address| Site::new(address, client.clone()));
        for site in &sites {
            until("haproxy to have a node", s(10), || {
                assert!(process.runs(), "haproxy ended at its start");
                site.try_get("/readyz").filter(|answer| answer.status().is_success())
            });
        }
        let [viewers, origins] = sites;
        Self { origins, viewers, rtmp, process }
    }

    /// An edge that was away gets viewers from now on.
    pub(crate) fn until_edge_is_back(&mut self, number: usize) {
        let word = format!("viewers/viewers{number} is UP");
        self.process.line("haproxy to find the edge again", s(10), |line| line.contains(&word).then_some(()));
    }

    /// Where to publish `app/id`.
    pub(crate) fn rtmp_url(&self, name: &str) -> String {
        format!("rtmp://{}/{name}", self.rtmp)
    }
}

/// As a viewer sees it.
impl Deref for Balancer {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.viewers
    }
}
