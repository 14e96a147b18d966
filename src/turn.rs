//! STUN and TURN servers for pages and apps that make their own connections.
//!
//! | request | answer |
//! |---|---|
//! | `GET /{app}/turn-credentials` | 200 with `{"iceServers":[…]}`, the settings of an `RTCPeerConnection` |
//! | more often than one client needs | 429 with `Retry-After` |
//!
//! Deliberately absent: who may ask. Whoever may watch or publish gets the same from WHEP or WHIP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, State},
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::get,
};
use headwater_common::{
    clock,
    config::Config,
    http::{NO_STORE, RateLimit},
    ice_servers::{IceServer, IceServers},
};
use serde::Serialize;

/// An office behind one address begins to watch at once; a script that collects credentials does not get far.
const BURST: u32 = 100;
const PER_SECOND: u32 = 5;

struct Desk {
    config: Arc<Config>,
    ice_servers: Arc<IceServers>,
    limit: Mutex<RateLimit>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    ice_servers: Vec<IceServer>,
}

pub(crate) fn router(config: Arc<Config>, ice_servers: Arc<IceServers>) -> Router {
    let desk = Desk { config, ice_servers, limit: Mutex::new(RateLimit::new(BURST, PER_SECOND)) };
    Router::new().route("/{app}/turn-credentials", get(credentials)).with_state(Arc::new(desk))
}

async fn credentials(
    State(desk): State<Arc<Desk>>,
    Path(app): Path<String>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Response {
    if !desk.config.apps.contains_key(&app) {
        return (StatusCode::NOT_FOUND, [NO_STORE], format!("There is no application {app:?}.\n")).into_response();
    }
    if let Err(wait) = desk.count(peer) {
        let retry = [(RETRY_AFTER, wait.as_secs_f64().ceil().to_string())];
        let text = "Too many requests from this address.\n";
        return (StatusCode::TOO_MANY_REQUESTS, [NO_STORE], retry, text).into_response();
    }
    ([NO_STORE], Json(Settings { ice_servers: desk.ice_servers.for_client(clock::now_us()) })).into_response()
}

impl Desk {
    fn count(&self, peer: SocketAddr) -> Result<(), Duration> {
        // A count that a panic cut short is still a count.
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).take(peer.ip(), Instant::now())
    }
}
