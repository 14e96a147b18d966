//! One function per parser that reads what strangers send. Each takes any bytes, must not panic on them, and checks
//! what must hold whatever they are. A fuzz target is one call of these.

use bytes::{Bytes, BytesMut};

use crate::ingest::rtmp::{amf, chunk, flv, session};

/// Bytes behind the handshake: however they arrive, the same events happen and memory stays bounded.
pub fn rtmp_session(data: &[u8]) {
    let whole = session_events(data, usize::MAX);
    assert_eq!(session_events(data, 1), whole);
    assert_eq!(session_events(data, piece(data)), whole);
}

pub fn chunks(data: &[u8]) {
    let whole = chunk_messages(data, usize::MAX);
    assert_eq!(chunk_messages(data, 1), whole);
    assert_eq!(chunk_messages(data, piece(data)), whole);
}

pub fn amf0(data: &[u8]) {
    let Ok(values) = amf::decode_amf0(data) else { return };
    check_bounds(&values);
    let _ = amf::encode(&values);
}

pub fn amf3(data: &[u8]) {
    if let Ok(values) = amf::decode_amf3(data) {
        check_bounds(&values);
    }
}

/// Audio and video: no payload is larger than the body, and offsets stay below a millisecond.
pub fn flv_tag(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    for read in [flv::video, flv::audio] {
        match read(&body).map(|body| body.tag) {
            Ok(flv::Tag::Frame { payload, offset_us, composition_us, .. }) => {
                assert!(!payload.is_empty() && payload.len() < data.len());
                assert!((0..1000).contains(&offset_us));
                assert!(composition_us.abs() <= 1000 << 23);
            }
            Ok(flv::Tag::Config { record, .. }) => assert!(!record.is_empty() && record.len() < data.len()),
            _ => {}
        }
    }
}

/// A piece length the input itself chooses.
fn piece(data: &[u8]) -> usize {
    data.last().map_or(1, |&byte| usize::from(byte) + 2)
}

fn session_events(data: &[u8], piece: usize) -> Vec<String> {
    let (mut session, mut input, mut events) = (session::Session::new(), BytesMut::new(), Vec::new());
    for piece in data.chunks(piece.min(data.len()).max(1)) {
        input.extend_from_slice(piece);
        loop {
            let event = session.next_event(&mut input);
            // By their text, because numbers in metadata may be NaN.
            match event {
                Ok(None) => break,
                Ok(Some(event)) => {
                    events.push(format!("{event:?}"));
                    if matches!(event, session::Event::PublishRequested(_)) {
                        session.accept_publish();
                    }
                }
                Err(error) => {
                    events.push(format!("{error}"));
                    assert!(!session.take_output().is_empty(), "the peer is told");
                    return events;
                }
            }
            assert!(session.partial_bytes() <= chunk::PARTIAL_BYTES_MAX);
        }
        // A refusal of play is the longest answer to the shortest question.
        assert!(session.take_output().len() <= 1024 + 64 * data.len());
    }
    events
}

fn chunk_messages(data: &[u8], piece: usize) -> (Vec<chunk::Message>, Option<chunk::Error>) {
    let (mut reader, mut input, mut messages) = (chunk::Reader::default(), BytesMut::new(), Vec::new());
    for piece in data.chunks(piece.min(data.len()).max(1)) {
        input.extend_from_slice(piece);
        loop {
            match reader.read(&mut input) {
                Ok(None) => break,
                Ok(Some(message)) => messages.push(message),
                Err(error) => return (messages, Some(error)),
            }
            assert!(reader.partial_bytes() as u64 <= reader.consumed());
        }
    }
    assert!(messages.iter().map(|message| message.payload.len()).sum::<usize>() <= data.len());
    assert_eq!(reader.consumed() as usize + input.len(), data.len());
    (messages, None)
}

fn check_bounds(values: &[amf::Value]) {
    fn measure(value: &amf::Value) -> (usize, usize) {
        let inner: &mut dyn Iterator<Item = &amf::Value> = match value {
            amf::Value::Array(values) => &mut values.iter(),
            amf::Value::Object(properties) => &mut properties.iter().map(|(_, value)| value),
            _ => &mut std::iter::empty(),
        };
        inner.map(measure).fold((1, 1), |(count, depth), (c, d)| (count + c, depth.max(d + 1)))
    }
    let (count, depth) = values.iter().map(measure).fold((0, 0), |(count, depth), (c, d)| (count + c, depth.max(d)));
    // A dictionary's pairs are values that were not sent as such.
    assert!(count <= 2 * amf::ELEMENTS_MAX && depth <= 2 * amf::DEPTH_MAX, "{count} values, {depth} deep");
}

#[cfg(test)]
mod tests;
