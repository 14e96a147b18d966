//! Requests that are another node's to answer: which, whose, and what a client hears when that node does not answer.
//!
//! | request | goes to |
//! |---|---|
//! | REST of a broadcast that another origin holds | that origin |
//! | a recording that another origin has on its disk, and its deletion | that origin |
//! | what concerns a WHIP or WHEP session | the node that its URL names |
//! | any other REST at an edge, and recordings | the owner of the broadcast it names, or else any origin |
//!
//! In: requests. Out: responses of other nodes. What only reads is tried again if a node does not answer: an edge asks another
//! origin, an origin says what it knows itself. Deliberately absent: media, which an edge fetches by itself.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::any,
};
use headwater_common::{
    antmedia,
    cluster::{Cluster, Health, Known, identity::NodeId},
    http::{Admin, ByNode, NO_STORE},
    live::BroadcastId,
    node::Role,
    registry::{RecordingRow, RegistryError, VodId},
    store::asked,
    wish::{HandingOver, Home},
};
use headwater_origin::{inquiry::Inquiry, record::row_of};

/// How many nodes are asked what can be asked twice.
const READS_MAX: usize = 2;
/// A broadcast as JSON.
const DESCRIPTION_BYTES_MAX: usize = 1 << 20;

#[derive(Clone)]
pub(crate) struct Elsewhere {
    cluster: Cluster,
    admin: Admin,
}

/// An origin's recordings, and whose they are.
#[derive(Clone)]
struct Shelves {
    elsewhere: Elsewhere,
    inquiry: Inquiry,
}

impl Elsewhere {
    pub(crate) fn new(cluster: Cluster, admin: Admin) -> Self {
        Self { cluster, admin }
    }

    /// At an origin, in front of its own answers to REST.
    pub(crate) fn before_origin(&self, router: Router, inquiry: Inquiry) -> Router {
        let shelves = Shelves { elsewhere: self.clone(), inquiry };
        router
            .layer(middleware::from_fn_with_state(shelves, deletion_to_keeper))
            .layer(middleware::from_fn_with_state(self.clone(), to_owner))
    }

    /// At an origin, behind its own recordings.
    pub(crate) fn behind_recordings(&self, router: Router, inquiry: Inquiry) -> Router {
        let shelves = Shelves { elsewhere: self.clone(), inquiry };
        router.layer(middleware::from_fn_with_state(shelves, recording_to_keeper))
    }

