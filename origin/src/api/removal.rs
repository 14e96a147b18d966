//! Broadcasts that are stopped, and those that are removed for good. In: Ant Media's paths and parameters. Out: how it went.
//! Deliberately absent: `deleteSubtracks` and `stopSubtracks`, which ask for what no broadcast here has, and the removal of
//! recordings, which `/vods` is for.

use std::net::SocketAddr;

use axum::{
    Json,
    body::Body,
    extract::{ConnectInfo, FromRequestParts, Path, Query, Request, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use headwater_common::{
    cluster::{ForwardError, identity::NodeId},
    http::ByNode,
    live::BroadcastId,
    registry::RegistryError,
};
use serde::Deserialize;

use super::{Api, ApiError, Outcome};

pub(super) async fn stop(
    State(api): State<Api>,
    Path((app, stream)): Path<(String, String)>,
) -> Result<Json<Outcome>, ApiError> {
    let id = api.id(&app, &stream)?;
    if api.desk.stop(&id) {
        tracing::info!(broadcast = %id, "stopped by REST");
        return Ok(Json(Outcome::done(stream)));
    }
    match api.inquiry.ask(|registry| registry.get(&id)).await? {
        Some(_) => Ok(Json(Outcome::failed(format!("nobody publishes {id}")))),
        None => Err(ApiError::Unknown(id.to_string())),
    }
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path((app, stream)): Path<(String, String)>,
    asker: Asker,
) -> Result<Response, ApiError> {
    let id = api.id(&app, &stream)?;
    remove_wherever(&api, &id, asker).await
}

#[derive(Deserialize)]
pub(super) struct Several {
    /// Separated by commas.
    #[serde(default)]
    ids: String,
}

/// One after the other, up to the first that fails, whose answer is the answer to all.
pub(super) async fn remove_all(
    State(api): State<Api>,
    Path(app): Path<String>,
    Query(Several { ids }): Query<Several>,
    asker: Asker,
) -> Result<Response, ApiError> {
    let mut last = Json(Outcome::failed("no ids were given")).into_response();
    for stream in ids.split(',').map(str::trim).filter(|stream| !stream.is_empty()) {
        let id = api.id(&app, stream)?;
        last = remove_wherever(&api, &id, asker).await?;
        if last.status() != StatusCode::OK {
            break;
        }
    }
    Ok(last)
}

/// Where it lives. What is known of that may be older than what the registry says.
async fn remove_wherever(api: &Api, id: &BroadcastId, asker: Asker) -> Result<Response, ApiError> {
    let known = api.elsewhere(id).filter(|located| !located.status.has_ended()).map(|located| located.owner);
    let can_be_asked = |node: &NodeId| asker.hops < ByNode::HOPS_MAX && api.is_another_that_is_there(node);
    if let Some(owner) = known.filter(can_be_asked) {
        return hand_on(api, id, &owner, asker).await;
    }
    // A registry that is away is met before anybody is turned away.
    api.inquiry.ask(|registry| registry.get(id)).await?;
    let removed = match api.desk.remove(id, |node| can_be_asked(&NodeId::from(node))).await {
        Err(RegistryError::InUse { node, .. }) if can_be_asked(&NodeId::from(&*node)) => {
            return hand_on(api, id, &NodeId::from(&*node), asker).await;
        }
        removed => removed?.ok_or_else(|| ApiError::Unknown(id.to_string()))?,
    };
    tracing::info!(broadcast = %id, was_live = removed.was_live, "removed by REST");
    // In Ant Media's words.
    let message =
        if removed.was_live { "broadcast is deleted and stopped successfully" } else { "broadcast is deleted" };
    let done = Outcome { message: message.to_owned(), ..Outcome::done(id.stream()) };
    Ok(Json(done).into_response())
}

async fn hand_on(api: &Api, id: &BroadcastId, node: &NodeId, asker: Asker) -> Result<Response, ApiError> {
    let cluster = api.cluster.as_ref().ok_or_else(|| ForwardError::Unknown(node.clone()))?;
    let request = Request::delete(format!("/{}/rest/v2/broadcasts/{}", id.app(), id.stream()));
    let request = request.body(Body::empty()).map_err(|error| ApiError::Invalid(error.to_string()))?;
    // Who came so far may change things.
    let by = ByNode { may_change: true, hops: asker.hops + 1 };
    Ok(cluster.forward(node, request, asker.client, by).await?)
}

/// Whose request it is, and how often it was handed on.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    client: SocketAddr,
    hops: u32,
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = <ConnectInfo<SocketAddr> as FromRequestParts<S>>::Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let ConnectInfo(client) = ConnectInfo::from_request_parts(parts, state).await?;
        Ok(Self { client, hops: parts.extensions.get().map_or(0, |by: &ByNode| by.hops) })
    }
}
