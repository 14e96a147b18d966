//! WHEP (draft-ietf-wish-whep), which borrows its HTTP manners from WHIP (RFC 9725).
//!
//! | request | answer |
//! |---|---|
//! | `OPTIONS /{app}/whep/{id}` | 204 with `Accept-Post` |
//! | `POST /{app}/whep/{id}` (offer) | 201 with the answer, `Location`, `ETag`, `Link` per ICE server |
//! | `PATCH /{app}/whep/{id}/{session}` (fragment) | 204 for candidates, 200 with a fragment for an ICE restart |
//! | `DELETE /{app}/whep/{id}/{session}` | 200 |
//!
//! Players take 400 as "make me an offer" and 406 as "drop a track", so a missing stream is always 404, and so is one
//! whose publisher has not said yet what it sends: players take that as "try again".

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{ALLOW, CONTENT_TYPE, ETAG, IF_MATCH, LINK, LOCATION, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
    routing::{any, patch, post},
};
use headwater_common::{
    config::IceServer,
    live::{Broadcast, BroadcastId, Hub, Status},
    media::{Accepts, Delivery, Kind},
    rtc::{Engine, Fragment, RestartError, SDP_BYTES_MAX, SdpError, SessionId, ViewError},
};
use tokio::time::{Instant, timeout_at};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
/// Sessions being set up make room within seconds: unheard-of ones are forgotten after ten.
const RETRY_AFTER_S: &str = "2";
/// A publisher says what it sends within this after it was let in.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// The headers of picture and sound, and the conversion of the sound, come one after the other.
const SECOND_PATIENCE: Duration = Duration::from_millis(300);

struct Whep {
    engine: Engine,
    hub: Arc<Hub>,
    links: Vec<HeaderValue>,
}

/// `ice_servers` are what players are told of.
pub fn router(engine: Engine, hub: Arc<Hub>, ice_servers: &[IceServer]) -> Router {
    let whep = Whep { engine, hub, links: ice_servers.iter().flat_map(link).collect() };
    Router::new()
        .route("/{app}/whep/{id}", post(view).options(options).fallback(any(not_on_endpoint)))
        .route("/{app}/whep/{id}/{session}", patch(change).delete(end).options(options).fallback(any(not_on_session)))
        .layer(DefaultBodyLimit::max(SDP_BYTES_MAX))
        .with_state(Arc::new(whep))
}

/// RFC 9725 section 4.6. A value that can't stand in a header is left out, and was refused with the settings.
fn link(server: &IceServer) -> Option<HeaderValue> {
    let IceServer { url, username, credential } = server;
    let mut link = format!("<{url}>; rel=\"ice-server\"");
    if !username.is_empty() {
        link += &format!("; username=\"{username}\"; credential=\"{credential}\"; credential-type=\"password\"");
    }
    HeaderValue::from_str(&link).ok()
}

/// Tells what an endpoint takes (RFC 9725 section 4.2).
async fn options() -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(ACCEPT_POST, SDP), (ACCEPT_PATCH, FRAGMENT)])
}

async fn not_on_endpoint() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST, OPTIONS")], "Only POST and OPTIONS here.\n").into_response()
}

async fn not_on_session() -> Response {
    let text = "Only PATCH, DELETE and OPTIONS here.\n";
    (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "PATCH, DELETE, OPTIONS")], text).into_response()
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
    if !has_type(&headers, SDP) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("An offer comes as {SDP}."));
    }
    let offer = match text_of(body) {
        Ok(offer) => offer,
        Err(response) => return *response,
    };
    settle(&broadcast).await;
    if broadcast.status() == Status::Ended || broadcast.tracks().is_empty() {
        return retry_later(StatusCode::NOT_FOUND, format!("{} sends no picture and no sound yet.", broadcast.id()));
    }
    // The parser sees whatever the Internet sends: a bug in it costs this request.
    let answered = catch_unwind(AssertUnwindSafe(|| whep.engine.view(&broadcast, &offer)));
    let answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(full @ (ViewError::Busy | ViewError::Full { .. }))) => {
            return retry_later(StatusCode::SERVICE_UNAVAILABLE, full.to_string());
        }
        Ok(Err(ViewError::Sdp(err))) => return refuse(status_of(&err), err.to_string()),
        Err(_) => return refuse(StatusCode::BAD_REQUEST, "the offer can't be understood".to_owned()),
    };
    tracing::info!(broadcast = %broadcast.id(), session = %answer.session, agent = agent(&headers), "WHEP viewer");
    let location = format!("/{app}/whep/{id}/{}", answer.session);
    let mut response = (
        StatusCode::CREATED,
        [(CONTENT_TYPE, SDP.to_owned()), (LOCATION, location), (ETAG, quoted(&answer.etag))],
        [(ACCEPT_PATCH, FRAGMENT)],
        answer.sdp,
    )
        .into_response();
    for link in &whep.links {
        response.headers_mut().append(LINK, link.clone());
    }
    response
}

