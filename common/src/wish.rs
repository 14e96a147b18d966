//! The manners that WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep) share: how a session that was answered over HTTP is
//! changed and ended, and how an offer is refused.
//!
//! | request | answer |
//! |---|---|
//! | `OPTIONS` of an endpoint or a session | 204 with `Accept-Post` |
//! | `PATCH` of a session (fragment) | 204 for candidates, 200 with a fragment for an ICE restart |
//! | `DELETE` of a session | 200 |
//!
//! In: requests. Out: responses. Deliberately absent: what a POST does, which is the doors' own, and any state: a session
//! lives and ends in the engine.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{ALLOW, CONTENT_TYPE, ETAG, IF_MATCH, LINK, LOCATION, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, patch},
};

use crate::{
    node::Busy,
    rtc::{Answer, Engine, Fragment, JoinError, RestartError, Role, SDP_BYTES_MAX, SdpError, SessionId},
};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
/// Sessions being set up make room within seconds: unheard-of ones are forgotten after ten.
const RETRY_AFTER_S: &str = "2";

struct Sessions {
    engine: Engine,
    role: Role,
}

/// An endpoint, whose path names `app` and `id`, and the sessions below it.
pub fn router<S: Clone + Send + Sync + 'static>(
    path: &str,
    post: MethodRouter<S>,
    state: S,
    engine: Engine,
    role: Role,
) -> Router {
    let sessions = Router::new()
        .route(&format!("{path}/{{session}}"), patch(change).delete(end).options(options).fallback(any(not_on_session)))
        .with_state(Arc::new(Sessions { engine, role }));
    Router::new()
        .route(path, post.options(options).fallback(any(not_on_endpoint)))
        .with_state(state)
        .merge(sessions)
        .layer(DefaultBodyLimit::max(SDP_BYTES_MAX))
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

async fn change(
    State(sessions): State<Arc<Sessions>>,
    Path((app, id, session)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let session = SessionId::from(&*session);
    let Some((etag, remote_ufrag)) = sessions.find(&app, &id, &session) else { return no_session() };
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
    match sessions.engine.restart(&session, fragment).await {
        Ok(restarted) => {
            let headers = [(CONTENT_TYPE, FRAGMENT.to_owned()), (ETAG, quoted(&restarted.etag))];
            (StatusCode::OK, headers, restarted.fragment).into_response()
        }
        Err(RestartError::Gone) => no_session(),
        Err(RestartError::Sdp(err)) => refuse(StatusCode::UNPROCESSABLE_ENTITY, err.to_string()),
    }
}

async fn end(
    State(sessions): State<Arc<Sessions>>,
    Path((app, id, session)): Path<(String, String, String)>,
) -> Response {
    let session = SessionId::from(&*session);
    match sessions.find(&app, &id, &session) {
        Some(_) if sessions.engine.close(&session) => StatusCode::OK.into_response(),
        _ => no_session(),
    }
}

impl Sessions {
    /// Entity tag and remote ufrag; a session is found below its own broadcast only.
    fn find(&self, app: &str, id: &str, session: &SessionId) -> Option<(String, String)> {
        let ice = self.engine.ice(session)?;
        let is_meant = ice.role == self.role && ice.broadcast.app() == app && ice.broadcast.stream() == id;
        is_meant.then_some((ice.etag, ice.remote_ufrag))
    }
}

/// The offer of a POST.
pub fn offer(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<String, Box<Response>> {
    if !has_type(headers, SDP) {
        let text = format!("An offer comes as {SDP}.");
        return Err(Box::new(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)));
    }
    text_of(body)
}

/// The answer to an offer that was taken, at `path/{session}`.
pub fn created(path: &str, answer: Answer, links: Vec<HeaderValue>) -> Response {
    let location = format!("{path}/{}", answer.session);
    let mut response = (
        StatusCode::CREATED,
        [(CONTENT_TYPE, SDP.to_owned()), (LOCATION, location), (ETAG, quoted(&answer.etag))],
        [(ACCEPT_PATCH, FRAGMENT)],
        answer.sdp,
    )
        .into_response();
    for link in links {
        response.headers_mut().append(LINK, link);
    }
    response
}

/// An offer that was not taken.
pub fn refuse_offer(error: &JoinError) -> Response {
    match error {
        JoinError::Busy | JoinError::Full { .. } => retry_later(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        JoinError::Sdp(err) => refuse(status_of(err), err.to_string()),
    }
}

fn status_of(err: &SdpError) -> StatusCode {
    match err {
        SdpError::Codec { .. } | SdpError::NotTaken { .. } | SdpError::NoForm { .. } | SdpError::Nothing { .. } => {
            StatusCode::NOT_ACCEPTABLE
        }
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

pub fn agent(headers: &HeaderMap) -> &str {
    headers.get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or("-")
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn no_session() -> Response {
    refuse(StatusCode::NOT_FOUND, "There is no such session.".to_owned())
}

/// There is no room for anybody new here.
pub fn refuse_work(busy: Busy) -> Response {
    retry_later(StatusCode::SERVICE_UNAVAILABLE, format!("{busy}."))
}

pub fn retry_later(status: StatusCode, text: String) -> Response {
    let mut response = refuse(status, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    response
}

pub fn refuse(status: StatusCode, text: String) -> Response {
    (status, text + "\n").into_response()
}
