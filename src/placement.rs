//! `GET /{app}/rest/v2/placement?streamId=…&role=play|publish`: which node a client should go to, and why. The answer is what
//! Ant Media's SDK expects of its `httpEndpointUrl`: it checks `http_url` with HEAD and opens `websocket_url`.
//!
//! In: requests, what is known of the nodes. Out: one of them, or 503 where none takes new work. Deliberately absent: the
//! choice itself, which is `common/placement`, and any promise: a node may fill up before the client gets there, and says so.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use headwater_common::{
    cluster::{Cluster, NodeFacts, identity::NodeId},
    config::Config,
    http::NO_STORE,
    live::BroadcastId,
    node::{Node, Role},
    placement::{Candidate, NoPlace, Reason, Wish, place},
};
use serde::{Deserialize, Serialize};

/// Until the nodes' next reports.
const RETRY_AFTER_S: &str = "2";

#[derive(Clone)]
pub(crate) struct Placement(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    node: Node,
    role: Role,
    /// Absent where a node is alone.
    cluster: Option<Cluster>,
    turn: AtomicUsize,
}

/// Others, and this node where it is alone.
type Place = Option<NodeId>;

#[derive(Deserialize)]
struct Question {
    #[serde(rename = "streamId", default)]
    stream_id: String,
    #[serde(default)]
    role: ForRole,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ForRole {
    #[default]
    Play,
    Publish,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Placed {
    fqdn: String,
    websocket_url: String,
    http_url: String,
    /// Null where there is only one.
    node: Option<String>,
    reason: String,
}

#[derive(Serialize)]
struct Refusal {
    success: bool,
    message: String,
}

impl Placement {
    pub(crate) fn new(config: Arc<Config>, node: Node, role: Role, cluster: Option<Cluster>) -> Self {
        Self(Arc::new(Inner { config, node, role, cluster, turn: AtomicUsize::new(0) }))
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().route("/{app}/rest/v2/placement", get(answer)).with_state(self.clone())
    }

    /// Another node that takes viewers now.
    pub(crate) fn roomy(&self) -> Option<NodeId> {
        let me = self.0.cluster.as_ref()?.me().id().clone();
        let others: Vec<_> =
            self.candidates().into_iter().filter(|candidate| candidate.node.as_ref() != Some(&me)).collect();
        place(&others, None, Wish::Play, self.turn()).ok()?.0.clone()
    }

    fn place(&self, id: &BroadcastId, wish: Wish) -> Result<(Place, Reason), NoPlace> {
        let located = self.0.cluster.as_ref().and_then(|cluster| cluster.whereabouts(id));
        let owner = located.filter(|located| !located.status.has_ended()).map(|located| Some(located.owner));
        let candidates = self.candidates();
        place(&candidates, owner.as_ref(), wish, self.turn()).map(|(node, reason)| (node.clone(), reason))
    }

    fn candidates(&self) -> Vec<Candidate<Place>> {
        let Inner { node, role, cluster, .. } = &*self.0;
        let Some(cluster) = cluster else {
            let used_percent = node.load().used_percent;
            return vec![Candidate { node: None, role: *role, phase: node.phase(), used_percent }];
        };
        let there = cluster.nodes().into_iter().filter(|known| known.health.is_there()).map(|known| known.facts);
        let candidate = |facts: NodeFacts| Candidate {
            node: Some(facts.id().clone()),
            role: facts.role,
            phase: facts.phase,
            used_percent: facts.load.used_percent,
        };
        there.map(candidate).collect()
    }

    fn turn(&self) -> usize {
        self.0.turn.fetch_add(1, Relaxed)
    }

    /// Where clients reach it, without a slash at the end. A node that is alone is reached as it was just now.
    fn address(&self, node: &Place, headers: &HeaderMap) -> String {
        let Inner { cluster, config, .. } = &*self.0;
        let known = cluster.as_ref().map(Cluster::nodes).unwrap_or_default();
        let url = known.into_iter().find(|known| Some(known.facts.id()) == node.as_ref()).map(|known| known.facts.http);
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let own = || {
            let host = text(header::HOST.as_str());
            let tls = config.tls.is_set().then(|| format!(":{}", config.http.tls_listen.port()));
            let secure = text("x-forwarded-proto") == "https" || tls.is_some_and(|port| host.ends_with(&port));
            format!("{}://{host}", if secure { "https" } else { "http" })
        };
        url.unwrap_or_else(own).trim_end_matches('/').to_owned()
    }
}

async fn answer(
    State(placement): State<Placement>,
    Path(app): Path<String>,
    Query(question): Query<Question>,
    headers: HeaderMap,
) -> Response {
    if !placement.0.config.apps.contains_key(&app) {
        return refuse(StatusCode::NOT_FOUND, format!("there is no application {app:?}"));
    }
    let wish = match question.role {
        ForRole::Play => Wish::Play,
        ForRole::Publish => Wish::Publish,
    };
    let id = match BroadcastId::new(&app, &question.stream_id) {
        Ok(id) => id,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match placement.place(&id, wish) {
        Ok((node, reason)) => {
            let placed = describe(&placement.address(&node, &headers), &app, node, reason);
            ([NO_STORE], Json(placed)).into_response()
        }
        Err(error) => {
            let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER_S));
            response
        }
    }
}

fn describe(address: &str, app: &str, node: Place, reason: Reason) -> Placed {
    let authority = address.split_once("://").map_or(address, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let name = authority.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(authority, |(name, _)| name);
    Placed {
        fqdn: name.to_owned(),
        websocket_url: format!("{}/{app}/websocket", address.replacen("http", "ws", 1)),
        // That the node is up is all that is to be checked: one that is full still takes back its own publishers.
        http_url: format!("{address}/livez"),
        node: node.map(|node| node.to_string()),
        reason: reason.to_string(),
    }
}

fn refuse(status: StatusCode, message: String) -> Response {
    (status, [NO_STORE], Json(Refusal { success: false, message })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_what_the_sdk_opens() {
        let reason = Reason::Only { used_percent: 3 };
        let placed = describe("https://edge1.example.org:5443", "live", None, reason);
        assert_eq!(placed.fqdn, "edge1.example.org");
        assert_eq!(placed.websocket_url, "wss://edge1.example.org:5443/live/websocket");
        assert_eq!(placed.http_url, "https://edge1.example.org:5443/livez");
        let placed = describe("http://[2001:db8::1]:5080", "live", None, reason);
        assert_eq!(
            (&*placed.fqdn, &*placed.websocket_url),
            ("[2001:db8::1]", "ws://[2001:db8::1]:5080/live/websocket")
        );
        assert_eq!(describe("http://[2001:db8::1]", "live", None, reason).fqdn, "[2001:db8::1]");
    }
}
