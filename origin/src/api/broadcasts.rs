//! What is live and what was, as Ant Media's `Broadcast` objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    response::IntoResponse,
};
use headwater_common::{
    audience::Viewers,
    clock, cluster,
    http::NO_STORE,
    live::{Broadcast, BroadcastId, SILENT_US, Status, Track},
    media::{Accepts, Delivery, Kind, Shape},
    registry::{BroadcastRow, BroadcastStatus},
};
use serde::Serialize;

use super::{Api, ApiError, Outcome, PAGE_MAX, wanted::EncoderSettings};

/// Ant Media's names (typos included: clients depend on them). Ours are `publisherConnected`, `tracks` and
/// `deliveryPath`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BroadcastJson {
    stream_id: String,
    app: String,
    status: BroadcastStatus,
    r#type: &'static str,
    publish_type: String,
    name: String,
    description: String,
    meta_data: String,
    date: i64,
    start_time: i64,
    absolute_start_time_ms: i64,
    update_time: i64,
    duration: i64,
    /// 1: recorded, -1: not recorded, 0: as the application's setting says.
    mp4_enabled: i8,
    /// The qualities that are made of this broadcast; null: as the application's setting says.
    encoder_settings_list: Option<Vec<EncoderSettings>>,
    /// Who is told what becomes of it instead of the application's webhook.
    #[serde(rename = "listenerHookURL")]
    listener_hook_url: String,
    hls_viewer_count: usize,
    #[serde(rename = "webRTCViewerCount")]
    webrtc_viewer_count: usize,
    rtmp_viewer_count: usize,
    dash_viewer_count: usize,
    /// Host of the node that it was published on.
    origin_adress: String,
    remote_ip: String,
    user_agent: String,
    received_bytes: u64,
    /// Bits per second since the publisher began.
    bitrate: u64,
    width: u32,
    height: u32,
    drop_frame_count_in_encoding: u64,
    drop_packet_count_in_ingestion: u64,
    zombi: bool,
    #[serde(rename = "virtual")]
    is_virtual: bool,
    publisher_connected: bool,
    tracks: Vec<TrackJson>,
    delivery_path: DeliveryPaths,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrackJson {
    name: String,
    codec: Option<&'static str>,
    /// RFC 6381.
    codec_string: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    sample_rate: Option<u32>,
    channels: Option<u8>,
    readers: usize,
    frames: u64,
    bytes: u64,
    /// Frames that readers were too slow for.
    skipped: u64,
    cache_bytes: usize,
    /// Somebody wants it and the machine has no room to make it.
    waiting: bool,
}

/// Which way each family of viewers gets video and audio, and why. Absent: it gets none.
#[derive(Debug, Default, Serialize)]
struct DeliveryPaths {
    webrtc: BTreeMap<&'static str, String>,
    hls: BTreeMap<&'static str, String>,
}

pub(super) async fn live(State(api): State<Api>) -> impl IntoResponse {
    let live: Vec<_> = live_ids(&api).iter().filter_map(|id| describe(&api, id, None)).collect();
    ([NO_STORE], Json(live))
}