    /// At an edge, whatever it has no answer to itself.
    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/rest/v2/{*rest}", any(to_origin))
            .route("/{app}/rest/v2/{*rest}", any(to_origin))
            .with_state(self.clone())
    }

    /// At an edge, in front of its live streams, whose path recordings share.
    pub(crate) fn before_edge(&self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self.clone(), recording_to_origin))
    }

    /// At an edge, broadcasts as an origin's REST shows them.
    pub(crate) fn describe(&self) -> antmedia::Describe {
        let elsewhere = self.clone();
        Arc::new(move |id| {
            let elsewhere = elsewhere.clone();
            Box::pin(async move {
                let request = Request::get(format!("/{}/rest/v2/broadcasts/{}", id.app(), id.stream()));
                let request = request.body(Body::empty()).ok()?;
                let response = elsewhere.hand_on(elsewhere.who_knows(Some(&id)), request).await.ok()?;
                let found = response.status().is_success();
                let text = to_bytes(response.into_body(), DESCRIPTION_BYTES_MAX).await.ok().filter(|_| found)?;
                String::from_utf8(text.to_vec()).ok()
            })
        })
    }

    /// For sessions, whose URLs name their node.
    pub(crate) fn home(&self) -> Home {
        let (me, elsewhere) = (self.cluster.me().id().clone(), self.clone());
        let hand_over = move |node, request| -> HandingOver {
            let elsewhere = elsewhere.clone();
            Box::pin(async move { elsewhere.hand_on(vec![node], request).await.into_response() })
        };
        Home { me, hand_over: Arc::new(hand_over) }
    }

    /// Whom to ask, the best one first.
    fn who_knows(&self, id: Option<&BroadcastId>) -> Vec<NodeId> {
        let owner = id.and_then(|id| self.owner(id));
        let mut origins = self.cluster.nodes();
        origins.retain(|known| known.facts.role == Role::Origin && known.health.is_there());
        origins.sort_by_key(|Known { facts, health, .. }| {
            (Some(facts.id()) != owner.as_ref(), *health != Health::Alive, facts.load.used_percent)
        });
        origins.into_iter().map(|known| known.facts.identity.id).collect()
    }

    /// Of a broadcast that goes on.
    fn owner(&self, id: &BroadcastId) -> Option<NodeId> {
        let located = self.cluster.whereabouts(id).filter(|located| !located.status.has_ended())?;
        Some(located.owner)
    }

    /// To the first of these nodes; what only reads to the next one, if that does not answer.
    async fn hand_on(&self, nodes: Vec<NodeId>, request: Request) -> Result<Response, Unanswered> {
        let client = request.extensions().get().map_or(HERE, |ConnectInfo(client): &ConnectInfo<SocketAddr>| *client);
        let by = match request.extensions().get::<ByNode>() {
            Some(by) => ByNode { hops: by.hops + 1, ..*by },
            None => ByNode { may_change: self.admin.permits(client.ip(), request.headers()), hops: 1 },
        };
        if by.hops > ByNode::HOPS_MAX {
            return Err(Unanswered("this request has been handed on often enough".to_owned()));
        }
        let tries = if only_reads(&request) { READS_MAX } else { 1 };
        let (head, body) = request.into_parts();
        let mut body = Some(body);
        let mut last = "no origin can be reached".to_owned();
        for node in nodes.iter().take(tries) {
            let request = Request::from_parts(head.clone(), body.take().unwrap_or_default());
            match self.cluster.forward(node, request, client, by).await {
                Ok(response) => return Ok(response),
                Err(error) => last = error.to_string(),
            }
        }
        // The client hears of it; that a link was lost stands in the log.
        tracing::debug!(path = head.uri.path(), last, "a request was not answered elsewhere");
        Err(Unanswered(last))
    }
}

/// Why nobody answered.
struct Unanswered(String);

impl IntoResponse for Unanswered {
    fn into_response(self) -> Response {
        let retry = (header::RETRY_AFTER, HeaderValue::from_static("1"));
        (StatusCode::BAD_GATEWAY, [NO_STORE, retry], format!("{}\n", self.0)).into_response()
    }
}

