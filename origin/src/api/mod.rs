//! REST, with paths and field names that Ant Media's clients know.
//!
//! In: requests. Out: what the hub shows of the present and the registry of the past. Reading is free; changing is for
//! the networks in `http.admin_networks`. Deliberately absent: media, and queries to the registry for what is live.

mod broadcasts;
mod recording;
mod removal;
mod vods;
mod wanted;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use headwater_common::{
    audience::CountViewers,
    cluster::{Cluster, ForwardError, Known, Located, identity::NodeId},
    config::Config,
    http::{Admin, NO_STORE, admin_to_change},
    live::{BroadcastId, Hub},
    registry::{Registry, RegistryError},
    rtc::{Engine, SayError},
};
use serde::Serialize;

use crate::{
    announce::Desk,
    inquiry::Inquiry,
    ladders::Ladders,
    record::{DeleteError, Recorder, SetError, StorageError},
};

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) config: Arc<Config>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) engine: Engine,
    /// Where publishers are let in, and turned away.
    pub(crate) desk: Desk,
    /// For those who write.
    pub(crate) registry: Arc<dyn Registry>,
    /// For those who ask.
    pub(crate) inquiry: Inquiry,
    pub(crate) recorder: Recorder,
    pub(crate) ladders: Ladders,
    pub(crate) viewers: CountViewers,
    pub(crate) cluster: Option<Cluster>,
}

pub(crate) fn router(api: Api) -> Router {
    let admin = Admin::new(&api.config.http.admin_networks);
    Router::new()
        .route("/rest/v2/version", get(version))
        .route("/rest/v2/live", get(broadcasts::live))
        .route("/{app}/rest/v2/version", get(version))
        .route("/{app}/rest/v2/broadcasts/list/{offset}/{size}", get(broadcasts::list))
        .route("/{app}/rest/v2/broadcasts/count", get(broadcasts::count))
        .route("/{app}/rest/v2/broadcasts/active-live-stream-count", get(broadcasts::count_live))
        .route("/{app}/rest/v2/broadcasts/create", post(wanted::create))
        .route("/{app}/rest/v2/broadcasts", delete(removal::remove_all))
        .route("/{app}/rest/v2/broadcasts/", delete(removal::remove_all))
        .route("/{app}/rest/v2/broadcasts/{id}", get(broadcasts::get).put(wanted::change).delete(removal::remove))
        .route("/{app}/rest/v2/broadcasts/{id}/stop", post(removal::stop))
        .route("/{app}/rest/v2/broadcasts/{id}/broadcast-statistics", get(broadcasts::statistics))
        .route("/{app}/rest/v2/broadcasts/{id}/data", post(broadcasts::say))
        .route("/{app}/rest/v2/broadcasts/{id}/recording/{on}", put(recording::switch))
        .route("/{app}/rest/v2/vods/list/{offset}/{size}", get(vods::list))
        .route("/{app}/rest/v2/vods/count", get(vods::count))
        .route("/{app}/rest/v2/vods/test-storage", post(vods::test_storage))
        .route("/{app}/rest/v2/vods/{vod}", get(vods::get))
        .route("/{app}/rest/v2/vods/{vod}", delete(vods::remove))
        .layer(middleware::from_fn_with_state(admin, admin_to_change))
        .with_state(api)
}

/// What a page of a list may hold, as Ant Media's clients expect.
const PAGE_MAX: usize = 50;

async fn version(State(api): State<Api>) -> impl IntoResponse {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        version_name: &'static str,
        version_type: &'static str,
        build_number: &'static str,
        /// Where to publish to, for the pages.
        rtmp_port: u16,
        /// Where the pages are secure enough for cameras; null without a certificate.
        https_port: Option<u16>,
    }
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    Json(Version {
        version_name: VERSION,
        version_type: "Headwater",
        build_number: VERSION,
        rtmp_port: api.config.rtmp.listen.port(),
        https_port: api.config.tls.is_set().then(|| api.config.http.tls_listen.port()),
    })
}

/// How a change went: the shape every Ant Media client reads.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    success: bool,
    message: String,
    data_id: Option<String>,
}

impl Outcome {
    fn done(data_id: impl Into<String>) -> Self {
        Self { success: true, message: String::new(), data_id: Some(data_id.into()) }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self { success: false, message: message.into(), data_id: None }
    }
}

/// Every way a request can fail, and its status code, in one place.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("{0}")]
    Invalid(String),
    #[error("{0} is not known")]
    Unknown(String),
    #[error(transparent)]
    Say(#[from] SayError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Forward(#[from] ForwardError),
    #[error(transparent)]
    Set(#[from] SetError),
    #[error(transparent)]
    Delete(#[from] DeleteError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Invalid(_) | Self::Say(_) => StatusCode::BAD_REQUEST,
            Self::Set(SetError::Name(_) | SetError::NoRendition { .. }) => StatusCode::BAD_REQUEST,
            Self::Set(SetError::Which(_) | SetError::Registry(RegistryError::TooManyTakes(_))) => StatusCode::CONFLICT,
            Self::Unknown(_) | Self::Set(SetError::Unknown { .. }) => StatusCode::NOT_FOUND,
            Self::Set(SetError::NoRoom { .. }) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Delete(DeleteError::InProgress { .. } | DeleteError::NoBucket { .. }) => StatusCode::CONFLICT,
            Self::Delete(DeleteError::Place(_)) | Self::Storage(StorageError::NoBucket) => StatusCode::BAD_REQUEST,
            // The bucket is a server behind this one (RFC 9110 15.6.3).
            Self::Storage(StorageError::Probe(_)) => StatusCode::BAD_GATEWAY,
            Self::Registry(error) if error.is_absence() => StatusCode::SERVICE_UNAVAILABLE,
            // Another node's, which requests have not found yet, or not any more.
            Self::Registry(RegistryError::InUse { .. } | RegistryError::Outrun { .. }) => StatusCode::CONFLICT,
            Self::Forward(_) => StatusCode::BAD_GATEWAY,
            Self::Registry(_) | Self::Set(_) | Self::Delete(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(error = %self, "REST request failed");
        }
        (status, [NO_STORE], Json(Outcome::failed(self.to_string()))).into_response()
    }
}

impl Api {
    /// JSON, for other ways to ask than HTTP.
    pub(crate) async fn describe(&self, id: &BroadcastId) -> Option<String> {
        broadcasts::describe_as_text(self, id).await
    }

    /// Where a broadcast is that another node holds or held.
    fn elsewhere(&self, id: &BroadcastId) -> Option<Located> {
        let cluster = self.cluster.as_ref()?;
        cluster.whereabouts(id).filter(|located| located.owner != *cluster.me().id())
    }

    fn is_another_that_is_there(&self, node: &NodeId) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        let is_there = |known: Known| known.facts.id() == node && known.health.is_there();
        node != cluster.me().id() && cluster.nodes().into_iter().any(is_there)
    }

    fn id(&self, app: &str, stream: &str) -> Result<BroadcastId, ApiError> {
        self.app(app)?;
        BroadcastId::new(app, stream).map_err(|error| ApiError::Invalid(error.to_string()))
    }

    fn app(&self, app: &str) -> Result<(), ApiError> {
        if self.config.apps.contains_key(app) { Ok(()) } else { Err(ApiError::Unknown(format!("application {app:?}"))) }
    }
}