pub(super) async fn get(
    State(api): State<Api>,
    Path((app, stream)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    let id = api.id(&app, &stream)?;
    let found = find(&api, &id).await?.ok_or_else(|| ApiError::Unknown(id.to_string()))?;
    Ok(([NO_STORE], Json(found)))
}

pub(super) async fn find(api: &Api, id: &BroadcastId) -> Result<Option<BroadcastJson>, ApiError> {
    match api.inquiry.ask(|registry| registry.get(id)).await {
        // What lives, here or elsewhere, can be told without its past; and what was seen of that is not old.
        Err(error) if error.is_absence() => match describe(api, id, api.inquiry.last_seen(id)) {
            None => Err(error.into()),
            known => Ok(known),
        },
        row => Ok(known(api, id, row?)),
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    Path((app, offset, size)): Path<(String, usize, usize)>,
) -> Result<impl IntoResponse, ApiError> {
    api.app(&app)?;
    let rows = api.inquiry.ask(|registry| registry.list(&app, offset, size.min(PAGE_MAX))).await?;
    let described = rows.into_iter().filter_map(|row| {
        let id = BroadcastId::new(&row.app, &row.stream).ok()?;
        known(&api, &id, Some(row))
    });
    Ok(([NO_STORE], Json(described.collect::<Vec<_>>())))
}

#[derive(Serialize)]
pub(super) struct Count {
    number: usize,
}

pub(super) async fn count(State(api): State<Api>, Path(app): Path<String>) -> Result<Json<Count>, ApiError> {
    api.app(&app)?;
    Ok(Json(Count { number: api.inquiry.ask(|registry| registry.count(&app)).await? }))
}

pub(super) async fn count_live(State(api): State<Api>, Path(app): Path<String>) -> Result<Json<Count>, ApiError> {
    api.app(&app)?;
    Ok(Json(Count { number: live_ids(&api).iter().filter(|id| id.app() == app).count() }))
}

/// Of what goes on here and on other nodes.
fn live_ids(api: &Api) -> BTreeSet<BroadcastId> {
    let here = api.hub.list().into_iter().filter(|broadcast| broadcast.status() != Status::Ended);
    let here = here.map(|broadcast| broadcast.id().clone());
    let elsewhere = api.cluster.iter().flat_map(|cluster| cluster.live()).map(|(id, _)| id);
    here.chain(elsewhere).collect()
}

#[derive(Serialize)]
pub(super) struct Statistics {
    #[serde(rename = "totalRTMPWatchersCount")]
    rtmp: usize,
    #[serde(rename = "totalHLSWatchersCount")]
    hls: usize,
    #[serde(rename = "totalWebRTCWatchersCount")]
    webrtc: usize,
    #[serde(rename = "totalDASHWatchersCount")]
    dash: usize,
}

pub(super) async fn statistics(
    State(api): State<Api>,
    Path((app, stream)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    let id = api.id(&app, &stream)?;
    let Viewers { webrtc, hls } = (api.viewers)(&id);
    Ok(([NO_STORE], Json(Statistics { rtmp: 0, hls, webrtc, dash: 0 })))
}

/// A registry that fails costs the past only.
pub(super) async fn describe_as_text(api: &Api, id: &BroadcastId) -> Option<String> {
    let described = match api.inquiry.ask(|registry| registry.get(id)).await {
        Ok(row) => known(api, id, row),
        Err(error) => {
            tracing::error!(broadcast = %id, %error, "the registry was not read");
            describe(api, id, api.inquiry.last_seen(id))
        }
    };
    serde_json::to_string(&described?).ok()
}

/// Tells the text to all who publish or watch by WebRTC and have a data channel now.
pub(super) async fn say(
    State(api): State<Api>,
    Path((app, stream)): Path<(String, String)>,
    text: Bytes,
) -> Result<Json<Outcome>, ApiError> {
    let id = api.id(&app, &stream)?;
    if !api.hub.get(&id).is_some_and(|broadcast| broadcast.status() != Status::Ended) {
        return Err(ApiError::Unknown(id.to_string()));
    }
    api.engine.say(&id, false, text)?;
    Ok(Json(Outcome::done(stream)))
}

/// By a registry that answers: what was removed lingers in halls and in what nodes tell each other.
fn known(api: &Api, id: &BroadcastId, row: Option<BroadcastRow>) -> Option<BroadcastJson> {
    let here = api.hub.get(id).map(|here| (here.claimed_epoch(), here.status() == Status::Ended));
    let there = api.elsewhere(id).map(|there| (there.epoch, there.status.has_ended()));
    let (epoch, has_ended) = here.into_iter().chain(there).max_by_key(|(epoch, _)| *epoch).unwrap_or_default();
    match row {
        Some(row) if row.has_forgotten(epoch) => Some(describe_row(row)),
        None if has_ended => None,
        row => describe(api, id, row),
    }
}

/// The registry knows the past, the hub the present here, the cluster the present elsewhere.
fn describe(api: &Api, id: &BroadcastId, row: Option<BroadcastRow>) -> Option<BroadcastJson> {
    match (api.elsewhere(id), api.hub.get(id)) {
        // A hub keeps for a while what was published here before.
        (Some(located), here) if here.as_ref().is_none_or(|here| here.epoch() < located.epoch) => {
            Some(describe_elsewhere(api, id, &located, row))
        }
        (_, Some(broadcast)) => Some(describe_live(api, &broadcast, row)),
        (_, None) => row.map(describe_row),
    }
}

/// As much as is known without asking its owner.
fn describe_elsewhere(
    api: &Api,
    id: &BroadcastId,
    located: &cluster::Located,
    row: Option<BroadcastRow>,
) -> BroadcastJson {
    let mut json = describe_row(row.unwrap_or_default());
    json.stream_id = id.stream().to_owned();
    json.app = id.app().to_owned();
    json.status = match located.status {
        cluster::Status::Live | cluster::Status::Interrupted => BroadcastStatus::Broadcasting,
        cluster::Status::Finished => BroadcastStatus::Finished,
        cluster::Status::Terminated => BroadcastStatus::TerminatedUnexpectedly,
    };
    json.publisher_connected = located.status == cluster::Status::Live;
    json.origin_adress = api.cluster.as_ref().and_then(|cluster| cluster.host(&located.owner)).unwrap_or_default();
    let viewers = (api.viewers)(id);
    json.hls_viewer_count = viewers.hls;
    json.webrtc_viewer_count = viewers.webrtc;
    json
}

fn describe_live(api: &Api, broadcast: &Broadcast, row: Option<BroadcastRow>) -> BroadcastJson {
    let now_us = clock::now_us();
    let began_us = broadcast.epoch_began_us();
    let viewers = (api.viewers)(broadcast.id());
    let publisher = broadcast.publisher();
    let tracks = broadcast.tracks();
    let source = [Kind::Video, Kind::Audio].map(|kind| broadcast.source(kind));
    let received_bytes = source.iter().flatten().map(|track| track.stats().bytes).sum();
    let (width, height) = source[0].as_ref().and_then(|track| dimensions(track)).unwrap_or_default();
    let mut json = describe_row(row.unwrap_or_default());
    json.stream_id = broadcast.id().stream().to_owned();
    json.app = broadcast.id().app().to_owned();
    json.publisher_connected = broadcast.silent_for_us(now_us).is_some_and(|silent_us| silent_us < SILENT_US);
    if broadcast.status() != Status::Ended {
        json.status = BroadcastStatus::Broadcasting;
        json.update_time = now_us / 1000;
        json.duration = (now_us - began_us) / 1000;
    }
    json.origin_adress = api.cluster.as_ref().and_then(|cluster| cluster.host(cluster.me().id())).unwrap_or_default();
    json.publish_type = publish_type(publisher.protocol);
    json.remote_ip = ip_of(&publisher.remote);
    json.user_agent = publisher.agent;
    json.start_time = began_us / 1000;
    json.absolute_start_time_ms = began_us / 1000;
    json.hls_viewer_count = viewers.hls;
    json.webrtc_viewer_count = viewers.webrtc;
    json.received_bytes = received_bytes;
    json.bitrate = source.iter().flatten().map(|track| track.stats().bits_per_second).sum();
    (json.width, json.height) = (width, height);
    json.drop_packet_count_in_ingestion = broadcast.dropped();
    json.tracks = tracks.iter().map(|track| describe_track(track)).collect();
    json.delivery_path = DeliveryPaths {
        webrtc: paths(|kind| webrtc_path(broadcast, kind)),
        hls: paths(|kind| Some(broadcast.choose(kind, Delivery::Mp4)?.to_string())),
    };
    json
}

fn describe_row(row: BroadcastRow) -> BroadcastJson {
    let started_ms = row.started_ms.unwrap_or_default();
    BroadcastJson {
        stream_id: row.stream,
        app: row.app,
        status: row.status,
        r#type: "liveStream",
        publish_type: publish_type(&row.publish_type),
        name: row.details.name,
        description: row.details.description,
        meta_data: row.details.metadata,
        date: row.created_ms,
        start_time: started_ms,
        absolute_start_time_ms: started_ms,
        update_time: row.updated_ms,
        duration: row.ended_ms.map_or(0, |ended_ms| ended_ms - started_ms),
        mp4_enabled: row.record_override.map_or(0, |on| if on { 1 } else { -1 }),
        encoder_settings_list: row.details.ladder.map(|rungs| rungs.into_iter().map(EncoderSettings::from).collect()),
        listener_hook_url: row.details.listener_hook_url,
        hls_viewer_count: 0,
        webrtc_viewer_count: 0,
        rtmp_viewer_count: 0,
        dash_viewer_count: 0,
        origin_adress: String::new(),
        remote_ip: ip_of(&row.remote),
        user_agent: row.agent,
        received_bytes: 0,
        bitrate: 0,
        width: 0,
        height: 0,
        drop_frame_count_in_encoding: 0,
        drop_packet_count_in_ingestion: 0,
        zombi: false,
        is_virtual: false,
        publisher_connected: false,
        tracks: Vec::new(),
        delivery_path: DeliveryPaths::default(),
    }
}

/// As Ant Media spells it.
fn publish_type(protocol: &str) -> String {
    match protocol {
        "rtmp" | "rtmps" => "RTMP".to_owned(),
        "webrtc" => "WebRTC".to_owned(),
        other => other.to_owned(),
    }
}

fn ip_of(remote: &str) -> String {
    remote.parse::<SocketAddr>().map_or_else(|_| remote.to_owned(), |remote| remote.ip().to_string())
}

fn describe_track(track: &Track) -> TrackJson {
    let stats = track.stats();
    let info = track.info();
    let (width, height) = dimensions(track).unzip();
    let (sample_rate, channels) = match info.as_ref().map(|info| info.shape) {
        Some(Shape::Audio { sample_rate, channels }) => (Some(sample_rate), Some(channels)),
        _ => (None, None),
    };
    TrackJson {
        name: track.name().to_owned(),
        codec: info.as_ref().map(|info| info.codec.name()),
        codec_string: info.as_ref().map(|info| info.rfc6381()),
        width,
        height,
        sample_rate,
        channels,
        readers: stats.readers,
        frames: stats.frames,
        bytes: stats.bytes,
        skipped: stats.skipped,
        cache_bytes: stats.ring_bytes,
        waiting: track.waiting(),
    }
}

fn dimensions(track: &Track) -> Option<(u32, u32)> {
    match track.info()?.shape {
        Shape::Video { width, height, .. } => Some((width, height)),
        Shape::Audio { .. } => None,
    }
}

fn paths(path: impl Fn(Kind) -> Option<String>) -> BTreeMap<&'static str, String> {
    let named = [("video", Kind::Video), ("audio", Kind::Audio)];
    named.into_iter().filter_map(|(name, kind)| Some((name, path(kind)?))).collect()
}

/// What viewers get depends on what their browsers take: first those that take the source's codec, then all others.
fn webrtc_path(broadcast: &Broadcast, kind: Kind) -> Option<String> {
    let source = broadcast.source(kind)?.info()?.codec;
    let chosen = |peer| broadcast.choose(kind, Delivery::WebRtc(peer)).map(|choice| choice.to_string());
    let knowing = chosen(Accepts::EVERYTHING);
    let others = chosen(Accepts::EVERYWHERE);
    let where_taken = |knowing: String| format!("{knowing} where {} is taken", source.name());
    match (knowing, others) {
        (Some(knowing), Some(others)) if knowing != others => Some(format!("{}, else {others}", where_taken(knowing))),
        (Some(knowing), None) => Some(where_taken(knowing)),
        (_, others) => others,
    }
}
