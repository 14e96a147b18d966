//! A short walk with a fixed seed, so that every build has called the parsers with nonsense.

use super::*;
use crate::ingest::rtmp::amf::Value;
use crate::ingest::rtmp::chunk::{Message, Writer, kind};

/// xorshift: the same nonsense on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// Mostly small numbers, which lead further into parsers than large ones.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| if self.below(3) == 0 { self.below(256) as u8 } else { self.below(24) as u8 }).collect()
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(6) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => drop(bytes.drain(at..(at + 1 + self.below(8)).min(bytes.len()))),
                _ => bytes.insert(at, self.below(256) as u8),
            }
            if bytes.is_empty() {
                return;
            }
        }
    }
}

fn sample_session() -> Vec<u8> {
    let command = |values: &[Value]| amf::encode(values);
    let connect = Value::object([("app", "live".into()), ("fourCcList", Value::Array(vec!["av01".into()]))]);
    let metadata = Value::object([("width", 1280.0.into()), ("when", Value::Date(1.0))]);
    let tag = [9, 0, 0, 3, 0, 0, 5, 0, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0, 14];
    let messages = [
        (kind::COMMAND_AMF0, command(&["connect".into(), 1.0.into(), connect])),
        (kind::SET_CHUNK_SIZE, vec![0, 0, 0, 200]),
        (kind::COMMAND_AMF0, command(&["createStream".into(), 2.0.into(), Value::Null])),
        (kind::COMMAND_AMF0, command(&["publish".into(), 3.0.into(), Value::Null, "key?a=b".into()])),
        (kind::DATA_AMF0, command(&["@setDataFrame".into(), "onMetaData".into(), metadata])),
        (kind::USER_CONTROL, vec![0, 6, 0, 0, 0, 1]),
        (kind::WINDOW_ACK_SIZE, vec![0, 0, 64, 0]),
        (kind::VIDEO, vec![0x17; 500]),
        (kind::DATA_AMF3, vec![3, 0x06, 0x05, b'h', b'i', 0x09, 0x03, 0x01, 0x02]),
        (kind::AGGREGATE, tag.repeat(4)),
        (kind::AUDIO, vec![0xaf; 300]),
        (kind::COMMAND_AMF0, command(&["deleteStream".into(), 4.0.into(), Value::Null, 1.0.into()])),
    ];
    let (mut writer, mut out) = (Writer::default(), BytesMut::new());
    for (i, (kind, payload)) in messages.into_iter().enumerate() {
        let timestamp_ms = 0xff_fff0 + 9 * i as i64;
        let message = Message { timestamp_ms, kind, stream_id: 1, payload: payload.into() };
        writer.write(3 + kind % 4, &message, &mut out);
        if kind == kind::SET_CHUNK_SIZE {
            writer.set_chunk_size(200);
        }
    }
    out.to_vec()
}

#[test]
fn nonsense_never_panics() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..4000 {
        let length = random.below(200);
        let bytes = random.bytes(length);
        rtmp_session(&bytes);
        chunks(&bytes);
        amf0(&bytes);
        amf3(&bytes);
        flv_tag(&bytes);
    }
}

#[test]
fn a_damaged_session_never_panics() {
    let sample = sample_session();
    rtmp_session(&sample);
    let whole = session_events(&sample, usize::MAX);
    assert!(whole.last().is_some_and(|event| event == "Unpublished"), "{whole:?}");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..1500 {
        let mut bytes = sample.clone();
        random.damage(&mut bytes);
        rtmp_session(&bytes);
        chunks(&bytes);
    }
}

#[test]
fn damaged_tags_never_panic() {
    let samples: [&[u8]; 5] = [
        &[0x17, 1, 0, 0, 66, 1, 2, 3],
        b"\x91hvc1\x00\x00\x21au",
        b"\xa7\x02\x07\xa1\x20\x03avc1au",
        b"\x96\x13avc1\x00\x00\x00\x02au\x01\x00\x00\x03low",
        b"\x95\x21mp4a\x01\x00\x00\x01xOpus\x00\x00\x00\x01o",
    ];
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..20_000 {
        let mut bytes = samples[random.below(samples.len())].to_vec();
        random.damage(&mut bytes);
        flv_tag(&bytes);
    }
}
