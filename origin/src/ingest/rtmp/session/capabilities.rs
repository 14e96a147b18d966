//! What the answer to `connect` says about us: the classic constants, and enhanced RTMP to those who asked for it.
//!
//! Enhanced RTMP v1 knows `fourCcList`, v2 adds the maps and `capsEx` ("Enhancing NetConnection connect Command"). Each
//! property is answered where the client sent it, with what this server takes, so that an encoder offers its user no
//! codec that would be thrown away here.

use crate::ingest::rtmp::amf::{Properties, Value};

const VIDEO: [&str; 5] = ["avc1", "hvc1", "av01", "vp09", "vp08"];
const AUDIO: [&str; 2] = ["Opus", "mp4a"];
/// FourCcInfoMask: we neither decode nor encode.
const CAN_FORWARD: f64 = 4.0;
/// CapsExMask: reconnect requests, ModEx and its nanoseconds. Not more than one track.
const RECONNECT: u32 = 0x01;
const CAPS_EX: u32 = RECONNECT | 0x04 | 0x08;

/// Whether a client understands [`reconnect_request`](super::reply::Replies::reconnect_request).
pub(super) fn reconnects(asked: &Value) -> bool {
    let mask = asked.get("capsEx").and_then(Value::as_number).unwrap_or(0.0);
    mask as u32 & RECONNECT != 0
}

/// The first object of the answer.
pub(super) fn server() -> Value {
    Value::object([
        // FMLE and its descendants look for a Flash Media Server of at least version 3.
        ("fmsVer", "FMS/3,5,7,7009".into()),
        ("capabilities", 31.0.into()),
        ("mode", 1.0.into()),
    ])
}

/// The second one.
pub(super) fn connected(asked: &Value) -> Value {
    let mut properties: Properties = vec![
        ("level".into(), "status".into()),
        ("code".into(), "NetConnection.Connect.Success".into()),
        ("description".into(), "Connection succeeded.".into()),
        // AMF0 is what we answer in, so that is what clients should go on in.
        ("objectEncoding".into(), 0.0.into()),
    ];
    let info =
        |codecs: &[&str]| Value::Object(codecs.iter().map(|&codec| (codec.into(), Value::from(CAN_FORWARD))).collect());
    let answers = [
        ("fourCcList", Value::Array(VIDEO.iter().chain(&AUDIO).map(|&codec| codec.into()).collect())),
        ("videoFourCcInfoMap", info(&VIDEO)),
        ("audioFourCcInfoMap", info(&AUDIO)),
        ("capsEx", f64::from(CAPS_EX).into()),
    ];
    properties.extend(
        answers.into_iter().filter(|(name, _)| asked.get(name).is_some()).map(|(name, value)| (name.into(), value)),
    );
    Value::Object(properties)
}
