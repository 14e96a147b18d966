//! One event as it is told: Ant Media's body, signed as Standard Webhooks (version 1.0) wants it. In: an event, what its broadcast is
//! called, a key. Out: a request. The body is the same however often it is sent, as long as nobody renames the broadcast; the
//! time in the headers, which is signed, is that of the try. Deliberately absent: form bodies, and fields that have no
//! meaning here (`mainTrackId`, `roomId`, `subscriberId`, `category`). Pure.

use aws_lc_rs::hmac;
use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};
use base64ct::{Base64, Encoding};
use headwater_common::{
    registry::{BroadcastStatus, Details, Event, Happening},
    store::Form,
};
use serde::Serialize;
use serde_json::Value;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const AGENT: &str = concat!("headwater/", env!("CARGO_PKG_VERSION"));
/// What is longer is left out: many requests are under way at once.
const METADATA_LENGTH_MAX: usize = 64 << 10;

/// Ant Media's fields; absent ones are left out, as there. Ours are `status`, `filePath` and `duration`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    id: &'a str,
    action: &'a str,
    app: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_name: Option<&'a str>,
    /// Without its ending.
    #[serde(skip_serializing_if = "Option::is_none")]
    vod_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vod_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_path: Option<String>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<i64>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<BroadcastStatus>,
    /// JSON if it is an object, else text.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    /// Milliseconds of the Unix epoch, as text.
    timestamp: String,
}

pub(super) fn body(stream: &str, app: &str, event: &Event, details: Option<&Details>) -> Bytes {
    let text = |text: &str| (!text.trim().is_empty()).then(|| text.to_owned());
    let metadata = details.and_then(|details| text(&details.metadata));
    let metadata = metadata.filter(|metadata| metadata.len() <= METADATA_LENGTH_MAX).map(|metadata| {
        serde_json::from_str(&metadata).ok().filter(Value::is_object).unwrap_or(Value::String(metadata))
    });
    let mut body = Body {
        id: stream,
        action: event.what.action(),
        app,
        stream_name: None,
        vod_name: None,
        vod_id: None,
        file_path: None,
        duration: None,
        status: None,
        metadata,
        timestamp: event.at_ms.to_string(),
    };
    match &event.what {
        Happening::VodReady { vod_id, file, duration_ms, .. } => {
            body.vod_name = Some(Form::stem(file));
            body.vod_id = Some(vod_id);
            body.file_path = Some(format!("streams/{file}"));
            body.duration = Some(*duration_ms);
        }
        of_broadcast => {
            body.stream_name = details.map(|details| details.name.as_str()).filter(|name| !name.trim().is_empty());
            if let Happening::LiveStreamEnded { status } = of_broadcast {
                body.status = Some(*status);
            }
        }
    }
    // Text and numbers always are JSON.
    serde_json::to_vec(&body).unwrap_or_default().into()
}

/// `key`: what it is signed with, if at all.
pub(super) fn headers(id: &str, now_s: i64, body: &[u8], key: Option<&[u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(TIMESTAMP, now_s.into());
    let signature = key.map(|key| signature(id, now_s, body, key));
    for (name, text) in [(ID, Some(id.to_owned())), (SIGNATURE, signature)] {
        // Hexadecimal and base64 fit into any header.
        headers.extend(text.and_then(|text| Some((name, HeaderValue::try_from(text).ok()?))));
    }
    headers
}

fn signature(id: &str, now_s: i64, body: &[u8], key: &[u8]) -> String {
    let mut signed = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    signed.update(format!("{id}.{now_s}.").as_bytes());
    signed.update(body);
    format!("v1,{}", Base64::encode_string(signed.sign().as_ref()))
}

#[cfg(test)]
mod tests {
    use headwater_common::registry::{Details, RecordingRow, RecordingState, VodId};
    use serde_json::json;

    use super::*;

    fn event(what: Happening) -> Event {
        Event { id: "msg_1".into(), at_ms: 1_700_000_000_123, tried_ms: None, what }
    }

    fn told(event: &Event, details: Option<Details>) -> Value {
        serde_json::from_slice(&body("s1", "live", event, details.as_ref())).unwrap()
    }

    #[test]
    fn bodies_are_those_of_ant_media() {
        let details =
            |metadata: &str| Some(Details { name: "Show".into(), metadata: metadata.into(), ..Details::default() });
        let started = event(Happening::LiveStreamStarted);
        let (id, app, timestamp) = ("s1", "live", "1700000000123");
        assert_eq!(
            told(&started, None),
            json!({ "id": id, "action": "liveStreamStarted", "app": app, "timestamp": timestamp })
        );
        assert_eq!(
            told(&started, details("{\"a\": [1]}")),
            json!({ "id": id, "action": "liveStreamStarted", "app": app, "timestamp": timestamp,
                "streamName": "Show", "metadata": { "a": [1] } })
        );
        for text in ["[1]", "{\"a\"", "free text"] {
            assert_eq!(told(&started, details(text))["metadata"], text);
        }
        assert_eq!(told(&started, details(&"x".repeat(METADATA_LENGTH_MAX + 1))).get("metadata"), None);
        let ended = event(Happening::LiveStreamEnded { status: BroadcastStatus::TerminatedUnexpectedly });
        assert_eq!(
            told(&ended, None),
            json!({ "id": id, "action": "liveStreamEnded", "app": app, "timestamp": timestamp,
                "status": "terminated_unexpectedly" })
        );
        let recording = RecordingRow {
            vod_id: VodId::parse("v7"),
            file: "s1_480p.mp4".into(),
            duration_ms: 4_000,
            state: RecordingState::Ready,
            ..RecordingRow::default()
        };
        let ready = Event { at_ms: started.at_ms, ..Event::of_recording(&recording, false, 1).unwrap() };
        assert_eq!(
            told(&ready, details("")),
            json!({ "id": id, "action": "vodReady", "app": app, "timestamp": timestamp, "vodName": "s1_480p",
                "vodId": "v7", "filePath": "streams/s1_480p.mp4", "duration": 4000 })
        );
    }

    /// The example that implementations of Standard Webhooks test each other with.
    #[test]
    fn requests_are_signed_as_everybody_signs_them() {
        let key = Base64::decode_vec("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let (id, now_s, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        let headers = headers(id, now_s, body, Some(&key));
        assert_eq!(headers["webhook-id"], id);
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(!super::headers(id, now_s, body, None).contains_key("webhook-signature"));
    }
}
