//! The WebRTC sessions of a broadcast, its publisher's among them: what each is sent, how its network does.
//!
//! In: requests. Out: pages of numbers that the engine refreshes every few seconds, under Ant Media's names where it has
//! one. Not for everybody: addresses are personal, and who knows a session's id may end it. Deliberately absent:
//! sessions that are over.

use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};
use headwater_common::rtc::{Role, SessionStats};
use serde::Serialize;

use super::{Api, ApiError, NO_STORE, PAGE_MAX};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionJson {
    client_id: String,
    role: Role,
    /// False while the connection is being made.
    connected: bool,
    client_ip: String,
    age_ms: u64,
    /// Bits per second over the last few seconds.
    send_bitrate: u64,
    receive_bitrate: u64,
    /// What the way to the client is estimated to carry, and the rate that room is being looked for.
    measured_bitrate: Option<u64>,
    target_bitrate: Option<u64>,
    /// What a viewer is held to, because its path carries less than it is sent.
    limit_bitrate: Option<u64>,
    /// Lines of the layer that a viewer is sent where the publisher sends several, what that takes, and how often it
    /// was another one than before.
    layer_height: Option<u32>,
    layer_bitrate: Option<u64>,
    layer_switches: u64,
    /// Pictures that would have come too late.
    skipped_frames: u64,
    bytes_sent: u64,
    bytes_received: u64,
    packets_sent: u64,
    /// Of its data channel: told to it, said by it, and lost either way.
    messages_sent: u64,
    messages_received: u64,
    messages_dropped: u64,
    packet_lost_percent: Option<f32>,
    jitter_ms: Option<f32>,
    round_trip_time_ms: Option<f32>,
    /// Packets that the client asked for again.
    nack_count: u64,
    /// Keyframes that the client asked for, or was asked for.
    key_frame_requests: u64,
    candidate_pair: CandidatePair,
}

/// Empty until one was chosen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CandidatePair {
    protocol: &'static str,
    local: String,
    remote: String,
}

pub(super) async fn list(
    State(api): State<Api>,
    Path((app, stream, offset, size)): Path<(String, String, usize, usize)>,
) -> Result<impl IntoResponse, ApiError> {
    let id = api.id(&app, &stream)?;
    let mut sessions = api.engine.sessions(&id);
    sessions.sort_by_key(|session| session.began_us);
    let page = sessions.into_iter().skip(offset).take(size.min(PAGE_MAX));
    Ok(([NO_STORE], Json(page.map(describe).collect::<Vec<_>>())))
}

fn describe(session: SessionStats) -> SessionJson {
    let client_ip = session.remote.rsplit_once(':').map_or("", |(ip, _)| ip.trim_matches(['[', ']'])).to_owned();
    SessionJson {
        client_id: session.id,
        role: session.role,
        connected: session.connected,
        client_ip,
        age_ms: session.age_ms,
        send_bitrate: session.send_bps,
        receive_bitrate: session.receive_bps,
        measured_bitrate: session.estimate_bps,
        target_bitrate: session.target_bps,
        limit_bitrate: session.limit_bps,
        layer_height: session.layer_height,
        layer_bitrate: session.layer_bps,
        layer_switches: session.layer_switches,
        skipped_frames: session.skipped,
        bytes_sent: session.bytes_sent,
        bytes_received: session.bytes_received,
        packets_sent: session.packets_sent,
        messages_sent: session.messages_sent,
        messages_received: session.messages_received,
        messages_dropped: session.messages_dropped,
        packet_lost_percent: session.lost_percent,
        jitter_ms: session.jitter_ms,
        round_trip_time_ms: session.rtt_ms,
        nack_count: session.nacks,
        key_frame_requests: session.plis + session.keyframes_asked,
        candidate_pair: CandidatePair { protocol: session.protocol, local: session.local, remote: session.remote },
    }
}
