//! HAProxy in front of several nodes, asking each five times a second whether it is ready.

use std::{net::SocketAddr, process::Command};

use super::{Process, Server, s, scratch, server::free_address, until};

pub(crate) struct Balancer {
    _process: Process,
    pub(crate) http: SocketAddr,
}

impl Balancer {
    /// Requests go to the nodes in turn.
    pub(crate) fn http(nodes: &[&Server]) -> Self {
        let (http, folder) = (free_address(), scratch("haproxy"));
        let mut settings = format!(
            "global\n  log stderr format raw daemon\n\
             defaults\n  mode http\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n  timeout tunnel 1h\n  \
               option redispatch\n  retries 2\n  retry-on conn-failure\n\
             frontend web\n  bind {http}\n  default_backend nodes\n\
             backend nodes\n  balance roundrobin\n  option httpchk GET /readyz\n  default-server check inter 200ms fall 1 rise 1\n"
        );
        for (number, node) in nodes.iter().enumerate() {
            settings += &format!("  server node{number} {}\n", node.http);
        }
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, settings).expect("write settings");
        let mut process = Process::start("haproxy", Command::new("haproxy").args(["-db", "-q", "-f"]).arg(file));
        until("HAProxy to have a node", s(10), || {
            assert!(process.runs(), "HAProxy ended: {}", process.text());
            let answer = reqwest::blocking::get(format!("http://{http}/readyz")).ok()?;
            answer.status().is_success().then_some(())
        });
        Self { _process: process, http }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }
}
