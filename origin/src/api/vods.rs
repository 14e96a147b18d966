//! What was recorded, as Ant Media's `VoD` objects.

use axum::{
    Json,
    extract::{Path, Query, State},
    response::IntoResponse,
};
use headwater_common::{
    cluster::identity::NodeId,
    http::NO_STORE,
    registry::{RecordingFilter, RecordingRow, RecordingState, VodId},
};
use serde::{Deserialize, Serialize};

use super::{Api, ApiError, Outcome, PAGE_MAX};
use crate::record::{Stage, UploadProgress};

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
    /// Of a rendition: how often the machine had no room to make it, and the milliseconds that are missing.
    gaps: u32,
    missing_duration: i64,
    file_size: u64,
    file_path: String,
    /// `recording`, `finalising` (until it can be relied on: with a bucket, until that has confirmed it), `ready` or
    /// `failed`.
    process_status: &'static str,
    /// Why it failed, or what it waits for.
    description: String,
    #[serde(flatten)]
    upload: Option<UploadJson>,
}

/// The way to the bucket, where there is one.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct UploadJson {
    /// `waiting`, `uploading`, `verifying`, `failed-retrying` or `done`.
    upload_state: &'static str,
    upload_bytes: u64,
    /// Of the last try that came to nothing, until it is done.
    upload_error: String,
    /// In the bucket.
    object_key: String,
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
    let size = size.min(PAGE_MAX);
    let rows = api.inquiry.ask(|registry| registry.list_recordings(&app, filter.borrow(), offset, size)).await?;
    Ok(([NO_STORE], Json(rows.into_iter().map(|row| describe(&api, row)).collect::<Vec<_>>())))
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
    let number = api.inquiry.ask(|registry| registry.count_recordings(&app, filter.borrow())).await?;
    Ok(Json(Count { number }))
}

pub(super) async fn get(
    State(api): State<Api>,
    Path((app, vod)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    api.app(&app)?;
    let vod_id = VodId::parse(&vod);
    let row = api.inquiry.ask(|registry| registry.recording(&app, &vod_id)).await?;
    let row = row.ok_or_else(|| ApiError::Unknown(format!("recording {vod:?}")))?;
    Ok(([NO_STORE], Json(describe(&api, row))))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path((app, vod)): Path<(String, String)>,
) -> Result<Json<Outcome>, ApiError> {
    api.app(&app)?;
    let vod_id = VodId::parse(&vod);
    api.inquiry.ask(|registry| registry.recording(&app, &vod_id)).await?;
    match api.recorder.delete(&app, &vod_id).await? {
        Some(row) => {
            tracing::info!(app = row.app, file = row.file, "recording deleted by REST");
            Ok(Json(Outcome::done(vod)))
        }
        None => Err(ApiError::Unknown(format!("recording {vod:?}"))),
    }
}

/// Tries the bucket: with a precise reason when it can't be used.
pub(super) async fn test_storage(State(api): State<Api>, Path(app): Path<String>) -> Result<Json<Outcome>, ApiError> {
    api.app(&app)?;
    api.recorder.test_storage(&app).await?;
    Ok(Json(Outcome { success: true, message: "the bucket works".to_owned(), data_id: None }))
}

fn describe(api: &Api, row: RecordingRow) -> VodJson {
    let upload = describe_upload(api, &row);
    let absent = row.state.is_unfinished().then(|| absent_keeper(api, &row)).flatten();
    let (process_status, description) = match row.state {
        RecordingState::Recording if absent.is_none() => ("recording", String::new()),
        RecordingState::Recording | RecordingState::Finalising | RecordingState::Uploading { .. } => {
            ("finalising", absent.unwrap_or_default())
        }
        RecordingState::Ready => ("ready", String::new()),
        RecordingState::Failed { reason } => ("failed", reason),
    };
    VodJson {
        vod_id: row.vod_id.to_string(),
        vod_name: row.file.clone(),
        stream_name: row.stream.clone(),
        stream_id: row.stream,
        r#type: "streamVod",
        creation_date: row.created_ms.unwrap_or(row.started_ms),
        start_time: row.started_ms,
        duration: row.duration_ms,
        gaps: row.gaps,
        missing_duration: row.missing_ms,
        file_size: row.bytes,
        file_path: format!("streams/{}", row.file),
        process_status,
        description,
        upload,
    }
}

/// Whose file it is that nobody else can finish, while that node is not there.
fn absent_keeper(api: &Api, row: &RecordingRow) -> Option<String> {
    let (cluster, keeper) = (api.cluster.as_ref()?, NodeId::from(&*row.node));
    if keeper == *cluster.me().id() || row.node.is_empty() {
        return None;
    }
    let known = cluster.nodes().into_iter().find(|known| *known.facts.id() == keeper);
    if known.is_some_and(|known| known.health.is_there()) {
        return None;
    }
    let host = cluster.host(&keeper).map(|host| format!(" ({host})")).unwrap_or_default();
    Some(format!("node {keeper}{host} is not there: what it has recorded is finished when it is back"))
}

fn describe_upload(api: &Api, row: &RecordingRow) -> Option<UploadJson> {
    let object = row.object.clone().unwrap_or_default();
    let (object_key, upload_error) = (object.key, object.error);
    if !object.etag.is_empty() {
        return Some(UploadJson { upload_state: "done", upload_bytes: row.bytes, upload_error, object_key });
    }
    let progress = match (&row.state, api.recorder.upload(&row.vod_id)) {
        // Kept HLS is sent while it grows.
        (RecordingState::Recording | RecordingState::Finalising | RecordingState::Uploading { .. }, Some(known)) => {
            known
        }
        // What another node sends is known by its row only.
        (RecordingState::Uploading { .. }, None) => UploadProgress {
            stage: if upload_error.is_empty() { Stage::Waiting } else { Stage::Retrying },
            sent_bytes: 0,
            error: upload_error,
        },
        _ => return None,
    };
    let upload_state = match progress.stage {
        Stage::Waiting => "waiting",
        Stage::Uploading => "uploading",
        Stage::Verifying => "verifying",
        Stage::Retrying => "failed-retrying",
    };
    Some(UploadJson { upload_state, upload_bytes: progress.sent_bytes, upload_error: progress.error, object_key })
}
