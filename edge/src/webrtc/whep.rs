//! WHEP (draft-ietf-wish-whep): `POST /{app}/whep/{id}` with an offer is answered with 201 and `Location`, `ETag`, and a
//! `Link` per ICE server. What can be done with a session then is in `common/wish`.
//!
//! Players take 400 as "make me an offer" and 406 as "drop a track", so a missing stream is always 404, and so is one
//! whose publisher has not said yet what it sends: players take that as "try again".

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::post,
};
use headwater_common::{
    clock,
    ice_servers::IceServers,
    live::{Broadcast, BroadcastId, Hub, Status},
    node::Node,
    rtc::{Engine, Role},
    waiting, wish,
};

struct Whep {
    engine: Engine,
    hub: Arc<Hub>,
    ice_servers: Arc<IceServers>,
    node: Node,
}

/// `ice_servers` are what players are told of.
pub fn router(engine: Engine, hub: Arc<Hub>, ice_servers: Arc<IceServers>, node: Node) -> Router {
    let whep = Whep { engine: engine.clone(), hub, ice_servers, node };
    wish::router("/{app}/whep/{id}", post(view), Arc::new(whep), engine, Role::Viewer)
}

async fn view(
    State(whep): State<Arc<Whep>>,
    Path((app, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let broadcast = match whep.broadcast(&app, &id) {
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
    wish::created(&format!("/{app}/whep/{id}"), answer, whep.ice_servers.links(clock::now_us()))
}

impl Whep {
    fn broadcast(&self, app: &str, id: &str) -> Result<Arc<Broadcast>, Box<Response>> {
        let absent = |text: String| Box::new(wish::refuse(StatusCode::NOT_FOUND, text));
        let id = BroadcastId::new(app, id).map_err(|err| absent(err.to_string()))?;
        let live = self.hub.get(&id).filter(|broadcast| broadcast.status() != Status::Ended);
        live.ok_or_else(|| absent(format!("{id} is not being broadcast.")))
    }
}