async fn change(
    State(whep): State<Arc<Whep>>,
    Path((app, id, session)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let session = SessionId::from(&*session);
    let Some((etag, remote_ufrag)) = whep.session(&app, &id, &session) else { return no_session() };
    if !has_type(&headers, FRAGMENT) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("A change comes as {FRAGMENT}."));
    }
    let fragment = match text_of(body).map(|text| Fragment::parse(&text)) {
        Ok(Ok(fragment)) => fragment,
        Ok(Err(err @ SdpError::NotSdp(_))) => return refuse(StatusCode::BAD_REQUEST, err.to_string()),
        Ok(Err(err)) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, err.to_string()),
        Err(response) => return *response,
    };
    // RFC 9725 section 4.3.1: which ICE session is meant must be said; "*" is how a restart says it.
    let Some(wanted) = headers.get(IF_MATCH).and_then(|value| value.to_str().ok()) else {
        let text = "If-Match is needed: the entity tag for candidates, * for an ICE restart.";
        return refuse(StatusCode::PRECONDITION_REQUIRED, text.to_owned());
    };
    let restarts = fragment.ufrag != remote_ufrag;
    let matches = wanted.trim() == "*" || wanted.split(',').any(|tag| tag.trim() == quoted(&etag));
    if !matches {
        let text = "The session has another entity tag: ICE was restarted.";
        return refuse(StatusCode::PRECONDITION_FAILED, text.to_owned());
    }
    if !restarts {
        // Candidates: an ICE-lite server learns where the player is from its checks.
        return StatusCode::NO_CONTENT.into_response();
    }
    match whep.engine.restart(&session, fragment).await {
        Ok(restarted) => {
            let headers = [(CONTENT_TYPE, FRAGMENT.to_owned()), (ETAG, quoted(&restarted.etag))];
            (StatusCode::OK, headers, restarted.fragment).into_response()
        }
        Err(RestartError::Gone) => no_session(),
        Err(RestartError::Sdp(err)) => refuse(StatusCode::UNPROCESSABLE_ENTITY, err.to_string()),
    }
}

async fn end(State(whep): State<Arc<Whep>>, Path((app, id, session)): Path<(String, String, String)>) -> Response {
    let session = SessionId::from(&*session);
    match whep.session(&app, &id, &session) {
        Some(_) if whep.engine.close(&session) => StatusCode::OK.into_response(),
        _ => no_session(),
    }
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
        let absent = |text: String| Box::new(refuse(StatusCode::NOT_FOUND, text));
        let id = BroadcastId::new(app, id).map_err(|err| absent(err.to_string()))?;
        let live = self.hub.get(&id).filter(|broadcast| broadcast.status() != Status::Ended);
        live.ok_or_else(|| absent(format!("{id} is not being broadcast.")))
    }

    /// Entity tag and remote ufrag; a session is found below its own broadcast only.
    fn session(&self, app: &str, id: &str, session: &SessionId) -> Option<(String, String)> {
        let (broadcast, etag, remote_ufrag) = self.engine.ice(session)?;
        (broadcast.app() == app && broadcast.stream() == id).then_some((etag, remote_ufrag))
    }
}

fn status_of(err: &SdpError) -> StatusCode {
    match err {
        SdpError::Codec { .. } | SdpError::Nothing { .. } => StatusCode::NOT_ACCEPTABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|value| value.trim().eq_ignore_ascii_case(wanted))
}

fn text_of(body: Result<Bytes, BytesRejection>) -> Result<String, Box<Response>> {
    let body = body.map_err(|rejection| Box::new(rejection.into_response()))?;
    let not_text = |_| Box::new(refuse(StatusCode::BAD_REQUEST, "this is not SDP: it is not UTF-8".to_owned()));
    String::from_utf8(body.to_vec()).map_err(not_text)
}

fn agent(headers: &HeaderMap) -> &str {
    headers.get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or("-")
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn no_session() -> Response {
    refuse(StatusCode::NOT_FOUND, "There is no such session.".to_owned())
}

fn retry_later(status: StatusCode, text: String) -> Response {
    let mut response = refuse(status, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    response
}

fn refuse(status: StatusCode, text: String) -> Response {
    (status, text + "\n").into_response()
}
