//! What was recorded, as Ant Media's `VoD` objects.

use axum::{
    Json,
    extract::{Path, Query, State},
    response::IntoResponse,
};
use headwater_common::{
    http::NO_STORE,
    registry::{RecordingFilter, RecordingRow, RecordingState, VodId},
};
use serde::{Deserialize, Serialize};

use super::{Api, ApiError, Outcome, PAGE_MAX};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VodJson {
    vod_id: String,
    vod_name: String,
    stream_name: String,
    stream_id: String,
    r#type: &'static str,
    creation_date: i64,
    start_time: i64,
    duration: i64,
    file_size: u64,
    file_path: String,
    /// `recording`, `finalising`, `ready` or `failed`.
    process_status: &'static str,
    /// Why it failed.
    description: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    stream_id: Option<String>,
    search: Option<String>,
}

impl Filter {
    fn borrow(&self) -> RecordingFilter<'_> {
        RecordingFilter { stream: self.stream_id.as_deref(), search: self.search.as_deref() }
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    Path((app, offset, size)): Path<(String, usize, usize)>,
    Query(filter): Query<Filter>,
) -> Result<impl IntoResponse, ApiError> {
    api.app(&app)?;
    let rows = api.registry.list_recordings(&app, filter.borrow(), offset, size.min(PAGE_MAX)).await?;
    Ok(([NO_STORE], Json(rows.into_iter().map(VodJson::from).collect::<Vec<_>>())))
}

#[derive(Serialize)]
pub(super) struct Count {
    number: usize,
}

pub(super) async fn count(
    State(api): State<Api>,
    Path(app): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Count>, ApiError> {
    api.app(&app)?;
    Ok(Json(Count { number: api.registry.count_recordings(&app, filter.borrow()).await? }))
}

pub(super) async fn get(
    State(api): State<Api>,
    Path((app, vod)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    api.app(&app)?;
    let row = api.registry.recording(&app, &VodId::parse(&vod)).await?;
    let row = row.ok_or_else(|| ApiError::Unknown(format!("recording {vod:?}")))?;
    Ok(([NO_STORE], Json(VodJson::from(row))))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path((app, vod)): Path<(String, String)>,
) -> Result<Json<Outcome>, ApiError> {
    api.app(&app)?;
    match api.recorder.delete(&app, &VodId::parse(&vod)).await? {
        Some(row) => {
            tracing::info!(app = row.app, file = row.file, "recording deleted by REST");
            Ok(Json(Outcome::done(vod)))
        }
        None => Err(ApiError::Unknown(format!("recording {vod:?}"))),
    }
}

impl From<RecordingRow> for VodJson {
    fn from(row: RecordingRow) -> Self {
        let (process_status, description) = match row.state {
            RecordingState::Recording => ("recording", String::new()),
            RecordingState::Finalising => ("finalising", String::new()),
            RecordingState::Ready => ("ready", String::new()),
            RecordingState::Failed { reason } => ("failed", reason),
        };
        Self {
            vod_id: row.vod_id.to_string(),
            vod_name: row.file.clone(),
            stream_name: row.stream.clone(),
            stream_id: row.stream,
            r#type: "streamVod",
            creation_date: row.created_ms.unwrap_or(row.started_ms),
            start_time: row.started_ms,
            duration: row.duration_ms,
            file_size: row.bytes,
            file_path: format!("streams/{}", row.file),
            process_status,
            description,
        }
    }
}
