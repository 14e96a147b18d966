//! Recordings switched on and off while a broadcast goes on. In: Ant Media's parameters. Out: takes that begin or end.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use headwater_common::registry::Take;
use serde::Deserialize;

use super::{Api, ApiError, Outcome};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wish {
    /// Instead of the stream's id, without the ending.
    #[serde(alias = "baseFileName")]
    file_name: Option<String>,
    /// Of the rendition that is meant; 0 is the source.
    #[serde(default)]
    resolution_height: u32,
    record_type: Option<String>,
}

pub(super) async fn switch(
    State(api): State<Api>,
    Path((app, stream, on)): Path<(String, String, bool)>,
    Query(wish): Query<Wish>,
) -> Result<Json<Outcome>, ApiError> {
    let id = api.id(&app, &stream)?;
    if let Some(other) = wish.record_type.filter(|kind| !kind.is_empty() && kind != "mp4") {
        return Err(ApiError::Invalid(format!("recordType {other:?}: recordings are mp4")));
    }
    let name = wish.file_name.filter(|name| !name.is_empty());
    let take = Take { height: Some(wish.resolution_height).filter(|height| *height > 0), name };
    api.inquiry.ask(|registry| registry.get(&id)).await?;
    api.recorder.set(&id, take.clone(), on).await?;
    tracing::info!(broadcast = %id, on, %take, "recording switched by REST");
    Ok(Json(Outcome::done(stream)))
}
