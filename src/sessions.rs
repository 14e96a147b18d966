//! `GET /{app}/rest/v2/broadcasts/{id}/webrtc-client-stats/{offset}/{size}`: who publishes and watches by WebRTC right now, on
//! all nodes, and how well.
//!
//! In: requests. Out: what each client is sent, how its network does: numbers that the engine refreshes every few seconds,
//! under Ant Media's names where it has one. Sessions come node by node, the oldest first, and the whole number in
//! `X-Total-Count`. Each node answers for itself: it is asked how many it has, and then for those that belong on the page.
//! One that does not answer in time leaves out its own. Not for everybody: addresses are personal, and who knows a
//! session's id may end it. Deliberately absent: sessions that are over.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Path, Request, State},
    http::{HeaderName, StatusCode},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use headwater_common::{
    cluster::{Cluster, identity::NodeId},
    config::Config,
    http::{Admin, ByNode, NO_STORE, admin_only},
    live::BroadcastId,
    rtc::{Engine, Role, SessionStats},
};
use serde::Serialize;
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};

use crate::nodes;

/// What a page of a list may hold, as in the other lists.
const PAGE_MAX: usize = 50;
/// For each of two questions to all other nodes.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A page as JSON.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const TOTAL: HeaderName = HeaderName::from_static("x-total-count");

#[derive(Clone)]
pub(crate) struct Sessions {
    pub(crate) config: Arc<Config>,
    pub(crate) engine: Engine,
    /// The other nodes, where there are any.
    pub(crate) cluster: Option<Cluster>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionJson {
    client_id: String,
    /// Where it is; null where there is only one.
    node: Option<String>,
    role: Role,
    /// False while the connection is being made.
    connected: bool,
    client_ip: String,
    age_ms: u64,
    /// Bits per second over the last few seconds.
    send_bitrate: u64,
    receive_bitrate: u64,
    /// What the way to the client is estimated to carry, and the rate that room is being looked for.
    measured_bitrate: Option<u64>,
    target_bitrate: Option<u64>,
    /// What a viewer is held to, because its path carries less than it is sent.
    limit_bitrate: Option<u64>,
    /// Lines of the layer that a viewer is sent where the publisher sends several, what that takes, and how often it
    /// was another one than before.
    layer_height: Option<u32>,
    layer_bitrate: Option<u64>,
    layer_switches: u64,
    /// Pictures that would have come too late.
    skipped_frames: u64,
    bytes_sent: u64,
    bytes_received: u64,
    packets_sent: u64,
    /// Of its data channel: told to it, said by it, and lost either way.
    messages_sent: u64,
    messages_received: u64,
    messages_dropped: u64,
    packet_lost_percent: Option<f32>,
    jitter_ms: Option<f32>,
    round_trip_time_ms: Option<f32>,
    /// Packets that the client asked for again.
    nack_count: u64,
    /// Keyframes that the client asked for, or was asked for.
    key_frame_requests: u64,
    candidate_pair: CandidatePair,
}

/// Empty until one was chosen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CandidatePair {
    protocol: &'static str,
    local: String,
    remote: String,
}

/// A part of the list, and how long the list is.
struct Page {
    sessions: Vec<Value>,
    total: usize,
}

/// Where a page begins, and how many belong on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    offset: usize,
    size: usize,
}

pub(crate) fn router(sessions: Sessions, admin: Admin) -> Router {
    Router::new()
        .route("/{app}/rest/v2/broadcasts/{id}/webrtc-client-stats/{offset}/{size}", get(list))
        .layer(middleware::from_fn_with_state(admin, admin_only))
        .with_state(sessions)
}

