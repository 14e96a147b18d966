//! WHIP (RFC 9725): `POST /{app}/whip/{id}` with an offer is answered with 201 and `Location`, `ETag`, and a `Link` per ICE
//! server. What can be done with a session then is in `common/wish`.
//!
//! With `If-None-Match: *` nobody who publishes now is replaced: the answer is 412 then, where the settings would allow it.
//!
//! The broadcast is claimed when the publisher is connected: a request that is not followed by media must not end somebody
//! else's stream. Whatever can be refused before that is. Who is refused only then, because somebody else was faster, finds
//! its session ended.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, Path, State, rejection::BytesRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, IF_NONE_MATCH, WWW_AUTHENTICATE},
    },
    response::Response,
    routing::post,
};
use headwater_common::{
    clock,
    ice_servers::IceServers,
    intake::Intake,
    live::{BroadcastId, Publisher},
    rtc::{Engine, Role},
    telemetry::Door,
    wish::{self, Home},
};

use crate::announce::{Desk, Refusal};

struct Whip {
    engine: Engine,
    desk: Desk,
    door: Door,
    ice_servers: Arc<IceServers>,
    home: Option<Home>,
}

/// `ice_servers` are what publishers are told of.
pub(crate) fn router(
    engine: Engine,
    desk: Desk,
    door: Door,
    ice_servers: Arc<IceServers>,
    home: Option<Home>,
) -> Router {
    let whip = Whip { engine: engine.clone(), desk, door, ice_servers, home: home.clone() };
    wish::router("/{app}/whip/{id}", post(publish), Arc::new(whip), (engine, Role::Publisher), home)
}

async fn publish(
    State(whip): State<Arc<Whip>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    Path((app, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let publisher =
        Publisher { protocol: "webrtc", remote: remote.to_string(), agent: wish::agent(&headers).to_owned() };
    let token = bearer(&headers).map(str::to_owned);
    if let Err(refusal) = whip.desk.admits(&app, &id, token.as_deref(), publisher.clone()).await {
        return refuse(&whip.turned_away(&app, &id, &publisher, refusal));
    }
    // RFC 9110 section 13.1.2. Our page asks its user before it comes without this.
    let yields = headers.get(IF_NONE_MATCH).is_some_and(|value| value == "*");
    if yields && let Err(refusal) = whip.desk.check_free(&app, &id) {
        return wish::refuse(StatusCode::PRECONDITION_FAILED, refusal.to_string());
    }
    let broadcast = match BroadcastId::new(&app, &id) {
        Ok(broadcast) => broadcast,
        Err(error) => return refuse(&error.into()),
    };
    let offer = match wish::offer(&headers, body) {
        Ok(offer) => offer,
        Err(response) => return *response,
    };
    let incoming = match whip.engine.receive(&offer) {
        Ok(incoming) => incoming,
        Err(error) => {
            tracing::warn!(app, stream = id, %remote, %error, "publisher's offer refused");
            return wish::refuse_offer(&error);
        }
    };
    let entry = {
        let (whip, app, id) = (whip.clone(), app.clone(), id.clone());
        async move {
            let free = if yields { whip.desk.check_free(&app, &id) } else { Ok(()) };
            let claimed = match free {
                Ok(()) => whip.desk.claim(&app, &id, token.as_deref(), publisher.clone()).await,
                Err(refusal) => Err(refusal),
            };
            let refused = claimed.map_err(|refusal| whip.turned_away(&app, &id, &publisher, refusal));
            refused.ok().map(|writer| Intake::new(writer, whip.door.clone()))
        }
    };
    match whip.engine.publish(incoming, &broadcast, entry) {
        Ok(answer) => {
            tracing::info!(%broadcast, %remote, session = %answer.session, "WHIP publisher");
            wish::created(
                &format!("/{app}/whip/{id}"),
                whip.home.as_ref(),
                answer,
                whip.ice_servers.links(clock::now_us()),
            )
        }
        Err(error) => wish::refuse_offer(&error),
    }
}

impl Whip {
    fn turned_away(&self, app: &str, stream: &str, publisher: &Publisher, refusal: Refusal) -> Refusal {
        self.door.errors.inc();
        tracing::warn!(app, stream, remote = publisher.remote, reason = %refusal, "publisher turned away");
        refusal
    }
}

/// RFC 6750 section 2.1.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refuse(refusal: &Refusal) -> Response {
    let text = refusal.to_string();
    match refusal {
        Refusal::UnknownApp { .. } => wish::refuse(StatusCode::NOT_FOUND, text),
        Refusal::Id(_) => wish::refuse(StatusCode::BAD_REQUEST, text),
        Refusal::Unauthorized { .. } => {
            let mut response = wish::refuse(StatusCode::UNAUTHORIZED, text);
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        Refusal::Claim(_) => wish::refuse(StatusCode::CONFLICT, text),
        Refusal::Busy(busy) => wish::refuse_work(*busy),
        Refusal::Registry(_) => wish::retry_later(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}
