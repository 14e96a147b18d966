//! Ant Media's signalling, as its JavaScript SDK, its web player and its mobile SDKs speak it over a WebSocket at
//! `/{app}/websocket`. One socket publishes and plays any number of streams.
//!
//! In: what clients say on their sockets. Out: sessions of the WebRTC engine, and replies. [`Machine`] is the protocol and
//! nothing else, `socket` the loop around it; messages are in `message` (theirs) and `reply` (ours). Deliberately
//! absent: media, and any state that outlives a socket. Rooms, peer-to-peer and push messages are not offered: their
//! commands are answered with an error.

mod action;
mod machine;
mod message;
mod reply;
mod socket;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

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
use tokio::sync::watch;

pub use action::{Action, Ending, Found, Look, Outcome, Refusal, Ticket};
pub use machine::Machine;
pub use reply::{Measured, Rendition, Reply};

use crate::{
    ice_servers::IceServers,
    live::{BroadcastId, Hub, Publisher, Writer},
    node::Node,
    rtc::Engine,
    telemetry::Door,
};

/// Gives a broadcast to a publisher who shows this token.
pub type Claim = Arc<dyn Fn(BroadcastId, String, Publisher) -> Claiming + Send + Sync>;
pub type Claiming = Pin<Box<dyn Future<Output = Result<Writer, Refusal>> + Send>>;
/// A broadcast as REST shows it, live or past; another node may have to be asked.
pub type Describe = Arc<dyn Fn(BroadcastId) -> Describing + Send + Sync>;
pub type Describing = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// Room for the longest offer with its line ends escaped. Ant Media takes 80 KiB. A longer message ends the socket.
const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// How long clients have to leave when the node stops.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// What sockets have to do with.
pub struct Shared {
    pub apps: BTreeSet<String>,
    pub engine: Engine,
    pub hub: Arc<Hub>,
    pub node: Node,
    pub ice_servers: Arc<IceServers>,
    /// Absent where no publishers are taken.
    pub claim: Option<Claim>,
    /// Whether viewers are served here.
    pub plays: bool,
    pub describe: Describe,
    pub door: Door,
}

#[derive(Clone)]
pub struct Signalling {
    shared: Arc<Shared>,
    /// How many sockets are open.
    open: Arc<watch::Sender<usize>>,
}

impl Signalling {
    pub fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), open: Arc::default() }
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route("/{app}/websocket", get(open))
            .route("/{app}/websocket/signaling", get(open))
            .with_state(self.clone())
    }

    /// To be called when the node stops: waits, for a moment, until clients that were told so have left.
    pub async fn finish(&self) {
        let mut open = self.open.subscribe();
        let _ = tokio::time::timeout(LEAVE_WITHIN, open.wait_for(|open| *open == 0)).await;
    }
}

/// `?target=origin` and `?target=edge` are for load balancers.
async fn open(
    State(Signalling { shared, open }): State<Signalling>,
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
        let _open = Open::count(&open);
        socket::Socket::new(web, app, publisher, &shared).run().await;
    })
}

struct Open<'a>(&'a watch::Sender<usize>);

impl<'a> Open<'a> {
    fn count(open: &'a watch::Sender<usize>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}
