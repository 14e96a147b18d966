//! What an RTMP publisher's bytes go through: chunks, FLV tags, and AMF at the beginning.

use bytes::{BufMut, Bytes, BytesMut};
use divan::{Bencher, counter::BytesCount};
use headwater_origin::ingest::rtmp::{
    amf::{self, Value},
    chunk::{Message, Reader, Writer, kind},
    flv,
};

use crate::stream::{FRAME_US, gop};

/// A gop as video messages.
fn messages() -> Vec<Message> {
    let messages = gop().into_iter().enumerate().map(|(index, sample)| {
        let mut body = BytesMut::new();
        body.put_slice(&[if sample.keyframe { 0x17 } else { 0x27 }, 1, 0, 0, 0]);
        body.put_slice(&sample.payload);
        let timestamp_ms = index as i64 * FRAME_US / 1000;
        Message { timestamp_ms, kind: kind::VIDEO, stream_id: 1, payload: body.freeze() }
    });
    messages.collect()
}

/// A gop as chunks: of 128 bytes as long as nobody says otherwise, 4,096 as OBS sends, 65,536 as FFmpeg may.
#[divan::bench(args = [128, 4096, 65536])]
fn read_chunks_of_gop(bencher: Bencher<'_, '_>, chunk_bytes: u32) {
    let mut writer = Writer::default();
    let mut wire = BytesMut::new();
    let size = Bytes::copy_from_slice(&chunk_bytes.to_be_bytes());
    writer.write(2, &Message { timestamp_ms: 0, kind: kind::SET_CHUNK_SIZE, stream_id: 0, payload: size }, &mut wire);
    writer.set_chunk_size(chunk_bytes);
    let messages = messages();
    for message in &messages {
        writer.write(6, message, &mut wire);
    }
    bencher.counter(BytesCount::new(wire.len())).with_inputs(|| wire.clone()).bench_local_values(|mut input| {
        let mut reader = Reader::default();
        let mut read = 0;
        while let Some(message) = reader.read(&mut input).expect("our own chunks") {
            divan::black_box(&message);
            read += 1;
        }
        assert_eq!(read, messages.len());
    });
}

#[divan::bench]
fn parse_flv_video_tag(bencher: Bencher<'_, '_>) {
    let body = messages().remove(1).payload;
    bencher.bench_local(|| flv::video(divan::black_box(&body)).expect("a valid tag"));
}

#[divan::bench]
fn decode_amf0_metadata(bencher: Bencher<'_, '_>) {
    let metadata = Value::object([
        ("duration", 0.0.into()),
        ("width", 1280.0.into()),
        ("height", 720.0.into()),
        ("videocodecid", 7.0.into()),
        ("videodatarate", 1080.0.into()),
        ("framerate", 30.0.into()),
        ("audiocodecid", 10.0.into()),
        ("audiodatarate", 96.0.into()),
        ("audiosamplerate", 48_000.0.into()),
        ("encoder", "obs-output module (libobs version 29.0.2)".into()),
    ]);
    let bytes = amf::encode(&["@setDataFrame".into(), "onMetaData".into(), metadata]);
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| amf::decode_amf0(&bytes).expect("our own values"));
}
