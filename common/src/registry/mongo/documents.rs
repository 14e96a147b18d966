//! Rows as documents, with the names that Ant Media's operators query by. Pure.

use mongodb::bson::{self, DateTime, Document};
use serde::{Deserialize, Serialize};

use crate::{
    ladder::Rung,
    registry::{
        BroadcastRow, BroadcastStatus, Details, Event, Life, NodeRow, ObjectRow, RecordingRow, RecordingState, Takes,
        VodId, takes::Asked,
    },
};

/// `app/name`, neither half of which can contain a slash.
pub(super) fn key(app: &str, name: &str) -> String {
    format!("{app}/{name}")
}

/// All keys of an application: `0` follows `/`.
pub(super) fn keys_of(app: &str) -> Document {
    bson::doc! { "_id": { "$gte": format!("{app}/"), "$lt": format!("{app}0") } }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BroadcastDocument {
    #[serde(rename = "_id")]
    id: String,
    /// Grows with every write: whoever changes a row says which one it has read.
    pub(super) revision: i64,
    app: String,
    stream_id: String,
    status: BroadcastStatus,
    #[serde(default)]
    epoch: i64,
    #[serde(default)]
    epoch_floor: i64,
    #[serde(default)]
    owner: String,
    #[serde(default)]
    incarnation: i64,
    #[serde(default)]
    silent: bool,
    #[serde(default)]
    born_us: i64,
    segment_target_s: Option<u32>,
    #[serde(default)]
    next_gop: i64,
    #[serde(default)]
    discontinuity: i64,
    #[serde(default)]
    publish_type: String,
    #[serde(default)]
    remote_ip: String,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    date: i64,
    start_time: Option<i64>,
    #[serde(default)]
    update_time: i64,
    end_time: Option<i64>,
    record_override: Option<bool>,
    #[serde(default)]
    recordings: Vec<Asked>,
    recordings_until: Option<i64>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    meta_data: String,
    encoder_settings_list: Option<Vec<Rung>>,
    #[serde(default, rename = "listenerHookURL")]
    listener_hook_url: String,
    #[serde(default)]
    webhook: bool,
    #[serde(default)]
    events: Vec<Event>,
    /// There are some. Absent otherwise, so that few are looked at.
    untold: Option<bool>,
}

impl BroadcastDocument {
    pub(super) fn new(row: BroadcastRow, revision: i64) -> Self {
        Self {
            id: key(&row.app, &row.stream),
            revision,
            app: row.app,
            stream_id: row.stream,
            status: row.status,
            epoch: signed(row.epoch),
            epoch_floor: signed(row.floor),
            owner: row.owner.node,
            incarnation: signed(row.owner.incarnation),
            silent: row.silent,
            born_us: row.born_us,
            segment_target_s: row.segment_target_s,
            next_gop: signed(row.next_gop),
            discontinuity: signed(row.discontinuity),
            publish_type: row.publish_type,
            remote_ip: row.remote,
            user_agent: row.agent,
            date: row.created_ms,
            start_time: row.started_ms,
            update_time: row.updated_ms,
            end_time: row.ended_ms,
            record_override: row.record_override,
            recordings: row.takes.asked,
            recordings_until: row.takes.until_ms,
            name: row.details.name,
            description: row.details.description,
            meta_data: row.details.metadata,
            encoder_settings_list: row.details.ladder,
            listener_hook_url: row.details.listener_hook_url,
            webhook: row.webhook,
            untold: (!row.events.is_empty()).then_some(true),
            events: row.events,
        }
    }

    pub(super) fn row(self) -> BroadcastRow {
        BroadcastRow {
            app: self.app,
            stream: self.stream_id,
            status: self.status,
            epoch: unsigned(self.epoch),
            floor: unsigned(self.epoch_floor),
            owner: Life { node: self.owner, incarnation: unsigned(self.incarnation) },
            silent: self.silent,
            born_us: self.born_us,
            segment_target_s: self.segment_target_s,
            next_gop: unsigned(self.next_gop),
            discontinuity: unsigned(self.discontinuity),
            publish_type: self.publish_type,
            remote: self.remote_ip,
            agent: self.user_agent,
            created_ms: self.date,
            started_ms: self.start_time,
            updated_ms: self.update_time,
            ended_ms: self.end_time,
            record_override: self.record_override,
            takes: Takes { asked: self.recordings, until_ms: self.recordings_until },
            webhook: self.webhook,
            events: self.events,
            details: Details {
                name: self.name,
                description: self.description,
                metadata: self.meta_data,
                ladder: self.encoder_settings_list,
                listener_hook_url: self.listener_hook_url,
            },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VodDocument {
    #[serde(rename = "_id")]
    pub(super) id: String,
    vod_id: String,
    app: String,
    stream_id: String,
    stream_name: String,
    vod_name: String,
    file_path: String,
    r#type: String,
    process_status: String,
    /// Why it failed, or will be failed once the bucket has it.
    #[serde(default)]
    description: String,
    object: Option<ObjectRow>,
    #[serde(default)]
    node: String,
    #[serde(default)]
    epoch: i64,
    #[serde(default)]
    start_time: i64,
    creation_date: Option<i64>,
    #[serde(default)]
    duration: i64,
    #[serde(default)]
    file_size: i64,
    #[serde(default)]
    frames_lost: i64,
    #[serde(default)]
    gaps: u32,
    #[serde(default)]
    missing_duration: i64,
    #[serde(default)]
    events: Vec<Event>,
    untold: Option<bool>,
}

pub(super) const RECORDING: &str = "recording";
pub(super) const FINALISING: &str = "finalising";
pub(super) const UPLOADING: &str = "uploading";
const READY: &str = "ready";
const FAILED: &str = "failed";

impl VodDocument {
    pub(super) fn new(row: RecordingRow) -> Self {
        let (process_status, description) = match row.state {
            RecordingState::Recording => (RECORDING, String::new()),
            RecordingState::Finalising => (FINALISING, String::new()),
            RecordingState::Uploading { defect } => (UPLOADING, defect.unwrap_or_default()),
            RecordingState::Ready => (READY, String::new()),
            RecordingState::Failed { reason } => (FAILED, reason),
        };
        Self {
            id: key(&row.app, row.vod_id.as_str()),
            vod_id: row.vod_id.to_string(),
            app: row.app,
            stream_name: row.stream.clone(),
            stream_id: row.stream,
            file_path: format!("streams/{}", row.file),
            vod_name: row.file,
            r#type: "streamVod".to_owned(),
            process_status: process_status.to_owned(),
            description,
            object: row.object,
            node: row.node,
            epoch: signed(row.epoch),
            start_time: row.started_ms,
            creation_date: row.created_ms,
            duration: row.duration_ms,
            file_size: signed(row.bytes),
            frames_lost: signed(row.frames_lost),
            gaps: row.gaps,
            missing_duration: row.missing_ms,
            untold: (!row.events.is_empty()).then_some(true),
            events: row.events,
        }
    }

    pub(super) fn row(self) -> RecordingRow {
        let state = match self.process_status.as_str() {
            RECORDING => RecordingState::Recording,
            FINALISING => RecordingState::Finalising,
            UPLOADING => {
                RecordingState::Uploading { defect: Some(self.description).filter(|defect| !defect.is_empty()) }
            }
            READY => RecordingState::Ready,
            _ => RecordingState::Failed { reason: self.description },
        };
        RecordingRow {
            vod_id: VodId::parse(&self.vod_id),
            app: self.app,
            stream: self.stream_id,
            file: self.vod_name,
            state,
            node: self.node,
            epoch: unsigned(self.epoch),
            started_ms: self.start_time,
            created_ms: self.creation_date,
            duration_ms: self.duration,
            bytes: unsigned(self.file_size),
            frames_lost: unsigned(self.frames_lost),
            gaps: self.gaps,
            missing_ms: self.missing_duration,
            object: self.object,
            events: self.events,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeDocument {
    #[serde(rename = "_id")]
    id: String,
    incarnation: i64,
    ip: String,
    role: String,
    phase: String,
    version: String,
    grpc: String,
    http: String,
    changes: i64,
    #[serde(default)]
    pub(super) beat: i64,
    #[serde(default)]
    vouched: i64,
    /// The server's clock.
    pub(super) last_update_time: DateTime,
}

impl NodeDocument {
    /// What its node says of itself; the rest is counted by the server.
    pub(super) fn said(row: &NodeRow) -> Document {
        bson::doc! {
            "incarnation": signed(row.life.incarnation),
            "ip": &row.ip,
            "role": &row.role,
            "phase": &row.phase,
            "version": &row.version,
            "grpc": &row.grpc,
            "http": &row.http,
            "changes": signed(row.changes),
        }
    }

    pub(super) fn row(self) -> NodeRow {
        NodeRow {
            life: Life { node: self.id, incarnation: unsigned(self.incarnation) },
            ip: self.ip,
            role: self.role,
            phase: self.phase,
            version: self.version,
            grpc: self.grpc,
            http: self.http,
            changes: unsigned(self.changes),
            beat: unsigned(self.beat),
            vouched: unsigned(self.vouched),
            updated_ms: self.last_update_time.timestamp_millis(),
        }
    }
}

/// Numbers here stay below 2^63: counters, and incarnations by their definition.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// For `$set`: everything but the key.
pub(super) fn fields<T: Serialize>(document: &T) -> Result<Document, bson::error::Error> {
    let mut fields = bson::serialize_to_document(document)?;
    fields.remove("_id");
    Ok(fields)
}

/// Any text, as a part of what is searched for.
pub(super) fn literally(text: &str) -> Document {
    let mut pattern = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if !c.is_alphanumeric() {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    bson::doc! { "$regex": pattern }
}
