//! An HTTP address that serves pages, media and REST: one server, one node of a cluster, or the balancer before several.

use std::{net::SocketAddr, time::Duration};

use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::Value;

use super::{s, until};

pub(crate) struct Site {
    pub(crate) http: SocketAddr,
    client: Client,
}

/// No connection is kept: a server that was killed must not be met again through an old one. It is in the network of the
/// thread that makes it.
pub(super) fn new_client() -> Client {
    Client::builder().timeout(s(10)).pool_max_idle_per_host(0).no_proxy().build().expect("an HTTP client")
}

impl Site {
    pub(super) fn new(http: SocketAddr, client: Client) -> Self {
        Self { http, client }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Where Ant Media's clients signal.
    pub(crate) fn websocket_url(&self, app: &str) -> String {
        format!("ws://{}/{app}/websocket", self.http)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        send(self.request("GET", path))
    }

    /// None where nobody answers.
    pub(crate) fn try_get(&self, path: &str) -> Option<Response> {
        self.request("GET", path).timeout(Duration::from_secs(5)).send().ok()
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().expect("a method"), self.url(path))
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let response = self.get(path);
        let status = response.status();
        let text = response.text().unwrap_or_default();
        assert!(status.is_success(), "GET {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("GET {path}: {error} in {text}"))
    }

    /// The broadcast as REST tells it, or None where it is not known.
    pub(crate) fn broadcast(&self, app: &str, id: &str) -> Option<Value> {
        let response = self.try_get(&format!("/{app}/rest/v2/broadcasts/{id}"))?;
        response.status().is_success().then(|| response.json().expect("a broadcast is JSON"))
    }

    pub(crate) fn until_status(&self, id: &str, status: &str) -> Value {
        until(&format!("{id} to be {status} at {}", self.http), s(20), || {
            self.broadcast("live", id).filter(|broadcast| broadcast["status"] == status)
        })
    }

    /// Until its pictures can be sent to WebRTC viewers.
    pub(crate) fn until_playable(&self, id: &str) {
        until(&format!("{id} to have a picture"), s(20), || {
            self.broadcast("live", id)?["deliveryPath"]["webrtc"]["video"].is_string().then_some(())
        });
    }

    /// The sum of a counter over its labels that contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").text().expect("metrics are text");
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Everything that was recorded, as REST lists it.
    pub(crate) fn recorded(&self) -> Vec<Value> {
        self.json("/live/rest/v2/vods/list/0/50").as_array().expect("a list").clone()
    }
}

pub(crate) fn send(request: RequestBuilder) -> Response {
    request.send().expect("the server answers")
}