/// And so may be asked twice.
fn only_reads(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

/// Where a request begins that no client made.
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn to_owner(State(elsewhere): State<Elsewhere>, request: Request, next: Next) -> Response {
    let hops = request.extensions().get::<ByNode>().map_or(0, |by| by.hops);
    let owner = broadcast_in(request.uri().path()).and_then(|id| elsewhere.owner(&id));
    let Some(owner) = owner.filter(|owner| hops < ByNode::HOPS_MAX && *owner != elsewhere.cluster.me().identity.id)
    else {
        return next.run(request).await;
    };
    if !only_reads(&request) {
        return elsewhere.hand_on(vec![owner], request).await.into_response();
    }
    let (head, body) = request.into_parts();
    match elsewhere.hand_on(vec![owner], Request::from_parts(head.clone(), body)).await {
        Ok(response) => response,
        Err(_) => next.run(Request::from_parts(head, Body::empty())).await,
    }
}

async fn to_origin(State(elsewhere): State<Elsewhere>, request: Request) -> Result<Response, Unanswered> {
    let nodes = elsewhere.who_knows(broadcast_in(request.uri().path()).as_ref());
    elsewhere.hand_on(nodes, request).await
}

async fn recording_to_origin(State(elsewhere): State<Elsewhere>, request: Request, next: Next) -> Response {
    if asked(request.uri().path()).is_none() || !only_reads(&request) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let there = elsewhere.hand_on(elsewhere.who_knows(None), Request::from_parts(head.clone(), body)).await;
    match there {
        // A stream may be called as recordings are.
        Ok(response) if response.status() == StatusCode::NOT_FOUND => {
            next.run(Request::from_parts(head, Body::empty())).await
        }
        there => there.into_response(),
    }
}

/// What is on this node's own disk is answered without a question to anybody.
async fn recording_to_keeper(State(shelves): State<Shelves>, request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let Some((app, recording)) = asked(uri.path()).filter(|_| only_reads(&request)) else {
        return next.run(request).await;
    };
    let (head, body) = request.into_parts();
    let here = next.run(Request::from_parts(head.clone(), body)).await;
    if here.status() != StatusCode::NOT_FOUND {
        return here;
    }
    let found = shelves.inquiry.ask(|registry| row_of(registry, app, recording)).await;
    match shelves.keeper(found) {
        Some(keeper) => {
            let request = Request::from_parts(head, Body::empty());
            shelves.elsewhere.hand_on(vec![keeper], request).await.into_response()
        }
        None => here,
    }
}

async fn deletion_to_keeper(State(shelves): State<Shelves>, request: Request, next: Next) -> Response {
    let Some((app, vod)) = vod_in(request.uri().path()).filter(|_| *request.method() == Method::DELETE) else {
        return next.run(request).await;
    };
    let found = shelves.inquiry.ask(|registry| registry.recording(app, &vod)).await;
    match shelves.keeper(found) {
        Some(keeper) => shelves.elsewhere.hand_on(vec![keeper], request).await.into_response(),
        None => next.run(request).await,
    }
}

impl Shelves {
    /// Another node that is there and has the file on its disk.
    fn keeper(&self, found: Result<Option<RecordingRow>, RegistryError>) -> Option<NodeId> {
        let row = found.inspect_err(|error| tracing::error!(%error, "the registry was not read")).ok()??;
        let keeper = NodeId::from(&*row.node);
        let cluster = &self.elsewhere.cluster;
        (keeper != *cluster.me().id() && cluster.channel(&keeper).is_some()).then_some(keeper)
    }
}

/// `/{app}/rest/v2/vods/{id}`
fn vod_in(path: &str) -> Option<(&str, VodId)> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let app = parts.next()?;
    let is_vod = [parts.next()?, parts.next()?, parts.next()?] == ["rest", "v2", "vods"];
    let vod = parts.next()?;
    (is_vod && parts.next().is_none()).then(|| (app, VodId::parse(vod)))
}

/// `/{app}/rest/v2/broadcasts/{id}…`
fn broadcast_in(path: &str) -> Option<BroadcastId> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let app = parts.next()?;
    let is_broadcast = [parts.next()?, parts.next()?, parts.next()?] == ["rest", "v2", "broadcasts"];
    // What is no name of a broadcast belongs to all of them: `list`, `count`. One of such a name is not known by it.
    let stream = parts.next()?;
    is_broadcast.then(|| BroadcastId::new(app, stream).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_found_in_the_paths_that_name_its_id() {
        assert_eq!(vod_in("/live/rest/v2/vods/7"), Some(("live", VodId::parse("7"))));
        for path in ["/live/rest/v2/vods/list/0/50", "/live/rest/v2/broadcasts/7", "/rest/v2/vods/7"] {
            assert_eq!(vod_in(path), None, "{path}");
        }
    }

    #[test]
    fn a_broadcast_is_found_in_the_paths_that_name_one() {
        let found = |path| broadcast_in(path).map(|id| id.to_string());
        for path in ["/live/rest/v2/broadcasts/x", "/live/rest/v2/broadcasts/x/recording/true"] {
            assert_eq!(found(path).as_deref(), Some("live/x"), "{path}");
        }
        for path in
            ["/", "/live/rest/v2/broadcasts", "/live/rest/v2/broadcasts/", "/live/rest/v2/vods/x", "/rest/v2/live"]
        {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
