//! What a client is told, with the names that clients compare.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{ice_servers::IceServer, live::BroadcastId};

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    Pong,
    /// The publisher may send its offer.
    Start {
        stream_id: String,
    },
    TakeConfiguration {
        stream_id: String,
        r#type: &'static str,
        sdp: String,
        /// Of an offer: the stream that each section carries. The SDK looks it up for every track, without asking
        /// whether it is there.
        #[serde(skip_serializing_if = "Option::is_none")]
        id_mapping: Option<BTreeMap<String, String>>,
    },
    /// The SDK forgets its connection of this name, and does not try again as it does after any other end.
    Stop {
        stream_id: String,
    },
    IceServerConfig {
        stun_server_uri: String,
        turn_server_username: String,
        turn_server_credential: String,
    },
    StreamInformation {
        stream_id: String,
        stream_info: Vec<Rendition>,
    },
    TrackList {
        stream_id: String,
        track_list: Vec<String>,
    },
    Notification(Notification),
    Error {
        definition: Definition,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream_id: Option<String>,
        #[serde(rename = "error_code", skip_serializing_if = "Option::is_none")]
        error_code: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        information: Option<String>,
    },
}

/// One quality of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rendition {
    pub stream_width: u32,
    pub stream_height: u32,
    /// Bits per second, as is the next.
    pub video_bitrate: u64,
    pub audio_bitrate: u64,
    pub video_codec: &'static str,
}

/// What a viewer is sent, and what its path carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    pub target_bitrate: u64,
    pub video_bitrate: u64,
    pub audio_bitrate: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "definition", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Notification {
    PublishStarted {
        stream_id: String,
    },
    PublishFinished {
        stream_id: String,
    },
    PlayStarted {
        stream_id: String,
    },
    PlayFinished {
        stream_id: String,
    },
    /// What a client wanted to play before it was live is live.
    StreamingStarted {
        stream_id: String,
    },
    /// Of a played stream, every few seconds, in bits per second. Applications warn their user where the target is less
    /// than the other two together.
    #[serde(rename = "bitrateMeasurement")]
    BitrateMeasurement {
        stream_id: String,
        #[serde(flatten)]
        measured: Measured,
    },
    /// `broadcast` is the object that REST shows, as text.
    #[serde(rename = "broadcastObject")]
    BroadcastObject {
        stream_id: String,
        broadcast: String,
    },
    /// The SDK connects again at once: elsewhere, if the load balancer sees to that.
    ServerWillStop,
    /// The outcome of a push message (the SDK documents this shape, without a `success` elsewhere).
    #[serde(rename = "pushNotificationsNotSupported")]
    PushNotificationsNotSupported {
        success: bool,
        information: &'static str,
    },
}

/// What is wrong. The web player knows the ones that lead it to another way of playing; applications show all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Definition {
    #[serde(rename = "no_stream_exist")]
    NoStreamExist,
    #[serde(rename = "stream_not_exist_or_not_streaming")]
    NotStreaming,
    #[serde(rename = "noStreamNameSpecified")]
    NoStreamNameSpecified,
    #[serde(rename = "invalidStreamName")]
    InvalidStreamName,
    #[serde(rename = "streamIdInUse")]
    StreamIdInUse,
    #[serde(rename = "unauthorized_access")]
    Unauthorized,
    #[serde(rename = "already_publishing")]
    AlreadyPublishing,
    #[serde(rename = "already_playing")]
    AlreadyPlaying,
    #[serde(rename = "notSetRemoteDescription")]
    NotSetRemoteDescription,
    #[serde(rename = "publishTimeoutError")]
    PublishTimeout,
    #[serde(rename = "highResourceUsage")]
    HighResourceUsage,
    #[serde(rename = "data_store_not_available")]
    DataStoreNotAvailable,
    #[serde(rename = "no_active_streams_in_room")]
    NoActiveStreamsInRoom,
    #[serde(rename = "no_peer_associated_before")]
    NoPeerAssociatedBefore,
    #[serde(rename = "missingParameter")]
    MissingParameter,
    /// Ours: Ant Media is silent here, or has the feature.
    #[serde(rename = "commandNotSupported")]
    CommandNotSupported,
    #[serde(rename = "messageNotReadable")]
    MessageNotReadable,
}

impl Reply {
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("text, numbers and maps with text for keys")
    }

    pub(super) fn error(definition: Definition, stream: Option<&BroadcastId>, information: impl Into<String>) -> Self {
        let stream_id = stream.map(|id| id.stream().to_owned());
        Self::Error { definition, stream_id, error_code: None, information: Some(information.into()) }
    }

    /// `information` is what makes the web player wait for `streaming_started` instead of trying HLS.
    pub(super) fn no_stream(id: &BroadcastId, information: Option<&str>) -> Self {
        Self::Error {
            definition: Definition::NoStreamExist,
            stream_id: Some(id.stream().to_owned()),
            error_code: Some("404"),
            information: information.map(str::to_owned),
        }
    }

    /// The SDK takes one server, and only URLs that begin with `turn:` or `stun:`; a TURN server serves for both.
    pub(super) fn ice_server(servers: &[IceServer]) -> Self {
        let addresses = || servers.iter().flat_map(|server| server.urls.iter().map(move |url| (url, &server.login)));
        let best = ["turn:", "stun:"].iter().find_map(|kind| addresses().find(|(url, _)| url.starts_with(kind)));
        let url = best.map(|(url, _)| url.clone()).unwrap_or_default();
        let login = best.and_then(|(_, login)| login.clone());
        let (username, credential) = login.map(|login| (login.username, login.credential)).unwrap_or_default();
        Self::IceServerConfig {
            stun_server_uri: url,
            turn_server_username: username,
            turn_server_credential: credential,
        }
    }
}
