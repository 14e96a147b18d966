//! WHEP (draft-ietf-wish-whep): `POST /{app}/whep/{id}` with an offer is answered with 201 and `Location`, `ETag`, and a
//! `Link` per ICE server. What can be done with a session then is in `common/wish`. A node that takes nobody new has another
//! one answer, where there is one, or says 503.
//!
//! Players take 400 as "make me an offer" and 406 as "drop a track", so a missing stream is always 404, and so is one
//! whose publisher has not said yet what it sends: players take that as "try again".

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Request, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::Response,
    routing::post,
};
use headwater_common::{
    clock,
    cluster::identity::NodeId,
    finder::Finder,
    http::ByNode,
    ice_servers::IceServers,
    live::{Broadcast, BroadcastId, Status},
    node::Node,
    rtc::{Engine, Role},
    waiting,
    wish::{self, Home},
};

struct Whep {
    engine: Engine,
    finder: Finder,
    ice_servers: Arc<IceServers>,
    node: Node,
    peers: Option<Peers>,
}

/// The other nodes.
#[derive(Clone)]
pub struct Peers {
    pub home: Home,
    /// One that takes viewers now.
    pub roomy: Arc<dyn Fn() -> Option<NodeId> + Send + Sync>,
}

/// `ice_servers` are what players are told of; `peers` are absent where a node is alone.
pub fn router(
    engine: Engine,
    finder: Finder,
    ice_servers: Arc<IceServers>,
    node: Node,
    peers: Option<Peers>,
) -> Router {
    let home = peers.as_ref().map(|peers| peers.home.clone());
    let whep = Arc::new(Whep { engine: engine.clone(), finder, ice_servers, node, peers });
    let post = post(view).layer(middleware::from_fn_with_state(whep.clone(), elsewhere_when_busy));
    wish::router("/{app}/whep/{id}", post, whep, (engine, Role::Viewer), home)
}

async fn elsewhere_when_busy(State(whep): State<Arc<Whep>>, request: Request, next: Next) -> Response {
    let (Err(busy), Some(peers)) = (whep.node.takes_work(), &whep.peers) else { return next.run(request).await };
    // One that was handed on already finds out that there is no room here either.
    let other = (peers.roomy)().filter(|_| request.extensions().get::<ByNode>().is_none());
    let Some(other) = other else { return next.run(request).await };
    let response = (peers.home.hand_over)(other, request).await;
    if response.status() == StatusCode::BAD_GATEWAY { wish::refuse_work(busy) } else { response }
}

async fn view(
    State(whep): State<Arc<Whep>>,
    Path((app, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let broadcast = match whep.broadcast(&app, &id).await {
        Ok(broadcast) => broadcast,
        Err(response) => return *response,
    };
    let offer = match wish::offer(&headers, body) {
        Ok(offer) => offer,
        Err(response) => return *response,
    };
    if let Err(busy) = whep.node.takes_work() {
        return wish::refuse_work(busy);
    }
    waiting::until_complete(&broadcast).await;
    if broadcast.status() == Status::Ended || broadcast.tracks().is_empty() {
        let text = format!("{} sends no picture and no sound yet.", broadcast.id());
        return wish::retry_later(StatusCode::NOT_FOUND, text);
    }
    let answer = match whep.engine.view(&broadcast, &offer) {
        Ok(answer) => answer,
        Err(error) => return wish::refuse_offer(&error),
    };
    tracing::info!(broadcast = %broadcast.id(), session = %answer.session, agent = wish::agent(&headers), "WHEP viewer");
    let home = whep.peers.as_ref().map(|peers| &peers.home);
    wish::created(&format!("/{app}/whep/{id}"), home, answer, whep.ice_servers.links(clock::now_us()))
}

impl Whep {
    async fn broadcast(&self, app: &str, id: &str) -> Result<Arc<Broadcast>, Box<Response>> {
        let absent = |text: String| Box::new(wish::refuse(StatusCode::NOT_FOUND, text));
        let id = BroadcastId::new(app, id).map_err(|err| absent(err.to_string()))?;
        let live = self.finder.find(&id).await.filter(|broadcast| broadcast.status() != Status::Ended);
        live.ok_or_else(|| absent(format!("{id} is not being broadcast.")))
    }
}
