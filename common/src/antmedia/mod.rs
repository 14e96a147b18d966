//! Ant Media's signalling, as its JavaScript SDK, its web player and its mobile SDKs speak it over a WebSocket at
//! `/{app}/websocket`. One socket publishes and plays any number of streams.
//!
//! In: what clients say on their sockets. Out: sessions of the WebRTC engine, and replies. [`Machine`] is the protocol and
//! nothing else, `socket` the loop around it, `seats` who is connected; messages are in `message` (theirs) and `reply` (ours). Deliberately
//! absent: media, and any state that outlives a socket. Rooms, peer-to-peer and push messages are not offered: their
//! commands are answered with an error.

mod action;
mod machine;
mod message;
mod reply;
mod seats;
mod socket;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

pub use action::{Action, Ending, Found, Look, Outcome, Refusal, Ticket};
use axum::{
    Router,
    extract::{
        ConnectInfo, Path, State, WebSocketUpgrade,
        ws::{WebSocket, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
pub use machine::Machine;
pub use reply::{Measured, Notification, Rendition, Reply};

use seats::Seats;

use crate::{
    finder::Finder,
    ice_servers::IceServers,
    live::{BroadcastId, Publisher, Writer},
    node::Node,
    rtc::Engine,
    telemetry::Door,
};

/// What is asked about a broadcast on behalf of a publisher who shows this token.
pub type Ask<T> = Arc<dyn Fn(BroadcastId, String, Publisher) -> Asking<T> + Send + Sync>;
pub type Asking<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;
/// A broadcast as REST shows it, live or past; another node may have to be asked.
pub type Describe = Arc<dyn Fn(BroadcastId) -> Describing + Send + Sync>;
pub type Describing = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// Room for the longest offer with its line ends escaped. Ant Media takes 80 KiB. A longer message ends the socket.
const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// How long clients have to leave when the node stops.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// How publishers are let in.
pub struct Entrance {
    /// Whether this one would be. Changes nothing.
    pub check: Ask<()>,
    /// Gives it the broadcast.
    pub claim: Ask<Writer>,
}

/// What sockets have to do with.
pub struct Shared {
    pub apps: BTreeSet<String>,
    pub engine: Engine,
    pub finder: Finder,
    pub node: Node,
    pub ice_servers: Arc<IceServers>,
    /// Absent where no publishers are taken.
    pub entrance: Option<Entrance>,
    /// Whether viewers are served here.
    pub plays: bool,
    pub describe: Describe,
    pub door: Door,
}

#[derive(Clone)]
pub struct Signalling {
    shared: Arc<Shared>,
    seats: Arc<Seats>,
}

impl Signalling {
    pub fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), seats: Arc::default() }
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route("/{app}/websocket", get(open))
            .route("/{app}/websocket/signaling", get(open))
            .with_state(self.clone())
    }

    /// To be called when the node stops: waits, for a moment, until clients that were told so have left.
    pub async fn finish(&self) {
        let _ = tokio::time::timeout(LEAVE_WITHIN, self.seats.empty()).await;
    }

    /// How many sockets could still be [sent away](Self::send_viewers_away).
    pub fn viewers_to_send_away(&self) -> usize {
        self.seats.to_send_away().len()
    }

    /// Tells so many clients that publish nothing to connect elsewhere; each once, while the node drains.
    pub fn send_viewers_away(&self, count: usize) {
        self.seats.to_send_away().iter().take(count).for_each(|seat| seat.send_away());
    }
}

/// `?target=origin` and `?target=edge` are for load balancers.
async fn open(
    State(Signalling { shared, seats }): State<Signalling>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    Path(app): Path<String>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if !shared.apps.contains(&app) {
        return (StatusCode::NOT_FOUND, format!("there is no application {app:?} here\n")).into_response();
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX),
        Err(rejection) => return rejection.into_response(),
    };
    let agent = headers.get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
    let publisher = Publisher { protocol: "webrtc", remote: remote.to_string(), agent };
    upgrade.on_upgrade(move |web: WebSocket| async move {
        let seat = seats.take();
        socket::Socket::new(web, app, publisher, &shared, &seat).run().await;
    })
}
