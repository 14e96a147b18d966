//! Broadcasts that are made known before anybody publishes them, and what is wanted of them. In: Ant Media's `Broadcast`
//! objects, whole or in part. Out: rows of the registry. Deliberately absent: fields that have no meaning here; clients
//! send all that they know of.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    response::IntoResponse,
};
use headwater_common::{
    chance::entropy,
    clock,
    config::hook_problem,
    http::NO_STORE,
    ladder::{self, Rung},
    live::BroadcastId,
    registry::{Details, RegistryError, Take},
};
use serde::{Deserialize, Serialize};

use super::{Api, ApiError, Outcome, broadcasts};

/// What is absent stays as it was.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wanted {
    stream_id: Option<String>,
    name: Option<String>,
    description: Option<String>,
    meta_data: Option<String>,
    /// 1 and -1; 0, which clients send along when they mean nothing by it, changes nothing.
    mp4_enabled: i8,
    encoder_settings_list: Option<Vec<EncoderSettings>>,
    /// Empty: as the application's setting says.
    #[serde(rename = "listenerHookURL")]
    listener_hook_url: Option<String>,
}

/// One rendition, in bits per second.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EncoderSettings {
    height: u32,
    video_bitrate: u64,
    #[serde(default)]
    audio_bitrate: u64,
    #[serde(default)]
    force_encode: bool,
}

impl From<EncoderSettings> for Rung {
    fn from(settings: EncoderSettings) -> Self {
        // Beyond the range it is refused, whatever it was.
        let kbps = |bits_per_s: u64| u32::try_from(bits_per_s / 1_000).unwrap_or(u32::MAX);
        Self {
            height: settings.height,
            video_kbps: kbps(settings.video_bitrate),
            audio_kbps: kbps(settings.audio_bitrate),
            force: settings.force_encode,
        }
    }
}

impl From<Rung> for EncoderSettings {
    fn from(rung: Rung) -> Self {
        Self {
            height: rung.height,
            video_bitrate: u64::from(rung.video_kbps) * 1_000,
            audio_bitrate: u64::from(rung.audio_kbps) * 1_000,
            force_encode: rung.force,
        }
    }
}

impl Wanted {
    /// Clients may send no body at all.
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(body).map_err(|error| ApiError::Invalid(format!("not a broadcast: {error}")))
    }

    /// What is wanted now, where `details` was wanted so far.
    fn on_top_of(&self, mut details: Details) -> Result<Details, ApiError> {
        let texts = [
            (&self.name, &mut details.name),
            (&self.description, &mut details.description),
            (&self.meta_data, &mut details.metadata),
            (&self.listener_hook_url, &mut details.listener_hook_url),
        ];
        for (wanted, known) in texts {
            if let Some(wanted) = wanted {
                known.clone_from(wanted);
            }
        }
        if let Some(problem) = self.listener_hook_url.as_deref().filter(|url| !url.is_empty()).and_then(hook_problem) {
            return Err(ApiError::Invalid(format!("listenerHookURL: {problem}")));
        }
        if let Some(settings) = &self.encoder_settings_list {
            let rungs: Vec<Rung> = settings.iter().copied().map(Rung::from).collect();
            ladder::check(&rungs).map_err(|error| ApiError::Invalid(format!("encoderSettingsList: {error}")))?;
            details.ladder = Some(rungs);
        }
        Ok(details)
    }

    async fn record(&self, api: &Api, id: &BroadcastId, so_far: Option<bool>) -> Result<(), ApiError> {
        let wanted = match self.mp4_enabled {
            0 => return Ok(()),
            wanted => wanted > 0,
        };
        if so_far != Some(wanted) {
            api.recorder.set(id, Take::default(), wanted).await?;
        }
        Ok(())
    }
}

pub(super) async fn create(
    State(api): State<Api>,
    Path(app): Path<String>,
    body: Bytes,
) -> Result<impl IntoResponse, ApiError> {
    let wanted = Wanted::parse(&body)?;
    let stream = wanted.stream_id.clone().filter(|stream| !stream.is_empty()).unwrap_or_else(random_id);
    let id = api.id(&app, &stream)?;
    let details = wanted.on_top_of(Details::default())?;
    if api.inquiry.ask(|registry| registry.get(&id)).await?.is_some() {
        return Err(in_use(&stream));
    }
    match api.registry.create(&id, details, clock::now_us()).await {
        Err(RegistryError::BroadcastExists { .. }) => return Err(in_use(&stream)),
        created => created?,
    };
    api.ladders.changed();
    wanted.record(&api, &id, None).await?;
    let created = broadcasts::find(&api, &id).await?.ok_or_else(|| ApiError::Unknown(id.to_string()))?;
    Ok(([NO_STORE], Json(created)))
}

pub(super) async fn change(
    State(api): State<Api>,
    Path((app, stream)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Outcome>, ApiError> {
    let wanted = Wanted::parse(&body)?;
    let id = api.id(&app, &stream)?;
    let row = api.inquiry.ask(|registry| registry.get(&id)).await?.ok_or_else(|| ApiError::Unknown(id.to_string()))?;
    let details = wanted.on_top_of(row.details)?;
    api.registry.set_details(&id, details).await?;
    api.ladders.changed();
    wanted.record(&api, &id, row.record_override).await?;
    Ok(Json(Outcome::done(stream)))
}

/// In Ant Media's words.
fn in_use(stream: &str) -> ApiError {
    ApiError::Invalid(format!("Stream id is already being used: {stream}"))
}

/// For those who leave the name to us; the registry refuses one that is there already.
fn random_id() -> String {
    format!("{:08x}{:08x}{:08x}", entropy(), entropy(), entropy())
}