async fn list(
    State(sessions): State<Sessions>,
    Path((app, stream, offset, size)): Path<(String, String, usize, usize)>,
    request: Request,
) -> Response {
    if !sessions.config.apps.contains_key(&app) {
        return nodes::outcome(StatusCode::NOT_FOUND, format!("application {app:?} is not known"));
    }
    let id = match BroadcastId::new(&app, &stream) {
        Ok(id) => id,
        Err(error) => return nodes::outcome(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let span = Span { offset, size: size.min(PAGE_MAX) };
    let is_asked_by_node = request.extensions().get::<ByNode>().is_some();
    let page = match &sessions.cluster {
        Some(cluster) if !is_asked_by_node => {
            let client = request.extensions().get().map(|ConnectInfo(client): &ConnectInfo<SocketAddr>| *client);
            Others { cluster, id: &id, client }.around(&sessions.own(&id), span).await
        }
        _ => {
            let own = sessions.own(&id);
            Page { total: own.len(), sessions: part(&own, span) }
        }
    };
    ([NO_STORE, (TOTAL, page.total.into())], Json(page.sessions)).into_response()
}

impl Sessions {
    fn own(&self, id: &BroadcastId) -> Vec<Value> {
        let node = self.cluster.as_ref().map(|cluster| cluster.me().id().to_string());
        let mut sessions = self.engine.sessions(id);
        sessions.sort_by_key(|session| session.began_us);
        // Maps have text for keys, and numbers are finite or null: nothing can fail.
        sessions.into_iter().filter_map(|session| serde_json::to_value(describe(session, node.clone())).ok()).collect()
    }
}

fn part(sessions: &[Value], Span { offset, size }: Span) -> Vec<Value> {
    sessions.iter().skip(offset).take(size).cloned().collect()
}

/// The other nodes, asked about one broadcast for one client.
struct Others<'a> {
    cluster: &'a Cluster,
    id: &'a BroadcastId,
    client: Option<SocketAddr>,
}

impl Others<'_> {
    /// What belongs on a page where this node's own sessions stand first.
    async fn around(&self, own: &[Value], span: Span) -> Page {
        let me = self.cluster.me();
        let others = self.cluster.nodes().into_iter().filter(|known| known.health.is_there());
        let others = others.map(|known| known.facts.identity.id).filter(|node| node != me.id());
        let counted = self.ask(others.map(|node| (node, Span { offset: 0, size: 0 })).collect()).await;
        let totals: Vec<_> = std::iter::once(own.len()).chain(counted.iter().map(|(_, page)| page.total)).collect();
        let spans = cut(span, &totals);
        let wanted = counted.into_iter().map(|(node, _)| node).zip(spans.iter().skip(1).copied());
        let wanted = wanted.filter(|(_, span)| span.size > 0).collect();
        let mut sessions = part(own, spans[0]);
        sessions.extend(self.ask(wanted).await.into_iter().flat_map(|(_, page)| page.sessions));
        Page { sessions, total: totals.iter().sum() }
    }

    /// All at once; in the order of their names. Without those that don't answer.
    async fn ask(&self, nodes: Vec<(NodeId, Span)>) -> Vec<(NodeId, Page)> {
        let mut asked = JoinSet::new();
        for (node, Span { offset, size }) in nodes {
            let (app, stream) = (self.id.app(), self.id.stream());
            let path = format!("/{app}/rest/v2/broadcasts/{stream}/webrtc-client-stats/{offset}/{size}");
            // This node's own address would do: whether the client may see this was decided here.
            let client = self.client.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
            let cluster = self.cluster.clone();
            asked.spawn(async move {
                let answer = timeout(ANSWER_WITHIN, ask(&cluster, &node, path, client)).await;
                let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_WITHIN:?}")));
                (node, answer)
            });
        }
        let mut answers = Vec::new();
        for (node, answer) in asked.join_all().await {
            match answer {
                Ok(page) => answers.push((node, page)),
                Err(error) => tracing::warn!(broadcast = %self.id, %node, error, "its sessions are not listed"),
            }
        }
        answers.sort_by(|(a, _), (b, _)| a.cmp(b));
        answers
    }
}

async fn ask(cluster: &Cluster, node: &NodeId, path: String, client: SocketAddr) -> Result<Page, String> {
    let request = Request::get(path).body(Body::empty()).map_err(|error| error.to_string())?;
    let by = ByNode { may_change: true, hops: 1 };
    let response = cluster.forward(node, request, client, by).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()));
    }
    let total = response.headers().get(TOTAL).and_then(|total| total.to_str().ok()?.parse().ok());
    let total = total.ok_or("it does not say how many they are")?;
    let body = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.map_err(|error| error.to_string())?;
    let sessions = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Ok(Page { sessions, total })
}

/// Which part of each list belongs on a page of all of them, one after the other.
fn cut(page: Span, totals: &[usize]) -> Vec<Span> {
    let end = page.offset.saturating_add(page.size);
    let mut begin = 0;
    let part = |total: &usize| {
        let list = begin..begin + total;
        begin = list.end;
        let (from, to) = (page.offset.clamp(list.start, list.end), end.clamp(list.start, list.end));
        Span { offset: from - list.start, size: to - from }
    };
    totals.iter().map(part).collect()
}

fn describe(session: SessionStats, node: Option<String>) -> SessionJson {
    let client_ip = session.remote.rsplit_once(':').map_or("", |(ip, _)| ip.trim_matches(['[', ']'])).to_owned();
    SessionJson {
        client_id: session.id,
        node,
        role: session.role,
        connected: session.connected,
        client_ip,
        age_ms: session.age_ms,
        send_bitrate: session.send_bps,
        receive_bitrate: session.receive_bps,
        measured_bitrate: session.estimate_bps,
        target_bitrate: session.target_bps,
        limit_bitrate: session.limit_bps,
        layer_height: session.layer_height,
        layer_bitrate: session.layer_bps,
        layer_switches: session.layer_switches,
        skipped_frames: session.skipped,
        bytes_sent: session.bytes_sent,
        bytes_received: session.bytes_received,
        packets_sent: session.packets_sent,
        messages_sent: session.messages_sent,
        messages_received: session.messages_received,
        messages_dropped: session.messages_dropped,
        packet_lost_percent: session.lost_percent,
        jitter_ms: session.jitter_ms,
        round_trip_time_ms: session.rtt_ms,
        nack_count: session.nacks,
        key_frame_requests: session.plis + session.keyframes_asked,
        candidate_pair: CandidatePair { protocol: session.protocol, local: session.local, remote: session.remote },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_on_from_one_node_to_the_next() {
        let totals = [3, 0, 4, 2];
        let numbered: Vec<Vec<usize>> = vec![vec![0, 1, 2], vec![], vec![3, 4, 5, 6], vec![7, 8]];
        for size in 0..11 {
            for offset in [0, 1, 2, 3, 4, 6, 7, 8, 9, 20, usize::MAX] {
                let spans = cut(Span { offset, size }, &totals);
                let lists = spans.iter().zip(&numbered);
                let page: Vec<_> = lists.flat_map(|(span, list)| &list[span.offset..span.offset + span.size]).collect();
                let expected: Vec<_> = numbered.iter().flatten().skip(offset).take(size).collect();
                assert_eq!(page, expected, "{size} from {offset}");
            }
        }
    }
}
