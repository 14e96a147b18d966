//! WHEP (draft-ietf-wish-whep): `POST /{app}/whep/{id}` with an offer is answered with 201 and `Location`, `ETag`, and a
//! `Link` per ICE server. What can be done with a session then is in `common/wish`.
//!
//! Players take 400 as "make me an offer" and 406 as "drop a track", so a missing stream is always 404, and so is one
//! whose publisher has not said yet what it sends: players take that as "try again".

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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
    media::{Accepts, Delivery, Kind},
    rtc::{Engine, Role},
    wish,
};
use tokio::time::{Instant, timeout_at};

/// A publisher says what it sends within this after it was let in.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// The headers of picture and sound, and the conversion of the sound, come one after the other.
const SECOND_PATIENCE: Duration = Duration::from_millis(300);

struct Whep {
    engine: Engine,
    hub: Arc<Hub>,
    ice_servers: Arc<IceServers>,
}

/// `ice_servers` are what players are told of.
pub fn router(engine: Engine, hub: Arc<Hub>, ice_servers: Arc<IceServers>) -> Router {
    let whep = Whep { engine: engine.clone(), hub, ice_servers };
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
    settle(&broadcast).await;
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

/// Waits, for a moment, until a broadcast that has just begun has the tracks it is going to have: a player that came in
/// between would be answered without sound, or be told that WebRTC is not for it.
async fn settle(broadcast: &Broadcast) {
    let mut news = broadcast.watch();
    let limit = Instant::now() + START_PATIENCE;
    let mut second = None;
    loop {
        let chosen = [Kind::Video, Kind::Audio]
            .map(|kind| broadcast.choose(kind, Delivery::WebRtc(Accepts::EVERYWHERE)).is_some());
        // What an older broadcast has not got, it will not get.
        let older = !broadcast.tracks().is_empty() && age_us(broadcast) > START_PATIENCE.as_micros() as i64;
        if older || chosen == [true; 2] || broadcast.status() == Status::Ended {
            return;
        }
        if chosen != [false; 2] {
            second.get_or_insert_with(|| Instant::now() + SECOND_PATIENCE);
        }
        let until = second.map_or(limit, |second| limit.min(second));
        if !matches!(timeout_at(until, news.changed()).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// How long ago the present publisher took it.
fn age_us(broadcast: &Broadcast) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as i64 - broadcast.epoch_began_us()
}

impl Whep {
    fn broadcast(&self, app: &str, id: &str) -> Result<Arc<Broadcast>, Box<Response>> {
        let absent = |text: String| Box::new(wish::refuse(StatusCode::NOT_FOUND, text));
        let id = BroadcastId::new(app, id).map_err(|err| absent(err.to_string()))?;
        let live = self.hub.get(&id).filter(|broadcast| broadcast.status() != Status::Ended);
        live.ok_or_else(|| absent(format!("{id} is not being broadcast.")))
    }
}
